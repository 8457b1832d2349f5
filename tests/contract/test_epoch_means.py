"""What a module logs of an epoch counts also where it was logged before the run was stopped and resumed."""

import epoch_means as training
import processes
import pytest
import tiny
import torch

from lightning_gap import BatchSizeScheduler, ExactAccumulation, LearningRateScaling
from lightning_gap.trainer import epoch_means

pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, training.train(folder)


def assert_same_rows(whole, resumed, step):
    """Of the epochs that were not over, to the bit."""
    (rows, at_end), (found, found_at_end) = whole, resumed
    over = (step - 1) // training.STEPS  # one that ends with this step is not: its means are logged after the last
    assert found == {(key, epoch): row for (key, epoch), row in rows.items() if epoch >= over}
    assert found_at_end == at_end


@pytest.mark.parametrize("step", range(1, 2 * training.STEPS + 1))
def test_resumed_after_any_step_the_epoch_has_the_mean_sum_and_extremes_of_the_whole(run, step):
    folder, whole = run
    assert_same_rows(whole, training.train(None, ckpt_path=folder / f"step={step}.ckpt"), step)


def test_the_mean_is_that_of_the_samples_of_the_epoch(run):
    rows, _ = run[1]
    for epoch in (0, 1):
        assert rows["number", epoch] == (training.STEPS * (epoch + 1) - 1, (training.SAMPLES - 1) / 2)
        assert rows["begun", epoch][1] == 3.0 + epoch


@pytest.mark.parametrize("make", [lambda: ExactAccumulation(), lambda: BatchSizeScheduler({0: 8, 1: 16})])
def test_each_callback_that_mends_resuming_mends_this(tmp_path, make):
    both = [LearningRateScaling(rule="none", warmup_epochs=0)]
    whole = training.train(tmp_path, make())
    resumed = training.train(None, make(), *both, ckpt_path=tmp_path / "step=4.ckpt")
    assert resumed[1] == whole[1]
    assert {key: resumed[0][key, 0] for key in training.KEYS} == {key: whole[0][key, 0] for key in training.KEYS}


def test_a_resumed_run_can_be_resumed_in_its_turn(run, tmp_path):
    folder, whole = run
    for step, here, there in (
        (2, folder, tmp_path / "1"),
        (3, tmp_path / "1", tmp_path / "2"),
        (5, tmp_path / "2", None),
    ):
        assert_same_rows(whole, training.train(there, ckpt_path=here / f"step={step}.ckpt"), step)


def test_a_module_that_logs_in_other_terms_since_is_let_go_on(run):
    folder, whole = run

    class Edited(training.Logs):
        terms = {"prog_bar": True}  # noqa: RUF012

    class Sums(training.Logs):
        terms = {"reduce_fx": "sum"}  # noqa: RUF012

    checkpoint = folder / "step=4.ckpt"
    assert_same_rows(whole, training.train(None, ckpt_path=checkpoint, module=Edited()), 4)
    rows, _ = training.train(None, ckpt_path=checkpoint, module=Sums())
    others = [key for key in training.KEYS if key != "mean"]
    assert {key: rows[key, 0] for key in others} == {key: whole[0][key, 0] for key in others}
    assert rows["mean", 0][1] < whole[0]["sum", 0][1]  # no sum of what was gathered for a mean


def test_the_checkpoint_holds_plain_types_and_none_of_it_at_the_end_of_an_epoch(run, tmp_path):
    folder, _ = run
    (share,) = torch.load(folder / "step=3.ckpt", weights_only=True)["lightning_gap.epoch"]
    assert {key.split(".")[1] for key in share} == {*training.KEYS, "loss"} - {"loss_epoch"}
    trainer = tiny.trainer(LearningRateScaling(rule="none", warmup_epochs=0), max_epochs=1)
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    assert "lightning_gap.epoch" not in torch.load(tmp_path / "end.ckpt", weights_only=True)


def test_a_checkpoint_that_was_only_validated_does_not_count_in_a_new_fit(run):
    folder, whole = run
    callback = LearningRateScaling(rule="none", warmup_epochs=0)
    trainer = tiny.trainer(callback)
    trainer.validate(training.Logs(), tiny.loader(24, seed=2), ckpt_path=folder / "step=4.ckpt", verbose=False)
    torch.manual_seed(0)
    loader = training.ResumableLoader(training.Numbered(), batch_size=8, shuffle=True)
    trainer.fit(training.Logs(), loader, tiny.loader(24, seed=2))
    assert {key: float(trainer.callback_metrics[key]) for key in training.KEYS} == whole[1]


def test_a_lightning_whose_parts_have_other_names_does_as_it_does_alone(run, tmp_path, monkeypatch):
    folder, whole = run
    monkeypatch.setattr(epoch_means, "_PLAIN", (*epoch_means._PLAIN, "renamed"))
    with pytest.warns(UserWarning, match=r"lost when the run is resumed.*renamed"):
        assert training.train(tmp_path) == whole
    with pytest.warns(UserWarning, match=r"lost when the run is resumed.*renamed"):
        rows, _ = training.train(None, ckpt_path=folder / "step=4.ckpt")
    assert rows["mean", 1] == whole[0]["mean", 1]
    assert rows["mean", 0] != whole[0]["mean", 0]


@pytest.mark.slow
def test_each_of_two_processes_has_its_own_share_and_one_that_goes_on_alone_has_both(tmp_path):
    processes.run(training.__file__, tmp_path)
    found = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1)]
    for sync in (True, False):
        for rank in found:
            whole, resumed = rank[sync]
            assert all(at_end == whole[1] for _, at_end in resumed.values())
        whole, resumed = found[0][sync]
        for step, again in resumed.items():
            assert_same_rows(whole, again, step)
    whole, _ = found[0][True][0]
    alone, _ = training.train(None, ckpt_path=tmp_path / "True" / "step=2.ckpt")
    assert alone["number", 0][1] == pytest.approx(whole["number", 0][1], rel=1e-6)
    assert alone["number", 0][1] == pytest.approx((training.SAMPLES - 1) / 2, rel=1e-6)
    assert alone["lowest", 0][1] == whole["lowest", 0][1] == 0
