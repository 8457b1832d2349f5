"""Wide ResNet 16-4: Hoffer et al. (2017), Table 1, on CIFAR-100, and Smith et al. (2018), section 5.1, on CIFAR-10.

Hoffer et al., SGD with momentum, batch 128 against 4,096, validation accuracy in percent; the columns add up:

    small 73.70    large 68.15    + root of the rate 69.05    + ghosts 71.20    + longer 73.57

(Recalled, not read; and the network of their code has its BatchNorm after the convolutions. Ours is Zagoruyko's.)

Smith et al., test accuracy on CIFAR-10 at their optimizer updates, rate decayed or batch grown by 5 (regimes small and
growing):

    decaying rate 94.3, about 80,000 updates    growing batch 94.4, about 29,000 updates

Cost of a run: 78,200 steps small, 2,000 to 2,600 large; 200 epochs of 360 s on two cores of an AMD EPYC,
20 h.
"""

from typing import Any, ClassVar, Literal

from lightning_gap.recipes import networks
from lightning_gap.recipes.recipe import Recipe


class WRN16_4(Recipe):
    """Wide residual, 16 layers, on CIFAR-10 and CIFAR-100 (Smith et al. 2018, Hoffer et al. 2017).

    `Recipe` describes the hyperparameters that are not listed here.

    Args:
        regime: As `lightning-gap list` names it, or of your own.
        depth: Of the network, 6 n + 4 for n blocks in each of three stages.
        widen: How many times as wide as He et al.'s.
        width: Channels of the first convolution.
        classes: Classes of the data.
    """

    data_sets: ClassVar[dict[str, dict[str, Any]]] = {
        "cifar10": {},
        "cifar100": {  # the regime of Hoffer's code
            "classes": 100,
            "large_batch_size": 4096,
            "learning_rate_steps": {60: 0.2, 120: 0.04, 140: 0.001},
            "weight_decay": 1e-4,
        },
    }

    def __init__(
        self,
        regime: str = "small",
        *,
        epochs: int = 200,  # and the decay: of the network's authors
        small_batch_size: int = 128,
        large_batch_size: int = 5120,  # Smith's, a tenth of the training set
        ghost_batch_size: int = 128,
        warmup_epochs: float = 5.0,
        optimizer: str = "sgd",
        learning_rate: float = 0.1,
        learning_rate_steps: dict[int, float] | None = {60: 0.2, 120: 0.04, 160: 0.008},  # noqa: B006 - never changed
        momentum: float | None = 0.9,
        weight_decay: float = 5e-4,
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
        depth: int = 16,
        widen: int = 4,
        width: int = 16,
        classes: int = 10,
    ) -> None:
        super().__init__(networks.WRN16_4(classes, depth=depth, widen=widen, width=width), regime)
