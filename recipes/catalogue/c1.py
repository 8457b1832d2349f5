"""C1: shallow, AlexNet-like, on CIFAR-10 (Keskar et al. 2017, Tables 2 to 4, 6 and 7, figures 2 to 7).

The paper, ADAM, batch 256 against 5,000, mean ± deviation of five trials:

    test accuracy     80.04 ± 0.12 %    77.26 ± 0.42 %    Table 2
    sharpness 1e-3    28.58 ± 3.13     707.23 ± 43.04     Table 3, full space
    sharpness 5e-4     7.08 ± 0.88     227.31 ± 23.23
    augmented         83.63 ± 0.14 %    82.50 ± 0.67 %    Table 6, test accuracy, both batches augmented
    conservative                        78.41 ± 0.22 %    Table 7, test accuracy

Hoffer et al. (2017) train a C1 of their own, with SGD, augmentation and weight decay, to 87.80 %: another baseline.

Cost of a run: 19,600 steps small, 1,000 large; 100 epochs of 72 s on two cores of an AMD EPYC, 2.0 h.
"""

from lightning_gap.recipes.networks import C1
from lightning_gap.recipes.recipe import Numbers, Recipe

RECIPE = Recipe(
    summary="shallow, convolutional (Keskar et al. 2017)",
    network=lambda _shape, classes, **options: C1(classes, **options),
    # The paper's: 256 against 10 % of the training set, 100 epochs, ADAM's default rate. Hoffer's ghosts.
    numbers={"cifar10": Numbers(epochs=100, small_batch_size=256, large_batch_size=5000)},
)
