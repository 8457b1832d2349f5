"""Training plugins on network C1 and CIFAR-10 beside a small and a large batch, as in Keskar et al. (2017), Table 7.

16 of C1's 64 channels, 10,000 training images, batch 64 against 1,000, 20 epochs, five trials. Every plugin with its
paper's settings, none tuned. A comparison as `lightning-gap compare` makes it, in a folder that can be resumed. Cost:
three hours on one core.
"""

COMMAND = (
    *("compare", "c1", "small", "large", "conservative", "adversarial", "sam", "sam-late", "penalty"),
    *("--data=cifar10", "--channels=16", "--small_batch_size=64", "--large_batch_size=1000", "--epochs=20"),
    *("--validation_size=40000", "--trainer.check_val_every_n_epoch=20", "--sharpness_samples=2000", "--trials=5"),
)
