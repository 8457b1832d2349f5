"""C3: C1 with a hundred classes, on CIFAR-100 (Keskar et al. 2017, Tables 2 to 4, 6 and 7, figure 3).

The paper, ADAM, batch 256 against 5,000, mean ± deviation of five trials:

    test accuracy     49.58 ± 0.39 %    46.45 ± 0.43 %    Table 2
    sharpness 1e-3    29.85 ± 5.98     258.75 ± 8.96      Table 3, full space
    sharpness 5e-4     8.56 ± 0.99     105.11 ± 13.22
    augmented         54.55 ± 0.44 %    53.03 ± 0.33 %    Table 6, test accuracy, both batches augmented
    conservative                        45.98 ± 0.54 %    Table 7, test accuracy

Cost of a run: 19,600 steps small, 1,000 large; 100 epochs of 55 to 72 s on two cores of an AMD EPYC, 2 h.
"""

from typing import Any, ClassVar, Literal

from lightning_gap.recipes import networks
from lightning_gap.recipes.recipe import Recipe


class C3(Recipe):
    """C1 with a hundred classes, on CIFAR-100 (Keskar et al. 2017).

    `Recipe` describes the hyperparameters that are not listed here.

    Args:
        regime: As `lightning-gap list` names it, or of your own.
        variant: "code" has the network of the authors' code, "paper" that of the paper's text.
        channels: Channels of both convolutions.
        dense: Units of the two dense layers.
        dropout: Whether half of the dense units are dropped in training.
        classes: Classes of the data.
    """

    data_sets: ClassVar[dict[str, dict[str, Any]]] = {"cifar100": {}}

    def __init__(
        self,
        regime: str = "small",
        *,
        epochs: int = 100,  # the paper's, as are the batches and the optimizer
        small_batch_size: int = 256,
        large_batch_size: int = 5000,  # 10 % of the training set
        ghost_batch_size: int = 128,  # Hoffer et al.'s
        warmup_epochs: float = 5.0,
        optimizer: str = "adam",
        learning_rate: float = 1e-3,  # ADAM's default
        learning_rate_steps: dict[int, float] | None = None,
        momentum: float | None = None,
        weight_decay: float = 0.0,
        decay_all: bool = True,
        gradient_clip: float = 5.0,
        sam_rho: float = 0.05,  # Foret et al.'s on CIFAR-10
        conservative_strength: float = 1e-3,  # Keskar et al.'s
        adversarial_epsilon: float = 0.03,  # Madry et al.'s 8 / 255, of inputs from 0 to 1
        penalty_strength: float = 0.1,  # Geiping et al.'s
        augmentation: str = "none",
        standardise: bool = False,
        validation_size: int = 0,
        zero_last_gammas: bool = False,
        batch_norm: Literal["running", "batch", "recomputed"] = "running",
        evaluation_chunk: int = 5000,
        sharpness_samples: int = 10_000,
        channels_last: bool = True,  # faster convolutions on many processors
        variant: Literal["code", "paper"] = "code",
        channels: int = 64,
        dense: tuple[int, int] = (384, 192),
        dropout: bool = True,
        classes: int = 100,
    ) -> None:
        super().__init__(networks.C3(classes, variant=variant, channels=channels, dense=dense, dropout=dropout), regime)
