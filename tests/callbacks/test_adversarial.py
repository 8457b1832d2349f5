"""Adversarial training in a user's own fit, against attacks by hand in float64."""

from collections import namedtuple
from dataclasses import dataclass, field

import pytest
import tiny
import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_gap import AdversarialTraining, SharpnessAwareMinimization

Pair = namedtuple("Pair", ["images", "targets"])


@dataclass
class Sample:
    images: torch.Tensor
    targets: torch.Tensor


def fit(*callbacks, module=None, loader=None, **options):
    module = module or tiny.TinyClassifier(dropout=0.3)
    trainer = tiny.trainer(*callbacks, **({"precision": "64-true"} | options))
    torch.manual_seed(5)
    trainer.fit(module, loader or tiny.loader(48, batch_size=16))
    return trainer, tiny.state_of(module)


def by_hand(epsilon, clean):
    """The fast gradient sign method, with the dropout masks and the BatchNorm of the clean pass."""
    module = tiny.TinyClassifier(dropout=0.3).double()
    optimizer = module.configure_optimizers()
    torch.manual_seed(5)
    for _ in range(2):
        for inputs, targets in tiny.loader(48, batch_size=16):
            random = torch.get_rng_state()
            inputs = inputs.double().requires_grad_()
            weights = list(module.parameters())
            slopes = torch.autograd.grad(cross_entropy(module(inputs), targets), [inputs, *weights])
            after, buffers = torch.get_rng_state(), [buffer.clone() for buffer in module.buffers()]
            moved = inputs.detach() + epsilon * slopes[0].sign()
            torch.set_rng_state(random)
            others = torch.autograd.grad(cross_entropy(module(moved), targets), weights)
            torch.set_rng_state(after)
            for buffer, value in zip(module.buffers(), buffers, strict=True):
                buffer.copy_(value)
            for weight, own, other in zip(weights, slopes[1:], others, strict=True):
                weight.grad = clean * own + (1 - clean) * other
            optimizer.step()
    return tiny.state_of(module)


@pytest.mark.parametrize("clean", [0.5, 0.0])
def test_one_step_is_the_fast_gradient_sign_method_by_hand(clean):
    _, found = fit(AdversarialTraining(0.2, clean=clean))
    torch.testing.assert_close(found, by_hand(0.2, clean), rtol=1e-11, atol=1e-12)


def test_the_data_set_is_not_written_to_and_the_rise_is_logged():
    loader = tiny.loader(48, batch_size=48)
    before = [tensor.clone() for tensor in loader.dataset.tensors]
    trainer, _ = fit(AdversarialTraining(0.2, steps=3), loader=loader)
    assert tiny.same(list(loader.dataset.tensors), before)
    assert trainer.callback_metrics["adversarial/rise"] > 0


class OfKind(tiny.TinyClassifier):
    def training_step(self, batch, batch_idx):
        if isinstance(batch, dict):
            images, targets = batch["images"], batch["targets"]
        else:
            images, targets = (batch.images, batch.targets) if hasattr(batch, "images") else batch
        return cross_entropy(self(images), targets)


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        (lambda x, y: (x, y), 0),
        (lambda x, y: {"images": x, "targets": y}, "images"),
        (Pair, 0),
        (Pair, "images"),
        (Sample, "images"),
    ],
    ids=["tuple", "dict", "namedtuple", "by its name", "dataclass"],
)
def test_a_batch_of_any_kind_is_made_again(kind, inputs):
    def collate(samples):
        return kind(torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples]))

    loader = DataLoader(tiny.dataset(48), batch_size=16, collate_fn=collate)
    _, found = fit(AdversarialTraining(0.2, inputs=inputs), module=OfKind(), loader=loader, precision="32-true")
    _, expected = fit(AdversarialTraining(0.2), module=OfKind(), precision="32-true")
    assert tiny.same(found, expected)


