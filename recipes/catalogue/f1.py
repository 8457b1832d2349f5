"""F1: five hidden layers of 512 units, fully connected, on MNIST (Keskar et al. 2017, Tables 2 to 4 and figure 3).

The paper, ADAM, batch 256 against 6,000, mean ± deviation of five trials:

    test accuracy     98.03 ± 0.07 %    97.81 ± 0.07 %    Table 2
    sharpness 1e-3     1.23 ± 0.83     205.14 ± 69.52     Table 3, full space
    sharpness 5e-4     0.61 ± 0.27      42.90 ± 17.14
    conservative                        98.12 ± 0.01 %    Table 7, test accuracy

Cost of a run: on MNIST 23,500 steps small, 1,000 large; 100 epochs of 4 s on two cores of an AMD EPYC, 7 min. On digits
1,200 and 60 steps, 10 s with the measuring.
"""

import math

from lightning_gap.recipes.networks import F1
from lightning_gap.recipes.recipe import Numbers, Recipe

RECIPE = Recipe(
    summary="5 x 512, fully connected (Keskar et al. 2017)",
    network=lambda shape, classes, **options: F1(math.prod(shape), classes, **options),
    numbers={
        # Ours: a minute on two cores shows the effect. The large batch is half the 1,280 training samples.
        "digits": Numbers(
            epochs=30,
            small_batch_size=32,
            large_batch_size=640,
            ghost_batch_size=32,
            validation_size=157,
        ),
        # The paper's: 256 against 10 % of the training set, 100 epochs, ADAM's default rate. Hoffer's ghosts.
        "mnist": Numbers(epochs=100, small_batch_size=256, large_batch_size=6000),
    },
)
