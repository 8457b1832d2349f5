"""What a further pass over a batch begins with, leaves behind, holds in memory and refuses, in a user's own fit."""

import copy
import gc
import signal
import threading
import weakref
from collections import deque
from types import SimpleNamespace

import pytest
import tiny
import torch
from lightning.pytorch import Callback
from torch.nn.functional import cross_entropy
from torch.nn.utils import spectral_norm

from lightning_gap import ExactAccumulation, SharpnessAwareMinimization
from lightning_gap.callbacks._plugin import Plugin


class Passes(Plugin):
    """Take a second pass and a third, and keep the rise of the loss in each."""

    def __init__(self, move=0.0, sees="step"):
        self.rises, self.move, self.sees = [], move, sees

    def change_gradient(self, trainer, pl_module, again):
        weights = list(pl_module.parameters())
        before = [weight.detach().clone() for weight in weights]
        for _ in range(2):
            with torch.no_grad():
                for weight in weights:
                    weight += self.move * weight.requires_grad
            self.rises.append(float(again()))
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)


def fit(*callbacks, module, samples=46, batch_size=8, **options):
    trainer = tiny.trainer(*callbacks, **({"precision": "64-true", "max_epochs": 1} | options))
    trainer.fit(module, tiny.loader(samples, batch_size=batch_size))
    return trainer


