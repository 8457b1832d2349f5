"""GPT: a small transformer that predicts the next byte of a text. Ours, not a paper's: for batch sizes over time.

1.3 million weights: six blocks of width 128, four heads, sequences of 128 bytes. AdamW with beta2 0.95, a linear
warmup, then cosine, or constant with a last fall (warmup-stable-decay, Hu et al. 2024), by the share of the run's bytes
that have been read: whatever the batch size, the learning rate after so many bytes is the same.

Loss is in nats a byte; divide by 0.6931 for bits.
"""

import math
from typing import Any, ClassVar, Literal

from lightning.pytorch import Callback
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from lightning_gap import AdaptiveBatchSize, BatchSizeScheduler, LearningRateScaling
from lightning_gap.functional import LateSwitch, LinearRamp, Seesaw
from lightning_gap.recipes import networks
from lightning_gap.recipes.lookup import lookup
from lightning_gap.recipes.recipe import Recipe
from lightning_gap.recipes.regimes import (
    conservative,
    large,
    linear_lr,
    longer,
    penalty,
    sam,
    sam_late,
    small,
    sqrt_lr,
)


def smith(recipe: Recipe) -> list[Callback]:
    """Batch grown up to the large in place of all decay, the rate kept (Smith et al. 2018).

    Wherever the schedule would divide the learning rate by the root of two, the batch is multiplied by it.
    """
    return _in_place_of_decay(recipe, "sgd")


def seesaw(recipe: Recipe) -> list[Callback]:
    """Batch grown up to the large in place of half of the decay (Meterez et al. 2025).

    Wherever the schedule would divide the learning rate by two, it is divided by the root and the batch multiplied.
    """
    return _in_place_of_decay(recipe, "adam")


