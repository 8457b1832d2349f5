"""What can be run: each recipe is a network and, for each data set it runs on, the numbers to run it with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from torch import nn

from lightning_gap.recipes.networks import F1


@dataclass(frozen=True)
class Numbers:
    """The numbers of one recipe on one data set.

    Attributes:
        epochs: Epochs of every regime but longer, which trains more in proportion to the batch sizes.
        small_batch_size: Samples per step of the small-batch regime.
        large_batch_size: Samples per step of every other regime, at the end of those that change the batch.
        ghost_batch_size: Samples per ghost of the ghost regime.
        warmup_epochs: Epochs in which a scaled rate is reached.
        learning_rate: ADAM's rate, before any scaling.
        validation_size: Samples held out of the training split.
    """

    epochs: int
    small_batch_size: int
    large_batch_size: int
    ghost_batch_size: int
    warmup_epochs: float
    learning_rate: float
    validation_size: int


@dataclass(frozen=True)
class Recipe:
    """A network of the papers and the data sets it runs on.

    Attributes:
        summary: One line.
        network: Builds the network from (in_features, num_classes).
        numbers: Numbers by data set.
    """

    summary: str
    network: Callable[[int, int], nn.Module]
    numbers: Mapping[str, Numbers]


RECIPES: dict[str, Recipe] = {
    "f1": Recipe(
        summary="5 x 512, fully connected (Keskar et al. 2017)",
        network=F1,
        numbers={
            # Ours: a minute on two cores shows the effect. The large batch is half the 1,280 training samples.
            "digits": Numbers(
                epochs=30,
                small_batch_size=32,
                large_batch_size=640,
                ghost_batch_size=32,
                warmup_epochs=5,
                learning_rate=1e-3,
                validation_size=157,
            ),
            # The paper's: 256 against 10 % of the training set, 100 epochs, ADAM's default rate. Hoffer's ghosts.
            "mnist": Numbers(
                epochs=100,
                small_batch_size=256,
                large_batch_size=6000,
                ghost_batch_size=128,
                warmup_epochs=5,
                learning_rate=1e-3,
                validation_size=0,
            ),
        },
    ),
}


def chosen(kind: str, name: str, known: Iterable[str]) -> str:
    """Give ``name`` back if it is known.

    Raises:
        ValueError: If it is not; offers the nearest names.
    """
    names = list(known)
    if name in names:
        return name
    near = get_close_matches(name, names, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"unknown {kind} {name!r}; {hint}known: {', '.join(names)}")
