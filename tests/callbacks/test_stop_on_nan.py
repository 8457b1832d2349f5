"""A run ends before the step that would spoil its weights, and names what led there."""

import math

import pytest
import tiny
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_gap import LearningRateScaling, StopOnNaN


class Spoilt(tiny.TinyClassifier):
    """The loss, or the gradient alone, of one batch is no number."""

    def __init__(self, *, at=4, value=math.nan, gradient_only=False, **options):
        super().__init__(**options)
        self.at, self.value, self.gradient_only, self.batches = at, value, gradient_only, 0

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.batches += 1
        if self.batches - 1 != self.at:
            return loss
        if self.gradient_only:
            weight = self.net[0].weight
            return loss + (weight * 0).abs().sqrt().sum()  # 0, whose derivative is infinite
        return loss + self.value


def fit(module, *callbacks, **options):
    with pytest.raises(FloatingPointError) as error:
        tiny.trainer(*callbacks, **options).fit(module, tiny.loader())
    return str(error.value)


@pytest.mark.promise("nan")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_weights_are_those_before_the_step(value, accumulate):
    plain = tiny.TinyClassifier(dropout=0.0)
    steps = 4 // accumulate  # of three batches an epoch, the fifth is spoilt
    tiny.trainer(max_steps=steps, accumulate_grad_batches=accumulate, max_epochs=-1).fit(plain, tiny.loader())
    module = Spoilt(value=value, dropout=0.0)
    told = fit(module, StopOnNaN(), accumulate_grad_batches=accumulate)
    assert all(torch.equal(weight, plain.get_parameter(name)) for name, weight in module.named_parameters())
    assert f"the loss is {value}" in told
    assert f"in step {steps} (epoch 1), at learning rate 0.05 and batch size {16 * accumulate}" in told


@pytest.mark.promise("nan")
def test_a_gradient_that_is_no_number_ends_it_too():
    module = Spoilt(gradient_only=True, at=1)
    told = fit(module, StopOnNaN())
    assert "the gradient's largest entry is" in told
    assert "the loss is" not in told
    assert all(weight.isfinite().all() for weight in module.parameters())


def test_a_gradient_whose_squares_overflow_is_a_number():
    class Steep(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * 1e25

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-26)

    module = Steep()
    tiny.trainer(StopOnNaN(), max_epochs=1).fit(module, tiny.loader())
    largest = max(weight.grad.abs().max() for weight in module.parameters())
    assert largest.isfinite()
    assert largest.square().isinf()


def test_it_names_the_rate_that_is_applied_and_the_last_checkpoint(tmp_path):
    module, saver = Spoilt(), ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
    told = fit(module, StopOnNaN(), LearningRateScaling(8, warmup_epochs=0), saver, enable_checkpointing=True)
    assert "at learning rate 0.1 and batch size 16" in told
    assert repr(str(tmp_path / "epoch=1-step=4.ckpt")) in told
    assert all(value.isfinite().all() for value in torch.load(tmp_path / "epoch=1-step=4.ckpt")["state_dict"].values())


def test_a_run_without_fault_is_left_to_the_bit():
    with_it, without = tiny.TinyClassifier(), tiny.TinyClassifier()
    for module, callbacks in ((with_it, [StopOnNaN()]), (without, [])):
        torch.manual_seed(0)
        tiny.trainer(*callbacks).fit(module, tiny.loader())
    assert tiny.same(tiny.state_of(with_it), tiny.state_of(without))


class ByHand(Spoilt):
    """Steps by itself, with two optimizers and sparse gradients."""

    def __init__(self):
        super().__init__(at=1)
        self.automatic_optimization = False
        self.table = nn.Embedding(3, 3, sparse=True)

    def training_step(self, batch, batch_idx):
        loss = super().training_step((batch[0], batch[1]), batch_idx) + self.table(batch[1]).square().mean()
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net, self.table)]


@pytest.mark.promise("nan")
def test_manual_optimization_and_sparse_gradients():
    module = ByHand()
    assert "the loss is nan" in fit(module, StopOnNaN())
    assert all(weight.isfinite().all() for weight in module.parameters())
