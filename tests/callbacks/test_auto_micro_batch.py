"""``max_micro_batch="auto"``: halved while memory runs out, before the first step; nothing of the failures is left."""

import pytest
import tiny
import torch
from torch.utils.data import DataLoader, IterableDataset

from lightning_gap import BatchSizeScheduler, InMemoryLoader, ResumableLoader, ResumableStream

DATA = tiny.dataset(64)
LOADERS = {
    "memory": lambda: InMemoryLoader(DATA.tensors, batch_size=4, shuffle=True, reseed=True),
    "resumable": lambda: ResumableLoader(DATA, batch_size=4, shuffle=True),
    "stream": lambda: ResumableStream(DATA, batch_size=4),
    "map": lambda: DataLoader(DATA, batch_size=4),
}


class Greedy(tiny.TinyClassifier):
    """Runs out of memory with more samples than it takes, late, when it has changed all that it can."""

    def __init__(self, takes, **options):
        super().__init__(**options)
        self.takes, self.batches, self.tries = takes, [], []

    def training_step(self, batch, batch_idx):
        self.tries.append(len(batch[0]))  # part of the module's state: put back, too
        loss = super().training_step(batch, batch_idx)
        torch.rand(3)
        if len(batch[0]) > self.takes:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.batches.append(len(batch[0]))
        return loss


def fit(kind, takes, limit, *, unit="steps", norm=False, **options):
    module = Greedy(takes, dropout=0.0)
    if not norm:
        module.net[1] = torch.nn.Identity()
    module.double()
    scheduler = BatchSizeScheduler({0: 16, 1 if unit == "epochs" else 3: 32}, unit=unit, max_micro_batch=limit)
    trainer = tiny.trainer(scheduler, max_epochs=2, precision="64-true")
    trainer.fit(module, LOADERS[kind](), **options)
    return module, trainer


@pytest.mark.parametrize(
    ("kind", "unit"), [("memory", "steps"), ("stream", "steps"), ("resumable", "epochs"), ("map", "epochs")]
)
def test_it_halves_until_it_fits_for_the_same_weights(kind, unit):
    found, trainer = fit(kind, 9, "auto", unit=unit)
    assert max(found.batches) == 8
    assert found.batches == found.tries
    whole, _ = fit(kind, 99, None, unit=unit)
    assert max(whole.batches) == 32
    assert trainer.callback_metrics.keys() >= {"loss_epoch"}
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], weight, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["memory", "resumable", "stream"])
def test_nothing_of_the_failed_attempts_is_left(kind):
    """The run ends as one that was told the size that fits, to the bit: buffers and random numbers included."""
    found, first = fit(kind, 9, "auto", norm=True)
    told, second = fit(kind, 9, 8, norm=True)
    assert tiny.same(tiny.state_of(found), tiny.state_of(told))
    assert first.callback_metrics.keys() == second.callback_metrics.keys()
    assert all(torch.equal(value, second.callback_metrics[key]) for key, value in first.callback_metrics.items())


def test_a_run_that_fits_is_left_as_it_is():
    assert tiny.same(tiny.state_of(fit("memory", 99, "auto")[0]), tiny.state_of(fit("memory", 99, None)[0]))


def test_a_resumed_run_splits_as_before(tmp_path):
    _, trainer = fit("memory", 9, "auto")
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    module = Greedy(99, dropout=0.0)
    module.net[1] = torch.nn.Identity()
    scheduler = BatchSizeScheduler({0: 16, 3: 32}, unit="steps", max_micro_batch="auto")
    tiny.trainer(scheduler, max_epochs=3, precision="64-true").fit(
        module, LOADERS["memory"](), ckpt_path=tmp_path / "end.ckpt"
    )
    assert set(module.batches) == {8}


class Other(IterableDataset):
    def __iter__(self):
        return iter(DATA)


@pytest.mark.parametrize(
    ("loader", "takes", "message"),
    [
        (LOADERS["memory"], 0, "max_micro_batch='auto': not even a micro-batch of one sample"),
        (LOADERS["map"], 3, "max_micro_batch='auto': 4 samples do not fit .* smaller batch_size"),
        (lambda: DataLoader(Other(), batch_size=4), 99, "max_micro_batch='auto' tries batches of any size"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_the_first_step(loader, takes, message, monkeypatch):
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *args, **kwargs: pytest.fail("a step was taken"))
    scheduler = BatchSizeScheduler({0: 4, 2: 8}, unit="steps", max_micro_batch="auto")
    module = Greedy(takes)
    module.net[1] = torch.nn.Identity()
    with pytest.raises(ValueError, match=message):
        tiny.trainer(scheduler).fit(module, loader())


def test_another_error_is_the_users_own():
    class Broken(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        tiny.trainer(BatchSizeScheduler({0: 8}, unit="steps", max_micro_batch="auto")).fit(
            Broken(), LOADERS["memory"]()
        )


@pytest.mark.parametrize("value", ["all", 0, -1, 2.5, True])
def test_only_auto_is_a_word(value):
    with pytest.raises(ValueError, match="max_micro_batch"):
        BatchSizeScheduler({0: 8}, max_micro_batch=value)
