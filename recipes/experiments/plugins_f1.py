"""Training plugins on network F1 and MNIST beside a small and a large batch, as in Keskar et al. (2017), Table 7.

Batch 256 against 6,000, five trials; 12 epochs in place of the paper's 100. Every plugin with its paper's settings,
none tuned. A comparison as `lightning-gap compare` makes it, in a folder that can be resumed. Cost: two hours on one
core.
"""

COMMAND = (
    *("compare", "f1", "small", "large", "conservative", "adversarial", "sam", "sam-late", "penalty"),
    *("--data=mnist", "--epochs=12", "--trials=5"),
)