def early_ramp(recipe: Recipe) -> list[Callback]:
    """Batch grown to the large in the first fifth, the rate by the root (Merrill et al. 2025, in miniature)."""
    recipe.batch_size = recipe.small_batch_size
    ramp = LinearRamp(
        recipe.small_batch_size,
        recipe.large_batch_size,
        increment=recipe.small_batch_size,
        ramp=max(1, _sequences_of(recipe) // 5),
    )
    return [
        BatchSizeScheduler(ramp, unit="samples"),
        LearningRateScaling(recipe.small_batch_size, rule="sqrt", when_batch_changes="rescale", warmup_epochs=0),
    ]


def late_switch(recipe: Recipe) -> list[Callback]:
    """The small batch until three quarters, then the large, the rate as it is (arXiv 2602.14208)."""
    recipe.batch_size = recipe.small_batch_size
    switch = LateSwitch(recipe.small_batch_size, recipe.large_batch_size, total=_sequences_of(recipe))
    return [BatchSizeScheduler(switch, unit="samples")]


def norm_test(recipe: Recipe) -> list[Callback]:
    """Batch grown up to the large as the gradient's noise asks, the rate as it is (Byrd et al. 2012)."""
    recipe.batch_size = recipe.small_batch_size
    return [AdaptiveBatchSize(recipe.small_batch_size, recipe.large_batch_size, decide_every_n_steps=10)]


def _in_place_of_decay(recipe: Recipe, optimizer: Literal["adam", "sgd"]) -> list[Callback]:
    recipe.batch_size = recipe.small_batch_size
    schedule, warmup = recipe.hparams["schedule"], recipe.hparams["warmup_share"]
    if schedule == "constant":
        raise ValueError("schedule='constant' has no decay that a batch could grow in place of; use 'cosine' or 'wsd'")

    def decay(share: float) -> float:
        return max(_decay(schedule, share, warmup), 1e-3)

    assert isinstance(recipe, GPT)
    recipe.schedule = "constant"  # the scheduler below brings what is left of the decay
    grown = Seesaw(
        recipe.small_batch_size,
        recipe.large_batch_size,
        total=_sequences_of(recipe),
        decay=decay,
        optimizer=optimizer,
        multiple_of=math.gcd(recipe.small_batch_size, recipe.large_batch_size),
    )
    return [BatchSizeScheduler(grown, unit="samples")]


def _sequences_of(recipe: Recipe) -> int:
    """That a run trains on."""
    return int(recipe.epochs * (recipe.hparams["sequences"] - recipe.validation_size))


def _decay(schedule: str, share: float, warmup: float) -> float:
    """What the learning rate is multiplied by after a share of the run, over its peak; 1 in the warmup."""
    if share <= warmup:
        return 1.0
    if schedule == "cosine":
        return 0.55 + 0.45 * math.cos(math.pi * (share - warmup) / (1 - warmup))
    return min(1.0, (1 - share) / 0.2) if schedule == "wsd" else 1.0


class GPT(Recipe):
    """A small transformer on bytes of a text (ours).

    `Recipe` describes the hyperparameters that are not listed here.

    Args:
        regime: As `lightning-gap list` names it, or of your own.
        sequences: Sequences of the text to train on, the first ones; a batch size counts them.
        length: Bytes of a sequence.
        width: Units of the residual stream.
        depth: Blocks.
        heads: Attention heads.
        schedule: Of the learning rate after the warmup: "cosine" to a tenth, "wsd" (constant, then linearly to zero in
            the last fifth) or "constant".
        warmup_share: Of the run, in which the learning rate rises linearly.
        beta2: Of AdamW.
    """

    regimes: ClassVar = {
        "small": small,
        "smith": smith,
        "seesaw": seesaw,
        "early-ramp": early_ramp,
        "late-switch": late_switch,
        "norm-test": norm_test,
        "large": large,
        "linear-lr": linear_lr,
        "sqrt-lr": sqrt_lr,
        "longer": longer,
        "sam": sam,
        "sam-late": sam_late,
        "conservative": conservative,
        "penalty": penalty,
    }
    data_sets: ClassVar[dict[str, dict[str, Any]]] = {"python-library": {}, "text": {}}
    schedule: str  # in force: a regime may set another than was asked for

    def __init__(
        self,
        regime: str = "small",
        *,
        epochs: int = 1,
        small_batch_size: int = 16,
        large_batch_size: int = 256,
        warmup_epochs: float = 0.0,
        optimizer: str = "adamw",
        learning_rate: float = 1e-3,
        learning_rate_steps: dict[int, float] | None = None,
        momentum: float | None = None,
        weight_decay: float = 0.1,
        decay_all: bool = False,
        gradient_clip: float = 1.0,
        sam_rho: float = 0.05,
        conservative_strength: float = 1e-3,
        penalty_strength: float = 0.1,
        validation_size: int = 0,
        evaluation_chunk: int = 256,
        sharpness_samples: int = 256,
        sequences: int = 32_768,
        length: int = 128,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        schedule: Literal["cosine", "wsd", "constant"] = "cosine",
        warmup_share: float = 0.02,
        beta2: float = 0.95,
    ) -> None:
        lookup("schedule", schedule, ("cosine", "wsd", "constant"))
        super().__init__(networks.GPT(length=length, width=width, depth=depth, heads=heads), regime)
        self.sequences, self.length = sequences, length
        self.schedule = getattr(self, "schedule", schedule)
        self.warmup_share, self.beta2 = warmup_share, beta2
        self.gradient_clip = gradient_clip  # in every regime, as in every GPT
        self.sequences_read = 0

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW, its learning rate by the share of the run that is done."""
        optimizer = self.new_optimizer()
        for group in optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (0.9, self.beta2)
        by_share = LambdaLR(optimizer, lambda _: self.learning_rate_at(self.share_done))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": by_share, "interval": "step"}}

    @property
    def share_done(self) -> float:
        """Of all sequences of the run, those that have been read, from 0 to 1."""
        return min(1.0, self.sequences_read / _sequences_of(self))

    def learning_rate_at(self, share: float) -> float:
        """What the learning rate is multiplied by after a share of the run."""
        warming = max(0.01, share / self.warmup_share) if share < self.warmup_share else 1.0
        return warming * _decay(self.schedule, share, self.warmup_share)

    def on_train_batch_start(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.sequences_read += len(batch[0]) * self.trainer.world_size

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["sequences_read"] = self.sequences_read

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.sequences_read = checkpoint.get("sequences_read", 0)
