"""The batches of a measurement, and means over them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._validation import function, refusal, whole_number
from ..dataset_loss import samples_in
from ..fixed_subset import FixedSubset

Measure = Callable[[Any, Any], Tensor | Mapping[str, Any]]
"""Mean over a batch, a function of (module, batch): a scalar tensor, or scalars by name."""


@dataclass(frozen=True)
class Split:
    """Batches that can be read again and again, and the share of each in a mean."""

    batches: Sequence[Any]
    shares: list[float]


def held(name: str, batches: Iterable[Any], count: Callable[[Any], int] | None) -> Split:
    """The batches of one split; those of a loader are held, so that every point sees the same."""
    if hasattr(batches, "__array__") or isinstance(batches, Mapping | str | bytes) or not isinstance(batches, Iterable):
        raise ValueError(refusal(f"splits[{name!r}]", "must be a list of batches or a loader", batches, "pass [batch]"))
    # What can be indexed, a FixedSubset for instance, is not held, and read again for each stack of points.
    kept: Sequence[Any] = batches if isinstance(batches, Sequence) else list(batches)
    if not len(kept):
        raise ValueError(f"splits[{name!r}] is empty; there is nothing to measure on")
    if count is not None:
        function("count", count, "the batch")
        sizes = [whole_number("count", count(batch), hint="what a batch counts for") for batch in kept]
    elif isinstance(kept, FixedSubset):
        sizes = kept.sizes
    else:
        try:
            sizes = [samples_in(batch) for batch in kept]
        except ValueError as error:
            raise ValueError(f"splits[{name!r}]: {str(error).partition(';')[0]}; pass count=...") from error
        if not all(sizes):
            raise ValueError(f"splits[{name!r}] holds a batch of no samples; leave it out")
    return Split(kept, [size / sum(sizes) for size in sizes])


def named_means(measured: Any) -> dict[str, Tensor]:
    """What was measured of a batch, by name."""
    by_name = measured if isinstance(measured, Mapping) else {"loss": measured}
    found = {}
    for name, value in by_name.items():
        value = value if isinstance(value, Tensor) else torch.tensor(float(value), dtype=torch.float64)
        if value.numel() != 1:
            raise ValueError(
                f"measure must return means of a batch, scalars; {name!r} has the shape {tuple(value.shape)}"
            )
        found[str(name)] = value.detach().reshape(())
    if not found:
        raise ValueError("measure returned nothing; it must return the mean loss of a batch, or means by name")
    return found


def means(measured: Callable[[Any], dict[str, Tensor]], split: Split) -> dict[str, Tensor]:
    """Means over a split, added up in float64 on the CPU, of values of one batch of the same shape each time."""
    totals: dict[str, Tensor] = {}
    for batch, share in zip(split.batches, split.shares, strict=True):
        found = measured(batch)
        if totals and found.keys() != totals.keys():
            raise ValueError(
                f"measure must return the same names for every batch, got {', '.join(found)} after {', '.join(totals)}"
                "; return NaN where there is no value"
            )
        for name, value in found.items():
            part = value.to("cpu", torch.float64) * share
            totals[name] = totals[name] + part if name in totals else part
    return totals
