"""Refuse numbers and settings that cannot work, by one clear error each."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from lightning_gap.functional import BatchNormMode
from lightning_gap.recipes.datasets.augmentations import AUGMENTATIONS
from lightning_gap.recipes.optimizers import OPTIMIZERS
from lightning_gap.recipes.recipe import Numbers, chosen

if TYPE_CHECKING:
    from lightning_gap.recipes.plan import Settings

SEEDS = 2**31
_AT_LEAST_ONE = ("epochs", "small_batch_size", "large_batch_size", "ghost_batch_size", "evaluation_chunk")
_POSITIVE = ("learning_rate", "gradient_clip")
_NOT_NEGATIVE = ("warmup_epochs", "weight_decay", "validation_size")


def completed(numbers: Numbers, settings: Settings) -> Numbers:
    """The recipe's numbers with those that were given in their place.

    Raises:
        ValueError: If there is no such number, or the Trainer's ``max_epochs`` and ``epochs`` contradict each other.
    """
    given = dict(settings.numbers)
    for name in given:
        chosen("number", name, [field.name for field in fields(Numbers)])
    longest = settings.trainer.get("max_epochs")
    if longest is not None:
        if given.get("epochs", longest) != longest:
            raise ValueError(f"epochs={given['epochs']} and trainer.max_epochs={longest} contradict; give one of them")
        given["epochs"] = longest
    filled = replace(numbers, **given)
    return replace(filled, learning_rate_steps=_steps(filled.learning_rate_steps))


def check_numbers(numbers: Numbers) -> None:
    """Refuse a number out of its range.

    Raises:
        ValueError: Names the number, its value and the range.
    """
    for name, kind in get_type_hints(Numbers).items():
        _check_type(name, getattr(numbers, name), kind)
    for name in (*_AT_LEAST_ONE, "sharpness_samples"):
        if getattr(numbers, name) < 1:
            raise ValueError(f"{name} must be at least 1, got {getattr(numbers, name)}")
    for name in _POSITIVE:
        if not 0 < getattr(numbers, name) < math.inf:
            raise ValueError(f"{name} must be positive, got {getattr(numbers, name)}")
    for name in _NOT_NEGATIVE:
        if not 0 <= getattr(numbers, name) < math.inf:
            raise ValueError(f"{name} must not be negative or infinite, got {getattr(numbers, name)}")
    for epoch, factor in numbers.learning_rate_steps.items():
        if epoch < 1 or not _is_number(factor) or not 0 < factor < math.inf:
            raise ValueError(
                "learning_rate_steps must be positive factors by epochs from 1, for instance {81: 0.1}, got "
                f"{dict(numbers.learning_rate_steps)}"
            )
    chosen("optimizer", numbers.optimizer, OPTIMIZERS)
    chosen("augmentation", numbers.augmentation, AUGMENTATIONS)
    chosen("batch_norm", numbers.batch_norm, get_args(BatchNormMode))


def check_settings(settings: Settings) -> None:
    """Refuse settings that contradict each other or are out of range.

    Raises:
        ValueError: Names the setting, its value and the fix.
    """
    if settings.resume and settings.output is None:
        raise ValueError("resume needs the folder of the run to resume; pass --output")
    if not settings.regimes or len(set(settings.regimes)) < len(settings.regimes):
        raise ValueError(f"regimes must name at least one regime, each once, got {list(settings.regimes)}")
    counts = {"trials": settings.trials, "measure_every_n_epochs": settings.measure_every_n_epochs}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if settings.num_workers is not None and settings.num_workers < 0:
        raise ValueError(f"num_workers must be at least 0, got {settings.num_workers}")
    epsilon = settings.epsilon
    if not epsilon or not all(0 < value < math.inf for value in epsilon) or len(set(epsilon)) < len(epsilon):
        raise ValueError(f"epsilon must be different positive numbers, got {list(epsilon)}; the paper: 1e-3 and 5e-4")
    if not 0 <= settings.seed <= SEEDS - settings.trials:
        raise ValueError(f"seed must be from 0 to {SEEDS - settings.trials}, got {settings.seed}")


def _steps(given: Any) -> dict[int, float]:
    """Factors by epoch as a recipe's file or an option has them; the epochs as whole numbers, in their order."""
    if not isinstance(given, Mapping):
        raise ValueError(f"learning_rate_steps must be factors by epoch, for instance {{81: 0.1}}, got {_shown(given)}")
    for epoch in given:
        if not _is_number(epoch) or not math.isfinite(epoch) or epoch != int(epoch):
            raise ValueError(
                f"learning_rate_steps must begin at whole epochs, got {_shown(epoch)}; for instance {{81: 0.1}}"
            )
    return {int(epoch): given[epoch] for epoch in sorted(given)}


def _is_number(value: Any) -> bool:
    """Whether it is a number that fits a float, and neither true nor false."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max
    return isinstance(value, float)


def _check_type(name: str, value: Any, kind: Any) -> None:
    """Refuse what Python would compare or multiply without complaint, or with one that names no argument."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    number = _is_number(value)
    fits = {int: whole, float: number, bool: isinstance(value, bool), float | None: number or value is None}
    if not fits.get(kind, True):  # what goes by names, and the steps, are looked at on their own
        wanted = {int: "a whole number", bool: "true or false"}.get(kind, "a number")
        raise ValueError(f"{name} must be {wanted}, got {_shown(value)}")


def _shown(value: Any) -> str:
    """A value in an error, cut where nobody would read on."""
    text = (
        repr(value)
        if isinstance(value, bool) or not isinstance(value, int) or _is_number(value)
        else "one with over 300 digits"
    )
    return text if len(text) <= 200 else f"{text[:200]}..."
