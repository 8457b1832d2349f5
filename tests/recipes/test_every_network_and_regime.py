"""Each network of the catalogue under each regime, on tiny images and frames, in a real Trainer."""

import dataclasses
import math

import pytest
import torch
from lightning.pytorch import Callback

from lightning_gap import GhostBatchNorm1d, GhostBatchNorm2d
from lightning_gap.recipes.augmentation import make_augmentation
from lightning_gap.recipes.catalogue import FILES, recipe
from lightning_gap.recipes.classifier import Classifier
from lightning_gap.recipes.datasets import Images, InMemoryData, Splits
from lightning_gap.recipes.networks import zero_last_gammas
from lightning_gap.recipes.regimes import REGIMES
from lightning_gap.recipes.runner.trainer import make_trainer

TINY = {
    "f1": {"width": 8, "depth": 2},
    "f2": {"width": 8, "depth": 2},
    "c1": {"channels": 4, "dense": (8, 8)},
    "c2": {"width": 2, "dense": 8},
    "c3": {"channels": 4, "dense": (8, 8)},
    "c4": {"width": 2, "dense": 8},
    "resnet44": {"width": 4, "blocks": 1},
    "wrn16-4": {"depth": 10, "widen": 1, "width": 4},
    "resnet50": {"blocks": (1, 1, 1, 1), "width_per_group": 4},
}
FEW = {"epochs": 2, "small_batch_size": 4, "large_batch_size": 8, "ghost_batch_size": 4, "warmup_epochs": 1}
RESIDUAL = ("resnet44", "resnet50")


def splits():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8, generator=generator)
    images = Images(pixels, torch.arange(20) % 10)
    return Splits(images, images, num_classes=10, mirrored=True)


class Seen(Callback):
    """What the training was given and did."""

    def __init__(self):
        self.sizes, self.rates, self.ghosts = [], [], 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.sizes.append(len(batch[1]))
        self.ghosts = sum(isinstance(m, GhostBatchNorm1d | GhostBatchNorm2d) for m in pl_module.modules())


def test_every_recipe_has_a_tiny_version_here():
    assert set(TINY) == set(FILES)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", TINY)
def test_a_network_trains_under_a_regime(name, regime):
    found = recipe(name)
    numbers = dataclasses.replace(next(iter(found.numbers.values())), **FEW)
    if numbers.learning_rate_steps:
        numbers = dataclasses.replace(numbers, learning_rate_steps={1: 0.5})
    planned = REGIMES[regime](numbers)
    data = splits()
    torch.manual_seed(0)
    network = found.network(data.input_shape, data.num_classes, **TINY[name])
    if planned.numbers.zero_last_gammas:
        assert (zero_last_gammas(network) > 0) == (name in RESIDUAL)
    before = [weight.detach().clone() for weight in network.parameters()]
    seen = Seen()
    trainer = make_trainer(
        {"accelerator": "cpu", "enable_checkpointing": False},
        {"max_epochs": planned.epochs, **planned.trainer},
        callbacks=[seen],
        logger=None,
    )
    module = Classifier(network, planned.numbers, planned.callbacks)
    augmentation = make_augmentation(planned.numbers.augmentation, data)
    trainer.fit(module, InMemoryData(data, batch_size=planned.batch_size, validation_size=4, augmentation=augmentation))
    sizes = []
    for epoch in range(planned.epochs):
        size = planned.batch_sizes[max(start for start in planned.batch_sizes if start <= epoch)]
        sizes += [size] * (16 // size)
    assert seen.sizes == sizes
    assert trainer.global_step == len(sizes) >= 2
    assert (seen.ghosts > 0) == (regime in ("ghost", "ghost-lr"))
    assert all(torch.isfinite(weight).all() for weight in network.parameters())
    moved = [not torch.equal(weight, start) for weight, start in zip(network.parameters(), before, strict=True)]
    assert sum(moved) > len(moved) / 2
    assert math.isfinite(float(trainer.callback_metrics["train/loss"]))