def test_a_dataclass_that_works_on_its_fields_when_it_is_made_is_not_made_twice():
    @dataclass
    class Scaled:
        images: torch.Tensor
        targets: torch.Tensor
        samples: int = field(init=False)

        def __post_init__(self):
            self.images = self.images / 4
            self.samples = len(self.targets)

    def collate(samples):
        return Scaled(torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples]))

    x, y = tiny.dataset(48).tensors
    loader = DataLoader(tiny.dataset(48), batch_size=16, collate_fn=collate)
    _, found = fit(AdversarialTraining(0.2, inputs="images"), module=OfKind(), loader=loader, precision="32-true")
    plain = DataLoader(TensorDataset(x / 4, y), batch_size=16)
    _, expected = fit(AdversarialTraining(0.2), module=OfKind(), loader=plain, precision="32-true")
    assert tiny.same(found, expected)


def test_reentrant_checkpoints_which_give_no_gradient_by_the_inputs_are_refused():
    class Checkpoints(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            inputs = batch[0].clone().requires_grad_() if not batch[0].requires_grad else batch[0]
            return cross_entropy(checkpoint(self, inputs, use_reentrant=True), batch[1])

    with pytest.raises(ValueError, match=r"reentrant .*use_reentrant=False"):
        fit(AdversarialTraining(0.2), module=Checkpoints())


def test_beside_sharpness_aware_minimization_the_attack_is_made_at_the_perturbed_weights_too():
    _, both = fit(AdversarialTraining(0.2), SharpnessAwareMinimization(0.1))
    _, reversed_order = fit(SharpnessAwareMinimization(0.1), AdversarialTraining(0.2))
    _, one = fit(AdversarialTraining(0.2))
    assert tiny.same(both, reversed_order)
    assert not tiny.same(both, one)


def test_accumulated_batches_are_attacked_each():
    _, parts = fit(AdversarialTraining(0.2), module=Plain(), accumulate_grad_batches=3)
    _, whole = fit(AdversarialTraining(0.2), module=Plain(), loader=tiny.loader(48, batch_size=48))
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-13)


class Plain(tiny.TinyClassifier):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"inputs": 1}, r"inputs=1.*int64"),
        ({"inputs": 7}, "inputs=7"),
        ({"inputs": "images"}, "inputs='images'"),
        ({"clip": (0.0, 1.0)}, "clip"),
    ],
    ids=str,
)
def test_inputs_that_cannot_be_attacked_are_refused_before_the_first_step(arguments, told):
    module = tiny.TinyClassifier()
    before = tiny.state_of(module)["net.0.weight"]
    with pytest.raises(ValueError, match=told):
        fit(AdversarialTraining(0.2, **arguments), module=module, precision="32-true")
    assert torch.equal(module.net[0].weight.detach(), before)


@pytest.mark.parametrize(
    "arguments",
    [
        {"epsilon": 0},
        {"epsilon": (0.1, -1)},
        {"epsilon": 1, "steps": 0},
        {"epsilon": 1, "norm": "l1"},
        {"epsilon": []},
        {"epsilon": 1, "clip": 1.0},
        {"epsilon": 1, "clip": (1, 0)},
        {"epsilon": 1, "clip": ("a", 0)},
        {"epsilon": 1, "clip": ((0.0, 0.0), (1.0, 1.0, 1.0))},
        {"epsilon": 1, "clip": ((0.0, 0.0), (1.0, 0.0))},
        {"epsilon": 1, "clean": 1.0},
        {"epsilon": 1, "step_size": 0},
        {"epsilon": 1, "inputs": -1},
        {"epsilon": 1, "seed": -1},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=rf"^{list(arguments)[-1]} must"):
        AdversarialTraining(**arguments)


def test_beside_sharpness_aware_minimization_the_rise_is_that_of_the_attack_alone():
    rises = []
    for plugins in ([], [SharpnessAwareMinimization(1.0)]):
        torch.manual_seed(0)
        trainer = tiny.trainer(
            AdversarialTraining(0.2), *plugins, max_epochs=1, limit_train_batches=1, log_every_n_steps=1
        )
        trainer.fit(tiny.TinyClassifier(dropout=0.0), tiny.loader(16, batch_size=16))
        rises.append(float(trainer.callback_metrics["adversarial/rise"]))
    assert rises[0] == rises[1] > 0
