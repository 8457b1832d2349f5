# ruff: noqa: NPY002 - the global generator is what users have, and what must not be moved
"""What a user's training_step does besides computing a loss does not happen when a monitor calls it."""

import random
from collections import deque

import numpy as np
import pytest
import tiny
import torch
import torchmetrics
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lightning_gap import GeneralizationGapMonitor, SharpnessMonitor

pytestmark = pytest.mark.filterwarnings("ignore:Found 1 module.* in eval mode at the start of training")


class Busy(tiny.Validated):
    """Counts, collects, draws random numbers of every kind, updates metrics, averages weights, writes to the logger."""

    def __init__(self):
        super().__init__()
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(num_classes=3)
        self.calls, self.losses, self.recent, self.seen = 0, [], deque(maxlen=3), {"total": 0}
        self.running = torch.zeros(3)
        self.average = nn.Parameter(torch.zeros(16, 8), requires_grad=False)
        self.register_buffer("steps", torch.zeros(()))
        self.net[3].eval()  # the user froze a part

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx) + 0.0 * (random.random() + np.random.rand() + torch.rand(()))
        self.accuracy(self(batch[0]), batch[1])
        self.log("accuracy", self.accuracy, on_epoch=True, on_step=False)
        self.calls += 1
        self.first = getattr(self, "first", float(loss.detach()))
        self.losses.append(loss.detach())
        self.recent.append(loss.detach())
        self.seen["total"] += len(batch[1])
        self.running += 1
        self.steps += 1
        with torch.no_grad():
            self.average.lerp_(self.net[0].weight, 0.1)
        if self.logger:
            self.logger.experiment.add_scalar("user/loss", float(loss.detach()), self.calls)
        return loss


def fit(*callbacks, **options):
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    module = Busy()
    trainer = tiny.trainer(*callbacks, **options)
    trainer.fit(module, tiny.loader(shuffle=True), tiny.loader(24, seed=2))
    return trainer, module


@pytest.mark.promise("trace")
@pytest.mark.parametrize("make", [SharpnessMonitor, GeneralizationGapMonitor])
def test_everything_the_step_touches_is_as_without_the_monitor(make, tmp_path):
    logs = [tmp_path / "plain", tmp_path / "seen"]
    plain, a = fit(logger=TensorBoardLogger(logs[0], name="", version=""))
    seen, b = fit(make(), logger=TensorBoardLogger(logs[1], name="", version=""))
    assert all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())
    assert (a.calls, a.seen, a.first) == (b.calls, b.seen, b.first) == (6, {"total": 96}, a.first)
    assert torch.equal(torch.stack(a.losses), torch.stack(b.losses))
    assert list(a.recent) == list(b.recent)
    assert torch.equal(a.running, b.running)
    assert not b.net[3].training
    for key, value in plain.callback_metrics.items():
        assert torch.equal(value, seen.callback_metrics[key]), key
    scalars = [EventAccumulator(str(log)).Reload().Scalars("user/loss") for log in logs]
    assert [(s.step, s.value) for s in scalars[0]] == [(s.step, s.value) for s in scalars[1]]


@pytest.mark.promise("trace")
@pytest.mark.parametrize("make", [SharpnessMonitor, GeneralizationGapMonitor])
def test_random_numbers_go_on_as_without_the_monitor(make):
    after = []
    for callbacks in ((), (make(),)):
        fit(*callbacks)
        after.append((random.random(), np.random.rand(), float(torch.rand(()))))
    assert after[0] == after[1]


class Snapshot(Callback):
    """Listed before the monitor: keeps the weights that it found."""

    def on_train_epoch_end(self, trainer, pl_module):
        self.weights = tiny.state_of(pl_module)


@pytest.mark.promise("exception")
@pytest.mark.parametrize("failing", [1, 2, 5])
def test_an_exception_while_measuring_leaves_the_module_as_it_was(failing):
    evaluations = []  # outside of the module, whose own state every evaluation finds as it was

    class Fails(Busy):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            if not self.training and self.global_step == 3:  # three batches, then the monitor's calls
                evaluations.append(batch_idx)
                if len(evaluations) == failing:
                    raise RuntimeError("user's own")
            return loss

    module, snapshot = Fails(), Snapshot()
    with pytest.raises(RuntimeError, match="user's own"):
        tiny.trainer(snapshot, SharpnessMonitor(chunk_size=16)).fit(module, tiny.loader(), tiny.loader(24, seed=2))
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in snapshot.weights.items())
    assert module.calls == 3
    assert "log" not in vars(module)
    assert not module.net[3].training
