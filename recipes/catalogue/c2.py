"""C2: deep, VGG-like, on CIFAR-10 (Keskar et al. 2017, Tables 2 to 4, 6 and 7, figure 3).

The paper, ADAM, batch 256 against 5,000, mean ± deviation of five trials:

    test accuracy     89.24 ± 0.12 %    87.26 ± 0.07 %    Table 2
    sharpness 1e-3     8.68 ± 1.32     925.32 ± 38.29     Table 3, full space
    sharpness 5e-4     2.07 ± 0.86     175.31 ± 18.28
    augmented         89.82 ± 0.12 %    90.26 ± 1.15 %    Table 6, test accuracy, both batches augmented
    conservative                        88.50 ± 0.63 %    Table 7, test accuracy

Cost of a run: 19,600 steps small, 1,000 large; 100 epochs of 440 s on two cores of an AMD EPYC, 12 h.
"""

from lightning_gap.recipes.networks import C2
from lightning_gap.recipes.recipe import Numbers, Recipe

RECIPE = Recipe(
    summary="deep, VGG-like (Keskar et al. 2017)",
    network=lambda _shape, classes, **options: C2(classes, **options),
    # The paper's, as for C1. A chunk of 1,000 images takes 5 GB where sharpness is measured.
    numbers={"cifar10": Numbers(epochs=100, small_batch_size=256, large_batch_size=5000, evaluation_chunk=1000)},
)
