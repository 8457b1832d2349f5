"""Keskar et al. (2017), Table 6: the large batch with augmented images, beside the small batch with them."""

from __future__ import annotations

from ..runner.run_store import RunSpec
from . import published
from .remedy_tables import remedy_experiment
from .scales import Choice


def runs(choice: Choice, network: str, seed: int) -> tuple[RunSpec, RunSpec]:
    """The small batch and the remedy."""
    return choice.run(network, "small", seed, augmentation="affine"), choice.run(network, "augmented", seed)


EXPERIMENT = remedy_experiment(
    "Keskar et al. (2017), Table 6: augmented images",
    "Both batches with flips, rotations and shifts",
    runs,
    published.AUGMENTED,
    {"augmentation": "horizontal flips, rotations of up to 10 degrees, shifts of up to a fifth of the image"},
)
