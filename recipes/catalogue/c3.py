"""C3: C1 with a hundred classes, on CIFAR-100 (Keskar et al. 2017, Tables 2 to 4, 6 and 7, figure 3).

The paper, ADAM, batch 256 against 5,000, mean ± deviation of five trials:

    test accuracy     49.58 ± 0.39 %    46.45 ± 0.43 %    Table 2
    sharpness 1e-3    29.85 ± 5.98     258.75 ± 8.96      Table 3, full space
    sharpness 5e-4     8.56 ± 0.99     105.11 ± 13.22
    augmented         54.55 ± 0.44 %    53.03 ± 0.33 %    Table 6, test accuracy, both batches augmented
    conservative                        45.98 ± 0.54 %    Table 7, test accuracy

Cost of a run: 19,600 steps small, 1,000 large; 100 epochs of 55 to 72 s on two cores of an AMD EPYC, 2 h.
"""

from lightning_gap.recipes.networks import C3
from lightning_gap.recipes.recipe import Numbers, Recipe

RECIPE = Recipe(
    summary="shallow, convolutional, 100 classes (Keskar et al. 2017)",
    network=lambda _shape, classes, **options: C3(classes, **options),
    # The paper's, as for C1.
    numbers={"cifar100": Numbers(epochs=100, small_batch_size=256, large_batch_size=5000)},
)
