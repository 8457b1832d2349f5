"""Stability training in a user's own fit, against a loop by hand in float64 with the noise that the module saw."""

from types import SimpleNamespace
from unittest import mock

import pytest
import tiny
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap import ExactAccumulation, SharpnessAwareMinimization, StabilityTraining


class Net(tiny.TinyClassifier):
    """Shows the inputs of each forward, by which a loop can be given the same noise."""

    def __init__(self, dropout=0.0):
        super().__init__(dropout=dropout)
        self.shown = SimpleNamespace(inputs=[])  # as an attribute of the module they would be those of the first pass

    @property
    def inputs(self):
        return self.shown.inputs

    def forward(self, inputs):
        if self.training:
            self.inputs.append(inputs.clone())
        return super().forward(inputs)


def fit(*callbacks, module=None, samples=46, **options):
    module = module or Net()
    trainer = tiny.trainer(*callbacks, **({"precision": "64-true", "max_epochs": 1} | options))
    trainer.fit(module, tiny.loader(samples, batch_size=8))
    return trainer, module


def by_hand(noisy_inputs, strength, *, clip):
    """Steps over three batches each, of at most 8 samples, weighed by them."""
    module = Net().double().train()
    optimizer, noisy = module.configure_optimizers(), iter(noisy_inputs)
    batches = [(x.double(), y) for x, y in tiny.loader(46, batch_size=8)]
    divergences = []
    for window in (batches[:3], batches[3:]):
        samples = sum(len(y) for _, y in window)
        divergences.append(0.0)
        optimizer.zero_grad()
        for x, y in window:
            scores = module(x)
            statistics = {name: buffer.clone() for name, buffer in module.named_buffers()}
            p, q = scores.log_softmax(1), module(next(noisy)).log_softmax(1)
            divergence = (p.exp() * (p - q)).sum(1).mean()
            ((cross_entropy(scores, y) + strength * divergence) * len(y) / samples).backward()
            with torch.no_grad():
                for name, buffer in module.named_buffers():
                    buffer.copy_(statistics[name])
            divergences[-1] += divergence.item() / len(window)
        if clip is not None:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        optimizer.step()
    return tiny.state_of(module), divergences


@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_fit_is_the_loop_by_hand(clip):
    plugin = StabilityTraining(0.3, strength=2.0)
    options = {"accumulate_grad_batches": 3, "gradient_clip_val": clip, "log_every_n_steps": 1}
    trainer, module = fit(plugin, ExactAccumulation(), **options)
    # A window of three: three clean batches, then each once more, followed by itself with noise.
    seen = [module.inputs[start : start + 9] for start in (0, 9)]
    assert len(module.inputs) == 18
    noisy = [inputs for window in seen for inputs in window[4::2]]
    clean = [inputs for window in seen for inputs in window[3::2]]
    expected, divergences = by_hand(noisy, 2.0, clip=clip)
    torch.testing.assert_close(tiny.state_of(module), expected, rtol=1e-11, atol=1e-13)
    assert float(trainer.callback_metrics["stability/divergence"]) == pytest.approx(divergences[-1], rel=1e-9)
    noise = torch.cat([(far - near).flatten() for far, near in zip(noisy, clean, strict=True)])
    assert abs(float(noise.mean())) < 4 * 0.3 / len(noise) ** 0.5
    assert float(noise.std()) == pytest.approx(0.3, rel=4 / (2 * len(noise)) ** 0.5)


def test_dropout_is_shared_and_seeds_decide_the_noise():
    """With almost no noise the two predictions are one, as they are only under the same dropout."""
    trainer, _ = fit(StabilityTraining(1e-9), module=Net(dropout=0.5), log_every_n_steps=1)
    assert abs(float(trainer.callback_metrics["stability/divergence"])) < 1e-12
    states = [tiny.state_of(fit(StabilityTraining(0.5, 1.0, seed=seed))[1]) for seed in (0, 1, 0)]
    assert tiny.same(states[0], states[2])
    assert not tiny.same(states[0], states[1])


