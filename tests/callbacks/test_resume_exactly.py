"""A run resumes exactly with `ResumeExactly` alone; tests/contract drives it and the callbacks that do the same."""

import pytest
import tiny
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_gap import ExactAccumulation, LearningRateScaling, ResumableLoader, ResumeExactly
from lightning_gap.trainer import resume

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


class Reads(tiny.Validated):
    """Reads what makes Lightning build the loader before it restores it (Lightning issue 20550)."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches > 0
        return super().configure_optimizers()


def fit(*callbacks, ckpt_path=None, **options):
    torch.manual_seed(0)
    module = Reads()
    trainer = tiny.trainer(*callbacks, **({"max_epochs": 3} | options))
    loader = ResumableLoader(tiny.dataset(44), batch_size=8, shuffle=True)
    trainer.fit(module, loader, tiny.loader(24, seed=2), ckpt_path=ckpt_path)
    return tiny.state_of(module), {key: float(value) for key, value in trainer.callback_metrics.items()}


def saved(folder, *callbacks):
    saves = ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1, save_on_train_epoch_end=False)
    return fit(*callbacks, saves, enable_checkpointing=True)


@pytest.mark.parametrize("step", [4, 6, 12, 17])  # inside an epoch, with the last batch of one, and of the next
def test_it_alone_lets_a_run_end_as_if_it_had_not_been_stopped(tmp_path, step):
    whole, logged = saved(tmp_path, ResumeExactly())
    resumed, again = fit(ResumeExactly(), ckpt_path=tmp_path / f"step={step}.ckpt")
    assert tiny.same(whole, resumed)
    assert logged["loss_epoch"] == again["loss_epoch"]


def test_without_it_the_same_run_ends_elsewhere(tmp_path):
    whole, _ = saved(tmp_path)
    resumed, _ = fit(ckpt_path=tmp_path / "step=4.ckpt")
    assert not tiny.same(whole, resumed)


def test_beside_others_that_do_the_same_it_is_done_once(tmp_path, monkeypatch):
    def callbacks():
        return [ExactAccumulation(), ResumeExactly(), LearningRateScaling(8, warmup_epochs=1)]

    whole, logged = saved(tmp_path, *callbacks())
    calls = []
    fix = resume.fix_resume_progress
    monkeypatch.setattr("lightning_gap.callbacks._run.fix_resume_progress", lambda *args: (calls.append(1), fix(*args)))
    resumed, again = fit(*reversed(callbacks()), ckpt_path=tmp_path / "step=4.ckpt")
    assert tiny.same(whole, resumed)
    assert logged["loss_epoch"] == again["loss_epoch"]
    assert len(calls) == 1
