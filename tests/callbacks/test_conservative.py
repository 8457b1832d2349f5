"""Conservative training in a user's own fit, against inner steps by hand in float64."""

import pytest
import tiny
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap import ConservativeTraining, LearningRateScaling, SharpnessAwareMinimization


class Adam(tiny.TinyClassifier):
    def __init__(self):
        super().__init__(dropout=0.3)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(*callbacks, module=None, **options):
    module = module or Adam()
    trainer = tiny.trainer(*callbacks, **({"precision": "64-true"} | options))
    torch.manual_seed(5)
    trainer.fit(module, tiny.loader(48, batch_size=16))
    return trainer, tiny.state_of(module)


def by_hand(strength, inner_steps, keep_moments, clip, rate=1.0):
    module = Adam().double()
    optimizer = module.configure_optimizers()
    optimizer.param_groups[0]["lr"] *= rate
    torch.manual_seed(5)
    for _ in range(2):
        for inputs, targets in tiny.loader(48, batch_size=16):
            if not keep_moments:
                optimizer.state.clear()
            anchor = [weight.detach().clone() for weight in module.parameters()]
            random, after_first = torch.get_rng_state(), None
            for step in range(inner_steps):
                torch.set_rng_state(random)
                optimizer.zero_grad()
                cross_entropy(module(inputs.double()), targets).backward()
                if step == 0:
                    after_first = torch.get_rng_state()
                    buffers = [buffer.clone() for buffer in module.buffers()]
                for weight, held in zip(module.parameters(), anchor, strict=True):
                    weight.grad += strength * (weight.detach() - held)
                if clip is not None:
                    nn.utils.clip_grad_norm_(module.parameters(), clip)
                optimizer.step()
            torch.set_rng_state(after_first)
            with torch.no_grad():
                for buffer, value in zip(module.buffers(), buffers, strict=True):
                    buffer.copy_(value)
    return tiny.state_of(module)


@pytest.mark.parametrize("keep_moments", [True, False])
@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize(("strength", "inner_steps"), [(0.5, 3), (0.0, 2), (1.0, 1)])
def test_a_fit_is_the_loop_by_hand(strength, inner_steps, keep_moments, clip):
    plugin = ConservativeTraining(strength, inner_steps=inner_steps, keep_moments=keep_moments)
    trainer, found = fit(plugin, gradient_clip_val=clip)
    torch.testing.assert_close(found, by_hand(strength, inner_steps, keep_moments, clip), rtol=1e-12, atol=1e-13)
    assert trainer.global_step == 6


def test_a_scaled_learning_rate_reaches_every_inner_step():
    scaling = LearningRateScaling(8, warmup_epochs=0)  # a batch of 16: the rate is doubled
    _, found = fit(ConservativeTraining(0.5), scaling)
    torch.testing.assert_close(found, by_hand(0.5, 3, True, None, rate=2.0), rtol=1e-12, atol=1e-13)


def test_it_stands_alone():
    with pytest.raises(ValueError, match=r"ConservativeTraining.*SharpnessAwareMinimization"):
        fit(SharpnessAwareMinimization(), ConservativeTraining())


@pytest.mark.parametrize("arguments", [{"strength": -1}, {"inner_steps": 0}, {"keep_moments": 1}], ids=str)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=rf"^{next(iter(arguments))} must"):
        ConservativeTraining(**arguments)
