"""C1 with momentum, for what Hoffer et al. (2017) and Goyal et al. (2017) find of SGD, in miniature."""

from __future__ import annotations

from typing import Any, ClassVar

from lightning.pytorch import Callback

from lightning_gap import LearningRateScaling

from ..c1 import C1
from ..recipe import Recipe
from ..regimes import ghost_lr, large, longer
from ..runner.run_store import RunSpec
from .scales import Choice

_SGD = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4, "learning_rate": 0.01}


def ghost_lr_longer(recipe: Recipe) -> list[Callback]:
    """Ghosts, root-scaled learning rate, and as many updates as the small batch: all of Hoffer et al.'s corrections."""
    longer(recipe)
    return ghost_lr(recipe)


def linear_no_warmup(recipe: Recipe) -> list[Callback]:
    """The linear rule from the first step on (Goyal et al. 2017, Table 1)."""
    large(recipe)
    return [LearningRateScaling(recipe.small_batch_size, rule="linear", warmup_epochs=0)]


def linear_constant_warmup(recipe: Recipe) -> list[Callback]:
    """The small batch's learning rate while warming up, then the linear rule at once (the same)."""
    large(recipe)
    return [
        LearningRateScaling(
            recipe.small_batch_size, rule="linear", warmup_epochs=recipe.warmup_epochs, warmup="constant"
        )
    ]


def sqrt_warmup(recipe: Recipe) -> list[Callback]:
    """The root rule with gradual warmup (Goyal et al. 2017, Table 2a)."""
    large(recipe)
    return [LearningRateScaling(recipe.small_batch_size, rule="sqrt", warmup_epochs=recipe.warmup_epochs)]


class SGDC1(C1):
    """C1 with these experiments' regimes."""

    regimes: ClassVar = {
        **C1.regimes,
        "ghost-lr-longer": ghost_lr_longer,
        "linear-no-warmup": linear_no_warmup,
        "linear-constant-warmup": linear_constant_warmup,
        "sqrt-warmup": sqrt_warmup,
    }


def sgd_run(choice: Choice, regime: str, seed: int, *, kept: tuple[int, ...] = (), **changed: Any) -> RunSpec:
    """C1 at a scale, trained by SGD with momentum 0.9 and weight decay 5e-4."""
    plain = choice.run("c1", "small", seed, **{**_SGD, **changed})
    return RunSpec(SGDC1, regime, plain.data, seed, plain.changed, plain.trainer, kept)
