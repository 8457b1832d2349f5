"""What a recipe is: a network and, for each data set it runs on, the numbers to run it with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from torch import nn

from lightning_gap.functional import BatchNormMode


@dataclass(frozen=True)
class Numbers:
    """The numbers of one recipe on one data set; each is an option of the command line.

    Attributes:
        epochs: Epochs of every regime but longer, which trains more in proportion to the batch sizes.
        small_batch_size: Samples per step of the small-batch regime, over all processes.
        large_batch_size: Samples per step of every other regime, at the end of those that change the batch.
        ghost_batch_size: Samples per ghost of the ghost regimes.
        warmup_epochs: Epochs in which a linearly scaled rate is reached.
        optimizer: As `lightning-gap list` names it.
        learning_rate: The small batch's rate at the start, before any scaling.
        learning_rate_steps: What the rate is multiplied by from an epoch on, for instance {81: 0.1, 122: 0.01}.
        momentum: Momentum; refused for optimizers without it.
        weight_decay: Of every weight, added to its gradient.
        decay_all: Whether BatchNorm's weights and all biases decay too.
        gradient_clip: Largest norm of the gradient in the regimes of Hoffer et al., whose value 5 is.
        augmentation: Of the training images, as `lightning-gap list` names it.
        standardise: Whether each channel has mean 0 and deviation 1 over the training images.
        validation_size: Samples held out of the training split.
        zero_last_gammas: Whether the last BatchNorm of each residual block starts with weight 0.
        batch_norm: Statistics that the final accuracies are evaluated with: running, batch (of each evaluation chunk)
            or recomputed (over the training samples).
        evaluation_chunk: Samples evaluated at once, and so part of what batch statistics mean.
        sharpness_samples: Most samples that the final sharpness, and each split of the figure, are measured on.
    """

    epochs: int
    small_batch_size: int
    large_batch_size: int
    ghost_batch_size: int = 128
    warmup_epochs: float = 5
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    learning_rate_steps: dict[int, float] = field(default_factory=dict)
    momentum: float | None = None
    weight_decay: float = 0.0
    decay_all: bool = True
    gradient_clip: float = 5.0
    augmentation: str = "none"
    standardise: bool = False
    validation_size: int = 0
    zero_last_gammas: bool = False
    batch_norm: BatchNormMode = "running"
    evaluation_chunk: int = 5000
    sharpness_samples: int = 10_000

    def learning_rate_factor(self, epoch: int) -> float:
        """What ``learning_rate_steps`` multiplies the rate by in an epoch, from 0."""
        passed = [step for step in self.learning_rate_steps if step <= epoch]
        return self.learning_rate_steps[max(passed)] if passed else 1.0


@dataclass(frozen=True)
class Recipe:
    """A network of the papers and the data sets it runs on.

    Attributes:
        summary: One line.
        network: Builds the network from the shape of an input, the number of classes and the options that it has.
        numbers: Numbers by data set; the first is the one that is used where none is named.
    """

    summary: str
    network: Callable[..., nn.Module]
    numbers: Mapping[str, Numbers]


def chosen(kind: str, name: object, known: Iterable[str]) -> str:
    """Give ``name`` back if it is known.

    Raises:
        ValueError: If it is not; offers the nearest names.
    """
    names = list(known)
    if isinstance(name, str) and name in names:
        return name
    near = get_close_matches(name, names, cutoff=0.5) if isinstance(name, str) else []
    hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
    raise ValueError(f"unknown {kind} {name!r}; {hint}known: {', '.join(names)}")
