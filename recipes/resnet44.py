"""ResNet-44 on CIFAR-10 (Hoffer et al. 2017, Table 1).

The paper, SGD with momentum, batch 128 against 4,096, ghosts of 128, validation accuracy in percent; its columns add
up, so that "+ ghosts" is the regime ghost-lr, and "+ longer" trains that one for 32 times the epochs:

    small 92.83    large 86.10    + root of the rate 89.30    + ghosts 90.50    + longer 93.07

(Recalled, not read: treat the order as the claim, not the digits.)

Cost of a run: 78,200 steps small, 2,600 large; 200 epochs of 130 s on two cores of an AMD EPYC, 7.2 h.
"""

from typing import Any, ClassVar, Literal

from lightning_gap.recipes import networks
from lightning_gap.recipes.recipe import Recipe


class ResNet44(Recipe):
    """Residual, 44 layers, on CIFAR-10 (Hoffer et al. 2017).

    `Recipe` describes the hyperparameters that are not listed here.

    Args:
        regime: As `lightning-gap list` names it, or of your own.
        width: Channels of the first stage; the others have 2 and 4 times as many.
        blocks: Blocks of each of three stages.
        classes: Classes of the data.
    """

    data_sets: ClassVar[dict[str, dict[str, Any]]] = {"cifar10": {}}

    def __init__(
        self,
        regime: str = "small",
        *,
        epochs: int = 200,  # of the authors' code, whose channels are standardised with ImageNet's numbers
        small_batch_size: int = 128,
        large_batch_size: int = 4096,
        ghost_batch_size: int = 128,
        warmup_epochs: float = 5.0,
        optimizer: str = "sgd",
        learning_rate: float = 0.1,
        learning_rate_steps: dict[int, float] | None = {81: 0.1, 122: 0.01, 164: 0.001},  # noqa: B006 - never changed
        momentum: float | None = 0.9,
        weight_decay: float = 1e-4,
        decay_all: bool = True,
        gradient_clip: float = 5.0,
        sam_rho: float = 0.05,  # Foret et al.'s on CIFAR-10
        conservative_strength: float = 1e-3,  # Keskar et al.'s
        adversarial_epsilon: float = 0.125,  # Madry et al.'s 8 / 255 over the deviation of the images
        penalty_strength: float = 0.1,  # Geiping et al.'s
        augmentation: str = "crop-flip",
        standardise: bool = True,
        validation_size: int = 0,
        zero_last_gammas: bool = False,
        batch_norm: Literal["running", "batch", "recomputed"] = "running",
        evaluation_chunk: int = 1000,
        sharpness_samples: int = 10_000,
        channels_last: bool = True,
        width: int = 16,
        blocks: int = 7,
        classes: int = 10,
    ) -> None:
        super().__init__(networks.ResNet44(classes, width=width, blocks=blocks), regime)
