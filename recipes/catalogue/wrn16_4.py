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

from lightning_gap.recipes.networks import WRN16_4
from lightning_gap.recipes.recipe import Numbers, Recipe

RECIPE = Recipe(
    summary="wide residual, 16 layers (Hoffer et al. 2017, Smith et al. 2018)",
    network=lambda _shape, classes, **options: WRN16_4(classes, **options),
    numbers={
        # Smith's: batch up to a tenth of the training set. Epochs and decay of the network's authors.
        "cifar10": Numbers(
            epochs=200,
            small_batch_size=128,
            large_batch_size=5120,
            optimizer="sgd",
            learning_rate=0.1,
            learning_rate_steps={60: 0.2, 120: 0.04, 160: 0.008},
            momentum=0.9,
            weight_decay=5e-4,
            augmentation="crop-flip",
            standardise=True,
            evaluation_chunk=1000,
        ),
        # The regime of Hoffer's code.
        "cifar100": Numbers(
            epochs=200,
            small_batch_size=128,
            large_batch_size=4096,
            optimizer="sgd",
            learning_rate=0.1,
            learning_rate_steps={60: 0.2, 120: 0.04, 140: 0.001},
            momentum=0.9,
            weight_decay=1e-4,
            augmentation="crop-flip",
            standardise=True,
            evaluation_chunk=1000,
        ),
    },
)
