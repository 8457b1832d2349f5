"""A penalty on the gradient's norm in a user's own fit, against double backward by hand in float64."""

import pytest
import tiny
import torch
from torch.nn.functional import cross_entropy

from lightning_gap import ExactAccumulation, GradientPenalty


class Smooth(tiny.TinyClassifier):
    """Without kinks, so that a difference of gradients over a short step is a product with the Hessian."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.net[2] = torch.nn.Tanh()


def fit(plugin, *callbacks, module=None, **options):
    module = module or Smooth()
    trainer = tiny.trainer(plugin, *callbacks, **({"precision": "64-true", "max_epochs": 1} | options))
    trainer.fit(module, tiny.loader(46, batch_size=8))
    return tiny.state_of(module)


def by_hand(strength, *, blocks, clip=None):
    """Steps over three batches each, of at most 8 samples, weighed by them; one penalty for each of ``blocks``."""
    module = Smooth().double()
    optimizer, weights = module.configure_optimizers(), list(module.parameters())
    batches = [(x.double(), y) for x, y in tiny.loader(46, batch_size=8)]
    for window in (batches[:3], batches[3:]):
        samples = sum(len(y) for _, y in window)
        groups = [window] if blocks == 1 else [[batch] for batch in window]
        summed = [torch.zeros_like(weight) for weight in weights]
        for group in groups:
            size = sum(len(y) for _, y in group)
            loss = sum(cross_entropy(module(x), y) * len(y) / size for x, y in group)
            slopes = torch.autograd.grad(loss, weights, create_graph=True)
            product = torch.autograd.grad(slopes, weights, [slope.detach() for slope in slopes])
            for total, slope, curved in zip(summed, slopes, product, strict=True):
                total += (slope.detach() + strength * curved) * size / samples
        for weight, total in zip(weights, summed, strict=True):
            weight.grad = total
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(weights, clip)
        optimizer.step()
    return tiny.state_of(module)


@pytest.mark.parametrize(("m", "blocks"), [(None, 1), (24, 1), (8, 3)])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_fit_is_the_loop_with_hessian_products(m, blocks, clip):
    options = {"accumulate_grad_batches": 3, "gradient_clip_val": clip}
    found = fit(GradientPenalty(0.3, m=m, length=1e-6), ExactAccumulation(), **options)
    torch.testing.assert_close(found, by_hand(0.3, blocks=blocks, clip=clip), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    "arguments", [{"strength": 0}, {"strength": "1"}, {"strength": 1, "m": 0}, {"strength": 1, "length": 0}], ids=str
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=rf"^{list(arguments)[-1]} must"):
        GradientPenalty(**arguments)