class Keeps(tiny.TinyClassifier):
    """Whose loss depends on all that its training step keeps: a queue, a generator, a list, a number, a metric."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.net[0] = spectral_norm(self.net[0])
        self.register_buffer("queue", torch.zeros(3))
        self.generator = torch.Generator().manual_seed(1)
        self.outputs, self.recent, self.known = [], deque(maxlen=2), {}
        self.centre, self.steps = torch.zeros(3), 0
        self.shown = SimpleNamespace(losses=[])  # in an object of the user's own: of every pass

    def training_step(self, batch, batch_idx):
        scores = self(batch[0])
        self.queue += scores.detach().mean(0)
        self.centre.mul_(0.9).add_(scores.detach().mean(0), alpha=0.1)
        noise = torch.rand(3, generator=self.generator)
        loss = cross_entropy(scores + self.queue + self.centre + noise * len(self.outputs) + self.steps, batch[1])
        self.outputs.append(loss.detach())
        self.recent.append(loss.detach())
        self.known[batch_idx] = loss.detach()
        self.steps += 1
        self.last = loss.detach()
        self.shown.losses.append(loss.item())
        return loss


@pytest.mark.parametrize("sees", ["step", "micro_batch"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_further_pass_begins_as_the_first_one_and_leaves_what_that_has_left(accumulate, sees):
    plain, module, plugin = Keeps(), Keeps(), Passes(sees=sees)
    fit(module=plain, accumulate_grad_batches=accumulate)
    fit(plugin, module=module, accumulate_grad_batches=accumulate)
    assert plugin.rises == [0.0] * len(plugin.rises)
    assert len(module.shown.losses) == 3 * len(plain.shown.losses) == 18
    # A micro-batch's gradient is multiplied by its share and divided again.
    torch.testing.assert_close(tiny.state_of(module), tiny.state_of(plain), rtol=1e-12, atol=1e-14)
    for name in ("outputs", "known", "centre", "steps", "last"):
        torch.testing.assert_close(getattr(module, name), getattr(plain, name), rtol=1e-12, atol=1e-14)
    assert list(module.recent) == module.outputs[-2:]
    assert torch.equal(module.generator.get_state(), plain.generator.get_state())


class Teacher(tiny.TinyClassifier):
    """With a moving average of itself, updated as one of the public implementations does it."""

    def __init__(self, update):
        super().__init__(dropout=0.0)
        self.update = update
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        pairs = zip(self.teacher.parameters(), self.net.parameters(), strict=True)
        for own, other in pairs:
            if self.update == "in place":
                with torch.no_grad():
                    own.mul_(0.9).add_(other, alpha=0.1)
            elif self.update == "through data":
                own.data.mul_(0.9).add_(other.data, alpha=0.1)
            elif self.update == "by data":
                own.data = own.data * 0.9 + other.data * 0.1
        return super().training_step(batch, batch_idx) + (self(batch[0]) - self.teacher(batch[0])).square().mean()


@pytest.mark.parametrize("update", ["in place", "through data", "by data"])
def test_a_teacher_that_the_training_step_moves_is_refused(update):
    with pytest.raises(ValueError, match=r"training_step writes to teacher\.\d\.\w+, which is not trained"):
        fit(Passes(), module=Teacher(update), samples=48)
    fit(Passes(), module=Teacher("never"))


@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize(
    ("accumulate", "samples"), [(1, 14), (4, 26), (4, 42)]
)  # of batches of 8: short ones at the end
def test_the_rise_is_that_of_the_mean_loss(accumulate, samples, weighed):
    plugin, others = Passes(move=0.05), [ExactAccumulation()] if weighed else []
    torch.manual_seed(0)
    module = tiny.TinyClassifier(dropout=0.0)
    fit(plugin, *others, module=module, samples=samples, accumulate_grad_batches=accumulate, max_steps=1)
    torch.manual_seed(0)
    fresh = tiny.TinyClassifier(dropout=0.0).double()
    batches = [(x.double(), y) for x, y in tiny.loader(samples, batch_size=8)][:accumulate]

    def mean():
        losses = [cross_entropy(fresh(x), y).item() for x, y in batches]
        counts = [len(y) if weighed else 1 for _, y in batches]
        return sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)

    found = [mean()]
    for _ in range(2):
        with torch.no_grad():
            for weight in fresh.parameters():
                weight += 0.05
        found.append(mean())
    assert plugin.rises[:2] == pytest.approx([value - found[0] for value in found[1:]], rel=1e-9)


def test_the_rise_of_a_short_last_window_is_that_of_its_batches():
    """Lightning divides the loss of each of its batches by as many as the other windows have."""
    whole, short = Passes(move=0.05), Passes(move=0.05)
    for plugin, accumulate in ((whole, 1), (short, 3)):
        torch.manual_seed(0)
        module = tiny.TinyClassifier(dropout=0.0)
        fit(plugin, module=module, samples=8, accumulate_grad_batches=accumulate)
    assert short.rises == pytest.approx(whole.rises)


@pytest.mark.parametrize("sees", ["step", "micro_batch"])
def test_batches_are_let_go_without_the_garbage_collector(sees):
    alive, most = [], []

    class Counts(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            if not any(reference() is batch[0] for reference in alive):
                alive.append(weakref.ref(batch[0]))
            most.append(sum(reference() is not None for reference in alive))
            return super().training_step(batch, batch_idx)

    gc.collect()
    gc.disable()
    try:
        fit(Passes(sees=sees), module=Counts(), samples=96, accumulate_grad_batches=3)
    finally:
        gc.enable()
    assert len(alive) == 12
    assert max(most) <= (4 if sees == "step" else 2)  # those of a step; Lightning itself holds the next one


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_batch_that_a_further_pass_skips_adds_nothing_to_it():
    class Skips(tiny.TinyClassifier):
        def __init__(self):
            super().__init__(dropout=0.0)
            self.shown = SimpleNamespace(passes=0)

        def training_step(self, batch, batch_idx):
            self.shown.passes += 1
            return None if self.shown.passes % 6 == 4 else super().training_step(batch, batch_idx)

    module, plugin = Skips(), Passes()
    fit(plugin, module=module, samples=32, accumulate_grad_batches=2)
    assert module.shown.passes == 12
    assert plugin.rises == [0.0] * 4
    assert all(weight.isfinite().all() for weight in module.parameters())


def test_what_cannot_be_passed_over_twice_is_told_of_before_the_plugin_begins():
    class Writes(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            batch[0].div_(2)
            return super().training_step(batch, batch_idx)

    module = Writes()
    before = tiny.state_of(module)
    with pytest.raises(ValueError, match="training_step writes to its batch"):
        fit(SharpnessAwareMinimization(start=0.9), module=module, precision="32-true")
    assert all(torch.equal(before[name], weight) for name, weight in module.named_parameters())


def test_plugins_that_come_to_see_different_gradients_are_refused_then():
    """Where the user's own callback accumulates, of which nothing is known before."""

    class Accumulates(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            trainer.accumulate_grad_batches = 1 + trainer.current_epoch

    options = {"module": tiny.TinyClassifier(), "samples": 48, "max_epochs": 3}
    with pytest.raises(ValueError, match=r"Passes those of each step and SharpnessAwareMinimization .*micro-batch"):
        fit(Passes(), SharpnessAwareMinimization(m=8), Accumulates(), **options)


def test_ctrl_c_while_a_pass_ends_leaves_the_module_as_the_first_pass_did(monkeypatch):
    from lightning_gap.callbacks import _same_module

    module, passes = tiny.TinyClassifier(dropout=0.0), []
    write = _same_module._write

    def sends(tensor, value):
        write(tensor, value)
        passes.append(tensor)
        if len(passes) == 5:  # amid the buffers that are put back
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(_same_module, "_write", sends)
    assert threading.current_thread() is threading.main_thread()
    plain = tiny.TinyClassifier(dropout=0.0)
    fit(module=plain, limit_train_batches=1)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(Passes(), module=module, limit_train_batches=1)
    assert len(passes) >= 6
    buffers = dict(plain.named_buffers())
    assert all(torch.equal(buffers[name], buffer) for name, buffer in module.named_buffers())
    assert "log" not in vars(module)
