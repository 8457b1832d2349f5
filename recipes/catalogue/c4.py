"""C4: C2 with a hundred classes, on CIFAR-100 (Keskar et al. 2017, Tables 2 to 4, 6 and 7, figure 3).

The paper, ADAM, batch 256 against 5,000, mean ± deviation of five trials:

    test accuracy     63.08 ± 0.5 %     57.81 ± 0.17 %    Table 2
    sharpness 1e-3    12.83 ± 3.84     421.84 ± 36.97     Table 3, full space
    sharpness 5e-4     4.07 ± 0.87     109.35 ± 16.57
    augmented         63.05 ± 0.5 %     65.88 ± 0.13 %    Table 6, test accuracy, both batches augmented
    conservative                        62.51 ± 0.67 %    Table 7, test accuracy

Cost of a run: 19,600 steps small, 1,000 large; 100 epochs of 430 s on two cores of an AMD EPYC, 12 h.
"""

from lightning_gap.recipes.networks import C4
from lightning_gap.recipes.recipe import Numbers, Recipe

RECIPE = Recipe(
    summary="deep, VGG-like, 100 classes (Keskar et al. 2017)",
    network=lambda _shape, classes, **options: C4(classes, **options),
    # The paper's, as for C1. A chunk of 1,000 images takes 5 GB where sharpness is measured.
    numbers={"cifar100": Numbers(epochs=100, small_batch_size=256, large_batch_size=5000, evaluation_chunk=1000)},
)
