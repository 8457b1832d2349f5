"""Training regimes: each takes a recipe, may change its attributes, and returns the callbacks that it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightning.pytorch import Callback

from lightning_gap import (
    AdversarialTraining,
    BatchSizeScheduler,
    ConservativeTraining,
    GhostBatchNormSwap,
    GradientPenalty,
    LearningRateScaling,
    MultiplicativeNoise,
    PiggybackWarmStart,
    SharpnessAwareMinimization,
)
from lightning_gap.functional import EpochBatch, sigma_for, train_longer

if TYPE_CHECKING:
    from .recipe import Recipe

    Regime = Callable[[Recipe], Sequence[Callback]]
else:
    Regime = Callable


def small(recipe: Recipe) -> list[Callback]:
    """The small batch: the baseline of every comparison."""
    recipe.batch_size = recipe.small_batch_size
    return []


def large(recipe: Recipe) -> list[Callback]:
    """The large batch, nothing else changed."""
    recipe.batch_size = recipe.large_batch_size
    return []


def linear_lr(recipe: Recipe) -> list[Callback]:
    """Large batch, learning rate scaled linearly, warmup (Goyal et al. 2017)."""
    recipe.batch_size = recipe.large_batch_size
    return [LearningRateScaling(recipe.small_batch_size, rule="linear", warmup_epochs=recipe.warmup_epochs)]


def sqrt_lr(recipe: Recipe) -> list[Callback]:
    """Large batch, root-scaled learning rate, clipping (Hoffer et al. 2017).

    The authors scale from the first step, and clip gradients instead of warming up.
    """
    recipe.batch_size = recipe.large_batch_size
    recipe.gradient_clip = recipe.hparams.get("gradient_clip", 5.0)
    return [LearningRateScaling(recipe.small_batch_size, rule="sqrt", warmup_epochs=0)]


def ghost(recipe: Recipe) -> list[Callback]:
    """Large batch, BatchNorm over ghost batches (Hoffer et al. 2017)."""
    recipe.batch_size = recipe.large_batch_size
    if recipe.ghost_batch_size > recipe.large_batch_size:
        raise ValueError(
            f"ghost_batch_size={recipe.ghost_batch_size} is larger than the batch, "
            f"large_batch_size={recipe.large_batch_size}; use at most {recipe.large_batch_size}"
        )
    return [GhostBatchNormSwap(recipe.ghost_batch_size)]


def ghost_lr(recipe: Recipe) -> list[Callback]:
    """Large batch, ghosts, root-scaled learning rate, clipping (Hoffer et al. 2017)."""
    return [*ghost(recipe), *sqrt_lr(recipe)]


def longer(recipe: Recipe) -> list[Callback]:
    """Large batch, as many updates as small (Hoffer et al. 2017).

    Regime adaptation: epochs, and those at which the learning rate changes, times the ratio of the batches, rounded up.
    The updates are equally many where both batches divide the training samples; a smaller last batch is an update too.
    """
    _require_growth("longer", recipe)
    steps = recipe.learning_rate_steps
    stretched = train_longer(
        recipe.epochs, tuple(steps), batch_size=recipe.large_batch_size, base_batch_size=recipe.small_batch_size
    )
    recipe.batch_size, recipe.epochs = recipe.large_batch_size, stretched.epochs
    recipe.learning_rate_steps = dict(zip(stretched.milestones, steps.values(), strict=True))
    return []


def growing(recipe: Recipe) -> list[Callback]:
    """Batch grown up to the large, in place of decay (Smith et al. 2018).

    Where the recipe would multiply its learning rate by a factor below 1, the batch is divided by it; past the large
    batch the rate takes over what the batch cannot. A recipe whose rate stays has its batch doubled instead, every size
    with its share of the epochs, to a whole epoch, and the last doubling goes no further than the large batch. A recipe
    none of whose steps lies inside the run is refused, and so is one whose rate rises.
    """
    _require_growth("growing", recipe)
    recipe.batch_size = recipe.small_batch_size
    if not recipe.learning_rate_steps:
        return [BatchSizeScheduler(_doubling(recipe))]
    growth = _growth_at_steps(recipe)
    recipe.learning_rate_steps = {}
    return [BatchSizeScheduler(growth)]


def piggyback(recipe: Recipe) -> list[Callback]:
    """A fifth with the small batch, then large (Keskar et al. 2017).

    A fifth of the epochs, rounded up, in a run as long as the others; the optimizer's state is kept at the switch. In
    the paper's figure 5 the small batch trains for each number of epochs from 1 to 100 and the large one for 100 more,
    and what becomes of ADAM's state is not said.
    """
    _require_growth("piggyback", recipe)
    switch = math.ceil(recipe.epochs / 5)
    if switch == recipe.epochs:
        raise ValueError(
            f"piggyback needs an epoch for each of its batches, got epochs={recipe.epochs}; use at least 2"
        )
    recipe.batch_size = recipe.small_batch_size
    return [PiggybackWarmStart(switch, recipe.large_batch_size, optimizer_state="keep")]


def augmented(recipe: Recipe) -> list[Callback]:
    """Large batch, flips, rotations and shifts (Keskar et al. 2017).

    In the paper's table the small batch that it is compared with is augmented too: `--augmentation affine`.
    """
    recipe.batch_size, recipe.augmentation = recipe.large_batch_size, "affine"
    return []


def goyal(recipe: Recipe) -> list[Callback]:
    """Large batch, linear-lr and three more (Goyal et al. 2017).

    Residual blocks that begin as the identity, no decay of BatchNorm's weights and of biases, and accuracies with
    BatchNorm's statistics recomputed over the training samples.
    """
    recipe.zero_last_gammas, recipe.decay_all, recipe.batch_norm = True, False, "recomputed"
    return linear_lr(recipe)


def sam(recipe: Recipe) -> list[Callback]:
    """Large batch, each step by the gradient at the worst weights nearby (Foret et al. 2021)."""
    recipe.batch_size = recipe.large_batch_size
    return [SharpnessAwareMinimization(recipe.sam_rho)]


def sam_late(recipe: Recipe) -> list[Callback]:
    """Large batch, sam in the last eighth of the run alone (Zhou et al. 2025)."""
    recipe.batch_size = recipe.large_batch_size
    return [SharpnessAwareMinimization(recipe.sam_rho, start=7 / 8)]


def conservative(recipe: Recipe) -> list[Callback]:
    """Large batch, three steps on each, held close to where they began (Keskar et al. 2017)."""
    recipe.batch_size = recipe.large_batch_size
    return [ConservativeTraining(recipe.conservative_strength)]


def adversarial(recipe: Recipe) -> list[Callback]:
    """Large batch, half of each gradient at inputs that raise the loss (Goodfellow et al. 2015).

    By the fast gradient sign method. The moved inputs are not clipped: the recipe does not know their bounds.
    """
    recipe.batch_size = recipe.large_batch_size
    return [AdversarialTraining(recipe.adversarial_epsilon)]


def penalty(recipe: Recipe) -> list[Callback]:
    """Large batch, a penalty on the gradient's norm (Geiping et al. 2022)."""
    recipe.batch_size = recipe.large_batch_size
    return [GradientPenalty(recipe.penalty_strength)]


