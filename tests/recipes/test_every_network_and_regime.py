"""Each network of the recipes under each regime, on tiny images, in a real Trainer."""

import math

import pytest
import torch
from lightning.pytorch import Callback

from lightning_gap import GhostBatchNorm1d, GhostBatchNorm2d
from lightning_gap.functional import epoch_batch_at
from lightning_gap.recipes import C1, C2, C3, C4, F1, F2, REGIMES, WRN16_4, ResNet44, ResNet50
from lightning_gap.recipes.catalogue import bundled, load_recipe
from lightning_gap.recipes.datasets import Images, InMemoryData
from lightning_gap.recipes.runner.trainer import make_trainer

TINY = {
    F1: {"inputs": 3 * 32 * 32, "width": 8, "depth": 2},
    F2: {"inputs": 3 * 32 * 32, "width": 8, "depth": 2},
    C1: {"channels": 4, "dense": (8, 8)},
    C2: {"width": 2, "dense": 8},
    C3: {"channels": 4, "dense": (8, 8)},
    C4: {"width": 2, "dense": 8},
    ResNet44: {"width": 4, "blocks": 1},
    WRN16_4: {"depth": 10, "widen": 1, "width": 4},
    ResNet50: {"blocks": (1, 1, 1, 1), "width_per_group": 4},
}
FEW = {"epochs": 2, "small_batch_size": 4, "large_batch_size": 8, "ghost_batch_size": 4, "warmup_epochs": 1}
FEW |= {"classes": 10, "validation_size": 4, "augmentation": "none", "standardise": False}
IN_TURN = [(recipe, list(REGIMES)[place % len(REGIMES)]) for place, recipe in enumerate([*TINY, *TINY][: len(REGIMES)])]
OTHERS = [(recipe, regime) for recipe in TINY for regime in REGIMES if (recipe, regime) not in IN_TURN]


class Pictures(InMemoryData):
    name, num_classes, mirrored = "pictures", 10, True

    def read(self):
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8, generator=generator)
        images = Images(pixels, torch.arange(20) % 10)
        return images, images


class Seen(Callback):
    """What the training was given and did."""

    def __init__(self):
        self.sizes, self.ghosts = [], 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.sizes.append(len(batch[1]))
        self.ghosts = sum(isinstance(m, GhostBatchNorm1d | GhostBatchNorm2d) for m in pl_module.modules())


def test_every_recipe_has_a_tiny_version_here():
    assert {recipe.__name__ for recipe in TINY} == {load_recipe(name).__name__ for name in bundled() if name != "gpt"}
    assert {regime for _, regime in IN_TURN} == set(REGIMES)


@pytest.mark.parametrize(
    ("kind", "regime"), [*IN_TURN, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHERS)]
)
def test_a_network_trains_under_a_regime(kind, regime):
    steps = {1: 0.5} if kind in (ResNet44, ResNet50, WRN16_4) else None
    torch.manual_seed(0)
    recipe = kind(regime, **TINY[kind], **FEW, learning_rate_steps=steps)
    if regime == "goyal":
        assert recipe.zero_last_gammas == (kind in (ResNet44, ResNet50))
    before = [weight.detach().clone() for weight in recipe.parameters()]
    seen = Seen()
    trainer = make_trainer(
        {"accelerator": "cpu", "enable_checkpointing": False}, epochs=recipe.epochs, callbacks=[seen], logger=None
    )
    trainer.fit(recipe, Pictures(recipe))
    sizes = []
    for epoch in range(recipe.epochs):
        grown = {"growing": epoch_batch_at({0: 4, 1: 8}, epoch).batch_size, "piggyback": 8 if epoch else 4, "small": 4}
        sizes += [grown.get(regime, 8)] * (16 // grown.get(regime, 8))
    assert seen.sizes == sizes
    assert trainer.global_step == len(sizes) >= 2
    assert (seen.ghosts > 0) == (regime in ("ghost", "ghost-lr"))
    assert all(torch.isfinite(weight).all() for weight in recipe.parameters())
    moved = [not torch.equal(weight, start) for weight, start in zip(recipe.parameters(), before, strict=True)]
    assert sum(moved) > len(moved) / 2
    assert math.isfinite(float(trainer.callback_metrics["train/loss"]))


@pytest.mark.parametrize("kind", [C1, ResNet44])
def test_channels_last_changes_the_memory_and_no_more_than_rounding(kind):
    few = {"channels": 16, "dense": (8, 8), "dropout": False} if kind is C1 else {"blocks": 1}
    losses, gradients = [], []
    for channels_last in (True, False):
        torch.manual_seed(0)
        recipe = kind("large", **few, channels_last=channels_last).double()
        images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        loss = torch.nn.functional.cross_entropy(recipe(images), torch.arange(8))
        loss.backward()
        convolution = next(layer for layer in recipe.modules() if isinstance(layer, torch.nn.Conv2d))
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last) == channels_last
        losses.append(loss.item())
        gradients.append(torch.cat([weight.grad.flatten() for weight in recipe.parameters()]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_narrow_convolutions_stay_in_torchs_own_order():
    assert not C1("large", channels=4).channels_last
    assert C1("large", channels=16).channels_last
