"""F2: seven hidden layers of 512 units, fully connected, on TIMIT (Keskar et al. 2017, Tables 2 to 4, figures 2 to 6).

The paper, ADAM, batch 256 against a tenth of the training frames, mean ± deviation of five trials:

    test accuracy     64.02 ± 0.2 %     59.45 ± 1.05 %    Table 2
    sharpness 1e-3     1.39 ± 0.02     310.64 ± 38.46     Table 3, full space
    sharpness 5e-4     0.90 ± 0.05      93.15 ± 6.81
    conservative                        61.94 ± 1.10 %    Table 7, test accuracy

TIMIT is licensed: bring your own Kaldi features and alignments. The stand-in has its shapes and none of its meaning.

Cost of a run: on TIMIT 281,800 steps small, 1,100 large; 100 epochs of 86 s on two cores of an AMD EPYC, 2.4 h.
On the stand-in 1,880 and 200 steps; 20 epochs of 3 s.
"""

from typing import Any, ClassVar, Literal

from lightning_gap.recipes import networks
from lightning_gap.recipes.recipe import Recipe


class F2(Recipe):
    """Seven hidden layers of 512 units, fully connected, on TIMIT (Keskar et al. 2017).

    `Recipe` describes the hyperparameters that are not listed here.

    Args:
        regime: As `lightning-gap list` names it, or of your own.
        inputs: Values of a sample.
        classes: Classes of the data.
        width: Units of each hidden layer.
        depth: Hidden layers.
    """

    data_sets: ClassVar[dict[str, dict[str, Any]]] = {
        "timit": {},
        "timit-stand-in": {"epochs": 20, "large_batch_size": 2400},  # a tenth of its 24,000 frames
    }

    def __init__(
        self,
        regime: str = "small",
        *,
        epochs: int = 100,  # the paper's, as are the batches and the optimizer
        small_batch_size: int = 256,
        large_batch_size: int = 72_000,  # about 10 % of 721,329 frames
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
        adversarial_epsilon: float = 0.1,  # of a standard deviation
        penalty_strength: float = 0.1,  # Geiping et al.'s
        augmentation: str = "none",
        standardise: bool = False,
        validation_size: int = 0,
        zero_last_gammas: bool = False,
        batch_norm: Literal["running", "batch", "recomputed"] = "running",
        evaluation_chunk: int = 5000,
        sharpness_samples: int = 10_000,
        inputs: int = 360,
        classes: int = 1973,
        width: int = 512,
        depth: int = 7,
    ) -> None:
        super().__init__(networks.F2(inputs, classes, width=width, depth=depth), regime)
