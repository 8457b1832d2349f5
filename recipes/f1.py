"""F1: five hidden layers of 512 units, fully connected, on MNIST (Keskar et al. 2017, Tables 2 to 4 and figure 3).

The paper, ADAM, batch 256 against 6,000, mean ± deviation of five trials:

    test accuracy     98.03 ± 0.07 %    97.81 ± 0.07 %    Table 2
    sharpness 1e-3     1.23 ± 0.83     205.14 ± 69.52     Table 3, full space
    sharpness 5e-4     0.61 ± 0.27      42.90 ± 17.14
    conservative                        98.12 ± 0.01 %    Table 7, test accuracy

Cost of a run: on MNIST 23,500 steps small, 1,000 large; 100 epochs of 4 s on two cores of an AMD EPYC, 7 min. On digits
1,200 and 60 steps, 10 s with the measuring.
"""

from typing import Any, ClassVar, Literal

from lightning_gap.recipes import networks
from lightning_gap.recipes.recipe import Recipe


class F1(Recipe):
    """Five hidden layers of 512 units, fully connected, on MNIST or digits (Keskar et al. 2017).

    `Recipe` describes the hyperparameters that are not listed here.

    Args:
        regime: As `lightning-gap list` names it, or of your own.
        inputs: Values of a sample.
        classes: Classes of the data.
        width: Units of each hidden layer.
        depth: Hidden layers.
    """

    data_sets: ClassVar[dict[str, dict[str, Any]]] = {
        "digits": {  # ours, not a paper's: the large batch is half of the training set, and tests worse
            "inputs": 64,
            "epochs": 30,
            "small_batch_size": 32,
            "large_batch_size": 640,
            "ghost_batch_size": 32,
            "optimizer": "sgd",
            "learning_rate": 0.05,
            "validation_size": 157,
        },
        "mnist": {},
    }

    def __init__(
        self,
        regime: str = "small",
        *,
        epochs: int = 100,  # the paper's, as are the batches and the optimizer
        small_batch_size: int = 256,
        large_batch_size: int = 6000,  # 10 % of the training set
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
        adversarial_epsilon: float = 0.25,  # Goodfellow et al.'s on MNIST
        penalty_strength: float = 0.1,  # Geiping et al.'s
        augmentation: str = "none",
        standardise: bool = False,
        validation_size: int = 0,
        zero_last_gammas: bool = False,
        batch_norm: Literal["running", "batch", "recomputed"] = "running",
        evaluation_chunk: int = 5000,
        sharpness_samples: int = 10_000,
        inputs: int = 784,
        classes: int = 10,
        width: int = 512,
        depth: int = 5,
    ) -> None:
        super().__init__(networks.F1(inputs, classes, width=width, depth=depth), regime)