def noise(recipe: Recipe) -> list[Callback]:
    """Large batch, losses weighted at random, as noisy as small (Hoffer et al. 2017).

    In place of the larger rate of sqrt-lr, and clipped as there.
    """
    _require_growth("noise", recipe)
    recipe.batch_size = recipe.large_batch_size
    recipe.gradient_clip = recipe.hparams.get("gradient_clip", 5.0)
    return [MultiplicativeNoise(sigma_for(recipe.large_batch_size, recipe.small_batch_size), outputs="network")]


REGIMES: Mapping[str, Regime] = {
    "small": small,
    "large": large,
    "linear-lr": linear_lr,
    "sqrt-lr": sqrt_lr,
    "ghost": ghost,
    "ghost-lr": ghost_lr,
    "longer": longer,
    "growing": growing,
    "piggyback": piggyback,
    "augmented": augmented,
    "goyal": goyal,
    "sam": sam,
    "sam-late": sam_late,
    "conservative": conservative,
    "adversarial": adversarial,
    "penalty": penalty,
    "noise": noise,
}


@dataclass(frozen=True)
class Growth:
    """Batch sizes, and what is left of the learning rate's decay, by the epoch in which they begin."""

    batch_sizes: Mapping[int, int]
    learning_rate_factors: Mapping[int, float]

    def __call__(self, epoch: int) -> EpochBatch:
        """Those of an epoch."""
        start = max(first for first in self.batch_sizes if first <= epoch)
        return EpochBatch(self.batch_sizes[start], self.learning_rate_factors[start])


def _growth_at_steps(recipe: Recipe) -> Growth:
    small_batch, large_batch = recipe.small_batch_size, recipe.large_batch_size
    steps = {epoch: factor for epoch, factor in recipe.learning_rate_steps.items() if epoch < recipe.epochs}
    before, sizes, factors = 1.0, {0: small_batch}, {0: 1.0}
    for epoch, factor in steps.items():
        if factor > before:  # the batch would shrink
            raise ValueError(
                f"growing needs factors of the rate that fall from 1, got {factor:g} after {before:g} in "
                f"learning_rate_steps={steps}; give epoch {epoch} a factor of at most {before:g}"
            )
        sizes[epoch] = min(int(small_batch / factor), large_batch)
        factors[epoch] = factor * sizes[epoch] / small_batch
        before = factor
    if set(sizes.values()) == {small_batch}:
        raise ValueError(
            f"growing needs a step of the rate inside the run at which its batch of {small_batch} grows, "
            f"got epochs={recipe.epochs} and learning_rate_steps={recipe.learning_rate_steps}; use more "
            "epochs, earlier steps or smaller factors"
        )
    return Growth(sizes, factors)


def _doubling(recipe: Recipe) -> dict[int, int]:
    sizes = [recipe.small_batch_size]
    while sizes[-1] < recipe.large_batch_size:
        sizes.append(min(2 * sizes[-1], recipe.large_batch_size))
    if len(sizes) > recipe.epochs:
        raise ValueError(
            f"growing needs an epoch for each of its batches, {', '.join(map(str, sizes))}, got "
            f"epochs={recipe.epochs}; use at least {len(sizes)}"
        )
    return {stage * recipe.epochs // len(sizes): size for stage, size in enumerate(sizes)}


def _require_growth(name: str, recipe: Recipe) -> None:
    if recipe.large_batch_size <= recipe.small_batch_size:
        raise ValueError(
            f"{name} needs a large_batch_size above small_batch_size={recipe.small_batch_size}, got "
            f"{recipe.large_batch_size}"
        )
