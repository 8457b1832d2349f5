"""Multiplicative noise in a fit: the gradient of a loss weighted by hand, and the same noise in each pass."""

import copy
from unittest import mock

import pytest
import tiny
import torch
from lightning.pytorch import Callback
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from lightning_gap import AdversarialTraining, MultiplicativeNoise, SharpnessMonitor
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


@pytest.mark.parametrize("of", ["step", "micro_batch"])
def test_each_micro_batch_has_its_own_weights_in_each_pass_over_it(of):
    """One sample each, and a loss that is the output itself: its gradient by the bias is z."""

    class Outputs(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(8, 1)

        def training_step(self, batch, batch_idx):
            return self(batch[0]).sum()

    sees = Sees()
    sees.sees = of
    options = {"precision": "64-true", "accumulate_grad_batches": 4, "limit_train_batches": 8}
    tiny.trainer(MultiplicativeNoise(2.0), sees, **options).fit(Outputs(), tiny.loader(8, batch_size=1))
    by_bias = torch.stack([gradients[1] for gradients in sees.seen]).flatten()
    assert torch.equal(by_bias[0::2], by_bias[1::2])
    assert len(by_bias.unique()) == (16 if of == "micro_batch" else 4)


def test_an_attack_is_by_the_plain_loss():
    """Where z is negative the gradient of the weighted loss would lower it."""
    seen = []

    class Keeps(tiny.TinyClassifier):
        def forward(self, inputs):
            seen.append(inputs.detach().clone())
            return super().forward(inputs)

    fit(MultiplicativeNoise(3.0), AdversarialTraining(0.2), module=Keeps(dropout=0.0), limit_train_batches=1)
    clean, *_, attacked = seen
    fresh, targets = tiny.TinyClassifier(dropout=0.0).double(), next(iter(tiny.loader(48, batch_size=16)))[1]
    inputs = clean.clone().requires_grad_()
    cross_entropy(fresh(inputs), targets).backward()
    torch.testing.assert_close(attacked, clean + 0.2 * inputs.grad.sign(), rtol=0, atol=1e-15)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_part_inside_a_checkpoint_is_weighed(reentrant):
    class Checkpoints(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            inputs = batch[0].clone().requires_grad_()
            return cross_entropy(checkpoint(self, inputs, use_reentrant=reentrant), batch[1])

    # BatchNorm's statistics would count the second forward, too.
    (_, found), (_, plain) = (
        fit(MultiplicativeNoise(1.0), module=of(dropout=0.0)) for of in (Checkpoints, tiny.TinyClassifier)
    )
    assert all(torch.equal(found[name], plain[name]) for name in plain if "running" not in name and "num" not in name)


@pytest.fixture
def one_process_of_ddp():
    """Lightning calls `training_step` through DistributedDataParallel, on one process as on several."""
    with mock.patch.dict("os.environ"):
        yield {"strategy": "ddp", "devices": 1, "use_distributed_sampler": False}
    torch.distributed.destroy_process_group()


class LossOfShape(tiny.TinyClassifier):
    """Its loss could be taken for the output of one sample."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx).view(1)


@pytest.mark.filterwarnings("ignore:It is recommended to use `self.log")
def test_under_ddp_the_outputs_are_weighed_and_not_the_loss(one_process_of_ddp):
    _, plain = fit(MultiplicativeNoise(1.0))
    for kind in (tiny.TinyClassifier, LossOfShape):
        _, found = fit(MultiplicativeNoise(1.0), module=kind(dropout=0.0), **one_process_of_ddp)
        torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-14)


def test_the_module_can_be_copied_and_saved_during_a_fit(tmp_path):
    class Saves(Callback):
        def on_train_batch_end(self, trainer, module, *rest):
            torch.save(module.net, tmp_path / "net.pt")
            self.copy = copy.deepcopy(module.net)

    saves = Saves()
    _, state = fit(MultiplicativeNoise(1.0, outputs="net"), saves)
    for kept in (torch.load(tmp_path / "net.pt", weights_only=False), saves.copy):
        assert tiny.same(tiny.state_of(kept), {name.removeprefix("net."): value for name, value in state.items()})
        inputs = torch.randn(4, 8, dtype=torch.float64)
        (slope,) = torch.autograd.grad(kept(inputs).sum(), kept[4].bias)  # no weights of noise
        assert torch.equal(slope, torch.full((3,), 4.0, dtype=torch.float64))


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
