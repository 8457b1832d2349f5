"""Refuse hyperparameters that cannot work, by one clear error each."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

from .datasets.augmentations import AUGMENTATIONS
from .lookup import lookup, shown

_REQUIRED = ("epochs", "small_batch_size", "large_batch_size", "optimizer", "learning_rate")
_COUNTS = ("epochs", "small_batch_size", "large_batch_size", "ghost_batch_size", "evaluation_chunk", "sequences")
_POSITIVE = ("learning_rate", "gradient_clip", "sam_rho", "adversarial_epsilon", "penalty_strength")
_NUMBERS = (*_POSITIVE, "warmup_epochs", "weight_decay", "conservative_strength")
_BELOW_1 = ("momentum", "warmup_share", "beta2")
_LARGEST = 2**63 - 1  # what torch counts with
_FLAGS = ("decay_all", "standardise", "zero_last_gammas", "channels_last")


def check_hyperparameters(recipe: str, values: Mapping[str, Any]) -> None:
    """Refuse what a recipe cannot be trained with; without importing torch.

    Args:
        recipe: Its name, for the message.
        values: Hyperparameters by name; those that this page does not know are the network's.

    Raises:
        ValueError: Names the hyperparameter, its value and what it must be.
    """
    for name in _REQUIRED:
        if name not in values:
            raise ValueError(f"{recipe} has no {name}; name it in the signature of its __init__, with a default")
    for name in values.keys() & {*_COUNTS, "sharpness_samples", "validation_size"}:
        value, least = values[name], int(name != "validation_size")
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{name} must be a whole number, got {shown(value)}")
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {shown(value)}")
        if value > _LARGEST:
            raise ValueError(f"{name} must be at most {_LARGEST}, got {shown(value)}")
    for name in values.keys() & {*_NUMBERS, *_BELOW_1}:
        _check_number(name, values[name])
    for name in values.keys() & set(_FLAGS):
        if not isinstance(values[name], bool):
            raise ValueError(f"{name} must be true or false, got {shown(values[name])}")
    if not isinstance(values["optimizer"], str):
        raise ValueError(f"optimizer must be a name, for instance 'sgd', got {shown(values['optimizer'])}")
    steps_by_epoch(values.get("learning_rate_steps"))
    lookup("augmentation", values.get("augmentation", "none"), AUGMENTATIONS)
    lookup("batch_norm", values.get("batch_norm", "running"), ("running", "batch", "recomputed"))


def steps_by_epoch(given: Any) -> dict[int, float]:
    """Factors of the learning rate by epoch, from what a file or an option has, in the order of the epochs.

    Raises:
        ValueError: If they are not positive factors by whole epochs from 1.
    """
    example = "for instance {81: 0.1}"
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ValueError(f"learning_rate_steps must be factors by epoch, {example}, got {shown(given)}")
    for epoch, factor in given.items():
        if not _is_number(epoch) or not math.isfinite(epoch) or epoch != int(epoch):
            raise ValueError(f"learning_rate_steps must begin at whole epochs, got {shown(epoch)}; {example}")
        if epoch < 1 or not _is_number(factor) or not 0 < factor < math.inf:
            raise ValueError(
                f"learning_rate_steps must be positive factors by epochs from 1, {example}, got {shown(dict(given))}"
            )
    return {int(epoch): float(given[epoch]) for epoch in sorted(given)}


def _check_number(name: str, value: Any) -> None:
    if value is None and name in ("momentum", "gradient_clip"):
        return
    if not _is_number(value):
        raise ValueError(f"{name} must be a number, got {shown(value)}")
    if name in _BELOW_1 and not 0 <= value < 1:
        raise ValueError(f"{name} must be at least 0 and below 1, got {shown(value)}; leave it out for the default")
    positive = name in _POSITIVE
    if not (value > 0 if positive else value >= 0) or not value < math.inf:
        raise ValueError(f"{name} must {'be positive' if positive else 'not be negative or infinite'}, got {value}")


def _is_number(value: Any) -> bool:
    """Whether it is a number that fits a float, and neither true nor false."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max
    return isinstance(value, float)
