"""ResNet-44 on CIFAR-10 (Hoffer et al. 2017, Table 1).

The paper, SGD with momentum, batch 128 against 4,096, ghosts of 128, validation accuracy in percent; its columns add
up, so that "+ ghosts" is the regime ghost-lr, and "+ longer" trains that one for 32 times the epochs:

    small 92.83    large 86.10    + root of the rate 89.30    + ghosts 90.50    + longer 93.07

(Recalled, not read: treat the order as the claim, not the digits.)

Cost of a run: 78,200 steps small, 2,600 large; 200 epochs of 130 s on two cores of an AMD EPYC, 7.2 h.
"""

from lightning_gap.recipes.networks import ResNet44
from lightning_gap.recipes.recipe import Numbers, Recipe

RECIPE = Recipe(
    summary="residual, 44 layers (Hoffer et al. 2017)",
    network=lambda _shape, classes, **options: ResNet44(classes, **options),
    numbers={
        # The regime of the authors' code. Their mean and deviation of the channels are ImageNet's.
        "cifar10": Numbers(
            epochs=200,
            small_batch_size=128,
            large_batch_size=4096,
            optimizer="sgd",
            learning_rate=0.1,
            learning_rate_steps={81: 0.1, 122: 0.01, 164: 0.001},
            momentum=0.9,
            weight_decay=1e-4,
            augmentation="crop-flip",
            standardise=True,
            evaluation_chunk=1000,
        ),
    },
)
