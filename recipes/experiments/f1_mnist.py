"""Network F1 on MNIST, Keskar et al. (2017), Tables 2 and 3: a small batch, a large one, and two remedies.

Batch 256 against 6,000, 30 epochs, five trials: accuracies, the gap paired by seed, sharpness, distance from the start.
A comparison as `lightning-gap compare` makes it, in a folder that can be resumed. Cost: an hour on two cores.
"""

COMMAND = ("compare", "f1", "small", "large", "linear-lr", "ghost", "--data=mnist", "--epochs=30", "--trials=5")
