"""Multiplicative noise in a fit: the gradient of a loss weighted by hand, and the same noise in each pass."""

import pytest
import tiny
import torch
from torch.nn.functional import cross_entropy

from lightning_gap import MultiplicativeNoise, SharpnessMonitor
from lightning_gap.callbacks._plugin import Plugin


class Sees(Plugin):
    """Keep the gradients of each pass."""

    def __init__(self):
        self.seen = []

    def change_gradient(self, trainer, pl_module, again):
        self.seen.append([weight.grad.clone() for weight in pl_module.parameters()])
        again()
        self.seen.append([weight.grad.clone() for weight in pl_module.parameters()])


def fit(*callbacks, module=None, **options):
    module = module or tiny.TinyClassifier(dropout=0.0)
    trainer = tiny.trainer(*callbacks, **({"precision": "64-true", "max_epochs": 1} | options))
    trainer.fit(module, tiny.loader(48, batch_size=16))
    return trainer, tiny.state_of(module)


def test_the_gradient_is_that_of_the_loss_weighted_sample_by_sample():
    """Sixteen weights solve for z: the gradient is linear in it, and so many samples' gradients are independent."""
    sees, module = Sees(), tiny.TinyClassifier(dropout=0.0)
    weights = {name: value.double() for name, value in tiny.state_of(module).items()}
    fit(MultiplicativeNoise(2.0, seed=3), sees, module=module, limit_train_batches=1)
    inputs, targets = next(iter(tiny.loader(48, batch_size=16)))
    fresh = tiny.TinyClassifier(dropout=0.0).double()
    fresh.load_state_dict(weights)
    losses = cross_entropy(fresh(inputs.double()), targets, reduction="none") / 16
    rows = [torch.autograd.grad(loss, list(fresh.parameters()), retain_graph=True) for loss in losses]
    each = torch.stack([torch.cat([slope.flatten() for slope in row]) for row in rows])
    found = torch.cat([slope.flatten() for slope in sees.seen[0]])
    z = torch.linalg.lstsq(each.T, found).solution
    torch.testing.assert_close(each.T @ z, found, rtol=1e-9, atol=1e-12)
    assert 0.5 < float(z.std()) < 4  # sigma 2, of sixteen
    assert all(torch.equal(one, other) for one, other in zip(*sees.seen, strict=True))


def test_without_spread_nothing_changes_and_seeds_differ():
    (_, plain), (_, none) = fit(), fit(MultiplicativeNoise(0.0))
    assert tiny.same(plain, none)
    (_, one), (_, other), (_, again) = (fit(MultiplicativeNoise(1.0, seed=seed)) for seed in (0, 1, 0))
    assert tiny.same(one, again)
    assert not tiny.same(one, other)


def test_a_part_can_be_named_and_monitors_see_no_noise():
    (_, named), (_, whole) = fit(MultiplicativeNoise(1.0, outputs="net")), fit(MultiplicativeNoise(1.0))
    assert tiny.same(named, whole)
    trainer, measured = fit(MultiplicativeNoise(1.0), SharpnessMonitor(), precision="32-true")
    assert "sharpness/percent_eps_0.001" in trainer.callback_metrics or measured


def test_what_cannot_be_weighed_is_refused_before_the_first_step():
    class Around(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return cross_entropy(self.net(batch[0]), batch[1])

    class Pairs(tiny.TinyClassifier):
        def forward(self, inputs):
            return (self.net(inputs),)

        def training_step(self, batch, batch_idx):
            return cross_entropy(self(batch[0])[0], batch[1])

    for module, outputs, told in [
        (Around(), None, "outputs="),
        (Pairs(), None, "tuple"),
        (None, "head", "'head'.*net"),
    ]:
        with pytest.raises(ValueError, match=told):
            fit(MultiplicativeNoise(1.0, outputs=outputs), module=module)


@pytest.mark.parametrize("arguments", [{"sigma": -1}, {"sigma": 1, "outputs": 3}, {"sigma": 1, "seed": -1}], ids=str)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=rf"^{list(arguments)[-1]} must"):
        MultiplicativeNoise(**arguments)