def test_sharpness_aware_minimization_perturbs_the_loss_with_its_divergence():
    plugins = [SharpnessAwareMinimization(0.1), StabilityTraining(0.5, 1.0, seed=4)]
    _, module = fit(*plugins, samples=8)
    *_, clean, noisy, clean_again, noisy_again = module.inputs
    assert torch.equal(clean, clean_again)
    assert torch.equal(noisy, noisy_again)  # the same noise at both points
    fresh = Net().double().train()
    optimizer, weights = fresh.configure_optimizers(), list(fresh.parameters())
    (x, y), start = next(iter(tiny.loader(8, batch_size=8))), [weight.detach().clone() for weight in weights]

    def slopes():
        scores = fresh(x.double())
        p, q = scores.log_softmax(1), fresh(noisy).log_softmax(1)
        loss = cross_entropy(scores, y) + (p.exp() * (p - q)).sum(1).mean()
        return torch.autograd.grad(loss, weights)

    first = slopes()
    length = torch.cat([slope.flatten() for slope in first]).norm()
    with torch.no_grad():
        for weight, slope in zip(weights, first, strict=True):
            weight += 0.1 * slope / length
    second = slopes()
    with torch.no_grad():
        for weight, slope, value in zip(weights, second, start, strict=True):
            weight.copy_(value)
            weight.grad = slope
    optimizer.step()
    torch.testing.assert_close(list(module.parameters()), weights, rtol=1e-11, atol=1e-13)


class Twice(Net):
    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0]) + self(batch[0]), batch[1])


class Detached(Net):
    """Its scores have no graph, as those of a part inside a reentrant checkpoint."""

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self(batch[0])
        return cross_entropy(self.net(batch[0]), batch[1])


class Never(Net):
    def training_step(self, batch, batch_idx):
        return cross_entropy(self.net(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (Twice, {}, "Twice for each batch, and got 2 outputs; .*outputs='...'"),
        (Detached, {}, "Detached for each batch, and got a Tensor without a graph; .*outputs='...'"),
        (Never, {}, "Never for each batch, and got 0 outputs; .*outputs='...'"),
        (Net, {"outputs": "head"}, "outputs='head' is no part of Net; its parts are .*net"),
        (Net, {"inputs": 1}, "inputs=1 of a batch, .*int64"),
    ],
)
def test_what_it_cannot_work_with_is_refused_before_the_first_step(module, arguments, message):
    module = module()
    before = tiny.state_of(module)
    with pytest.raises(ValueError, match=message):
        fit(StabilityTraining(**arguments), module=module, precision="32-true")
    assert all(torch.equal(before[name], weight) for name, weight in module.named_parameters())
    assert not [part for part in module.modules() if part._forward_hooks]


def test_a_part_can_be_named():
    _, named = fit(StabilityTraining(0.5, 1.0, outputs="net"))
    assert tiny.same(tiny.state_of(named), tiny.state_of(fit(StabilityTraining(0.5, 1.0))[1]))


@pytest.mark.filterwarnings("ignore:It is recommended to use `self.log")
def test_under_ddp_the_scores_are_those_of_the_module_and_not_its_loss():
    expected = tiny.state_of(fit(StabilityTraining(0.5, 1.0))[1])
    try:
        with mock.patch.dict("os.environ"):
            _, module = fit(StabilityTraining(0.5, 1.0), strategy="ddp", devices=1, use_distributed_sampler=False)
    finally:
        torch.distributed.destroy_process_group()
    torch.testing.assert_close(tiny.state_of(module), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("arguments", [{"sigma": 0}, {"strength": -1}, {"outputs": 3}, {"inputs": -1}, {"seed": 0.5}])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=f"^{next(iter(arguments))} must"):
        StabilityTraining(**arguments)
