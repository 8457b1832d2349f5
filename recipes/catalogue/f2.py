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

import math

from lightning_gap.recipes.networks import F2
from lightning_gap.recipes.recipe import Numbers, Recipe

RECIPE = Recipe(
    summary="7 x 512, fully connected (Keskar et al. 2017)",
    network=lambda shape, classes, **options: F2(math.prod(shape), classes, **options),
    numbers={
        # The paper's: 256 against about 10 % of 721,329 frames.
        "timit": Numbers(epochs=100, small_batch_size=256, large_batch_size=72_000),
        # A tenth of its 24,000 frames.
        "timit-stand-in": Numbers(epochs=20, small_batch_size=256, large_batch_size=2400),
    },
)
