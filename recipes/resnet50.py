"""ResNet-50 on ImageNet (Goyal et al. 2017, Tables 1 and 2, figures 1 to 4).

The paper, SGD with Nesterov's momentum, 90 epochs, validation error in percent, median of the last five epochs, mean ±
deviation of five runs (here: the final weights):

    batch 256    23.60 ± 0.12    regime small
    batch 8192   23.74 ± 0.09    regime goyal
                 24.84 ± 0.37    without warmup: goyal with --warmup_epochs 0
                 41.67 ± 0.10    rate of the small batch: regime large
                 26.22 ± 0.03    rate by the root of the ratio, with warmup

The paper normalises over the 32 images of one worker: regime ghost does so on one device, goyal on 256.

Cost of a run: 450,450 steps small, 14,130 large; 90 epochs, each 58 h (207,000 s on two cores of an AMD EPYC):
for GPUs, of which none has been tried.
"""

from typing import Any, ClassVar, Literal

from lightning_gap.recipes import networks
from lightning_gap.recipes.recipe import Recipe


class ResNet50(Recipe):
    """Residual, 50 layers, on ImageNet (Goyal et al. 2017).

    `Recipe` describes the hyperparameters that are not listed here.

    Args:
        regime: As `lightning-gap list` names it, or of your own.
        blocks: Bottleneck blocks of the four stages.
        width_per_group: Channels inside the blocks of the first stage.
        classes: Classes of the data.
    """

    data_sets: ClassVar[dict[str, dict[str, Any]]] = {"imagenet": {}}

    def __init__(
        self,
        regime: str = "small",
        *,
        epochs: int = 90,  # the paper's, as are the batches, the learning rate and its steps
        small_batch_size: int = 256,
        large_batch_size: int = 8192,
        ghost_batch_size: int = 32,  # of one worker
        warmup_epochs: float = 5.0,
        optimizer: str = "nesterov",
        learning_rate: float = 0.1,
        learning_rate_steps: dict[int, float] | None = {30: 0.1, 60: 0.01, 80: 0.001},  # noqa: B006 - never changed
        momentum: float | None = 0.9,
        weight_decay: float = 1e-4,
        decay_all: bool = False,
        gradient_clip: float = 5.0,
        sam_rho: float = 0.05,  # Foret et al.'s on CIFAR-10
        conservative_strength: float = 1e-3,  # Keskar et al.'s
        adversarial_epsilon: float = 0.125,  # Madry et al.'s 8 / 255 over the deviation of the images
        penalty_strength: float = 0.1,  # Geiping et al.'s
        augmentation: str = "scale-crop",
        standardise: bool = False,
        validation_size: int = 0,
        zero_last_gammas: bool = True,
        batch_norm: Literal["running", "batch", "recomputed"] = "running",
        evaluation_chunk: int = 128,
        sharpness_samples: int = 1024,
        channels_last: bool = True,
        blocks: tuple[int, int, int, int] = (3, 4, 6, 3),
        width_per_group: int = 64,
        classes: int = 1000,
    ) -> None:
        super().__init__(networks.ResNet50(classes, blocks=blocks, width_per_group=width_per_group), regime)
