"""What a schedule counts in: epochs, steps, samples or tokens, and what it says after so many of them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from torch import Tensor

from .._validation import one_of, refusal, text
from .schedule import EpochBatch, Schedule, checked_batch, checked_milestones

Unit = Literal["epochs", "steps", "samples", "tokens"]
"""What the thresholds of a schedule are, and what a function of one is called with: those before the step."""

_POWERS = {"": 0, "K": 1, "M": 2, "B": 3, "T": 4}  # of 1000
_ENTRY = re.compile(r"(\d+)([A-Za-z]?):(\d+)")


def checked_unit(value: object) -> Unit:
    """The unit of a schedule; raise if it is none of the four."""
    unit: Unit = one_of("unit", value, get_args(Unit))
    return unit


def schedule_from_text(schedule: str) -> dict[int, int]:
    """Read a schedule as Megatron's ``--step-batch-size-schedule`` writes it: ``"0:768 250B:1536"``.

    Args:
        schedule: THRESHOLD:BATCH, separated by spaces. A threshold may end in K, M, B or T, powers of 1000.

    Returns:
        Batch sizes in samples by the threshold that they begin at.

    Raises:
        ValueError: If an entry is not written like this, a threshold occurs twice, or as in `batch_at`.

    Example:
        >>> schedule_from_text("0:768 250B:1536")
        {0: 768, 250000000000: 1536}
    """
    entries = text("schedule", schedule).split()
    sizes: dict[int, int] = {}
    for entry in entries:
        found = _ENTRY.fullmatch(entry)
        power = None if found is None else _POWERS.get(found[2].upper())
        if found is None or power is None:
            hint = "a threshold ends in K, M, B, T or nothing, for instance 0:768 250B:1536"
            raise ValueError(refusal("schedule", "must be written THRESHOLD:BATCH", entry, hint))
        threshold = int(found[1]) * 1000**power
        if threshold in sizes:
            raise ValueError(f"schedule has the threshold {threshold} twice, in {schedule!r}; leave one out")
        sizes[threshold] = int(found[3])
    return checked_milestones(sizes, "samples or tokens")


def batch_at(schedule: Schedule | Mapping[int, int], unit: Unit) -> Callable[[int], EpochBatch]:
    """What a schedule asks for by what was consumed before the step, as a function that is quick to call.

    Args:
        schedule: Batch sizes by the threshold they begin at, or a function of what was consumed that returns a batch
            size or an `EpochBatch`. A threshold that is reached exactly has begun.
        unit: What the thresholds are: epochs, optimizer steps, samples or tokens, from 0.

    Returns:
        A function of the number of units consumed; it raises as `epoch_batch_at` does.

    Raises:
        ValueError: If the thresholds do not begin at 0 or do not rise, a size is not a whole number of at least 1, or
            the unit is none of the four.

    Example:
        >>> at = batch_at({0: 32, 10_000: 64}, "tokens")
        >>> [at(tokens).batch_size for tokens in (0, 9_999, 10_000)]
        [32, 32, 64]
    """
    unit = checked_unit(unit)
    if not isinstance(schedule, Mapping):
        if not callable(schedule):
            raise ValueError(refusal("schedule", f"must be a dict of sizes by {unit} or a function of them", schedule))
        return _Checked(schedule, unit)
    sizes = checked_milestones(schedule, unit)
    thresholds, batches = list(sizes), [EpochBatch(size) for size in sizes.values()]
    return lambda consumed: batches[bisect_right(thresholds, consumed) - 1]


class _Checked:
    """A function of what was consumed, whose answers are checked where they are others than the last."""

    def __init__(self, schedule: Schedule, unit: Unit) -> None:
        self._schedule, self._unit = schedule, unit
        self._last: Any = None
        self._batch = EpochBatch(1)

    def __call__(self, consumed: int) -> EpochBatch:
        asked = self._schedule(consumed)
        if type(asked) is not type(self._last) or asked != self._last:
            self._batch, self._last = checked_batch(lambda _: asked, consumed, self._unit), asked
        return self._batch


def tokens_in(batch: Any) -> int | None:
    """Tokens of a batch where they are certain: samples times the sequence length.

    Certain is a batch whose integer tensors all have the same shape (samples, length). Tensors of other types are not
    looked at, nor are integer tensors of shape (samples,), such as labels; without any (samples, length) tensor, or
    with one of three dimensions, it is not certain.

    Args:
        batch: A tensor, or a mapping, list or tuple of tensors, inside each other.

    Returns:
        The number of tokens, or ``None`` where they cannot be told.

    Example:
        >>> import torch
        >>> tokens_in((torch.zeros(8, 128, dtype=torch.long), torch.zeros(8, 128, dtype=torch.long)))
        1024
        >>> tokens_in((torch.zeros(8, 3), torch.zeros(8, dtype=torch.long))) is None
        True
    """
    shapes = {tuple(tensor.shape) for tensor in _tensors(batch) if _holds_integers(tensor) and tensor.dim() > 1}
    if len(shapes) != 1:
        return None
    shape = shapes.pop()
    return shape[0] * shape[1] if len(shape) == 2 else None


def _holds_integers(tensor: Tensor) -> bool:
    return not tensor.is_nested and not tensor.is_floating_point() and not tensor.is_complex() and _is_no_mask(tensor)


def _is_no_mask(tensor: Tensor) -> bool:
    return str(tensor.dtype) != "torch.bool"


def _tensors(part: Any) -> list[Tensor]:
    if isinstance(part, Tensor):
        return [part]
    inside = part.values() if isinstance(part, Mapping) else part if isinstance(part, list | tuple) else ()
    return [tensor for value in inside for tensor in _tensors(value)]
