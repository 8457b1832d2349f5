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

from lightning_gap.recipes.networks import ResNet50
from lightning_gap.recipes.recipe import Numbers, Recipe

RECIPE = Recipe(
    summary="residual, 50 layers (Goyal et al. 2017)",
    network=lambda _shape, classes, **options: ResNet50(classes, **options),
    numbers={
        # The paper's: rate 0.1 at 256, divided by ten at epochs 30, 60 and 80, no decay of BatchNorm and biases.
        "imagenet": Numbers(
            epochs=90,
            small_batch_size=256,
            large_batch_size=8192,
            ghost_batch_size=32,
            optimizer="nesterov",
            learning_rate=0.1,
            learning_rate_steps={30: 0.1, 60: 0.01, 80: 0.001},
            momentum=0.9,
            weight_decay=1e-4,
            decay_all=False,
            augmentation="scale-crop",
            zero_last_gammas=True,
            evaluation_chunk=128,
            sharpness_samples=1024,
        ),
    },
)
