"""Losses, accuracies or other means at many points of weight space, over several data splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._loss_surface import agree
from .._validation import function, instance, one_of, text, whole_number
from ..batch_statistics import batch_statistics, recomputed_statistics
from ..dataset_loss import BatchNormMode, check_batch_norm
from ._places import Places, same_state
from ._splits import Measure, Split, held, means, named_means
from ._together import Together, largest_output
from .points import WeightPoints

_FEWEST_ON_CPU = 10  # in a stack that is faster than a loop; fewer were not, see benchmarks/results/landscape-cpu.md


@dataclass(frozen=True)
class PointValues:
    """What `evaluate_points` found.

    Attributes:
        values: By split and name, one mean for each point, in their order; not finite where the network was not.
        shape: That of the points.
        points_at_once: Most points that were evaluated together; 1 is a plain loop.
        reason: Why it was a plain loop, if it was not asked for; empty otherwise.

    Example:
        >>> found = PointValues({"train": {"loss": [3.0, 1.0, 2.0]}}, (3,), 1, "")
        >>> found.grid("train", "loss")
        tensor([3., 1., 2.], dtype=torch.float64)
    """

    values: Mapping[str, Mapping[str, list[float]]]
    shape: tuple[int, ...]
    points_at_once: int
    reason: str

    def grid(self, split: str, name: str) -> Tensor:
        """One quantity as a float64 tensor of the points' shape."""
        split = one_of("split", split, list(self.values))
        values = self.values[split][one_of("name", name, list(self.values[split]))]
        return torch.tensor(values, dtype=torch.float64).reshape(self.shape)


def evaluate_points(
    module: nn.Module,
    points: WeightPoints,
    measure: Measure,
    splits: Mapping[str, Iterable[Any]],
    *,
    batch_norm: BatchNormMode = "running",
    statistics: str | None = None,
    count: Callable[[Any], int] | None = None,
    points_at_once: int | None = None,
    max_bytes: int | None = None,
    evaluation_mode: Callable[[nn.Module], object] = nn.Module.eval,
) -> PointValues:
    """Mean loss, and whatever else is measured, of each split at each point.

    The network is in evaluation mode. Where it pays, several points are evaluated together with `torch.func.vmap`, on a
    stack of parameters and buffers; the result is that of a plain loop to rounding, and the first point is compared
    with one. A plain loop it is where vmap cannot: a ``measure`` that asks for numbers (``.item()``) or branches on
    them, draws random numbers, or writes to tensors that are not the module's. By default it is one, too, where it is
    faster on the CPU: with convolutions, and where less than ten points fit into the processor's cache.

    Everything is as before on return, also after an exception or Ctrl-C: weights, buffers, modes, gradients, torch's
    and Python's random numbers.

    Args:
        module: Any network.
        points: Of its weight space; see `line_points`, `surface_points`, `WeightPlane` and `WeightCurve`.
        measure: Mean over a batch, a function of (module, batch): a scalar tensor, then named "loss", or scalars by
            name. It moves the batch to the module's device if need be, and turns gradients on if it needs them.
        splits: By name, batches to evaluate on: a list of them, a `FixedSubset`, or a loader, which is read once and
            whose batches are held in memory.
        batch_norm: "running" takes the running statistics of each point as they are combined, "batch" those of each
            batch, "recomputed" the mean of the batches' statistics at the point, from one more pass. On a path the
            first says little: the statistics of weights in between are not in between.
        statistics: For "recomputed" the split that the pass is over; the first by default.
        count: What a batch counts for in the mean, a function of it; its samples by default.
        points_at_once: Most points to evaluate together; 1 for a plain loop. By default as many as ``max_bytes`` hold.
        max_bytes: Memory for the stacked weights and activations, in bytes; by default 4 MiB on the CPU, about what its
            cache holds, and 256 MiB elsewhere or where ``points_at_once`` is given.
        evaluation_mode: Puts the module in evaluation mode.

    Returns:
        The means, and how they were evaluated.

    Raises:
        ValueError: If the points are those of another network, there is no batch, or a count cannot be told.

    Reference:
        Keskar et al. (2017), section 2.2; Li et al. (2018), section 3.

    Example:
        >>> from lightning_gap.functional import line_points
        >>> line = nn.Linear(1, 1, bias=False)
        >>> path = line_points({"weight": torch.zeros(1, 1)}, {"weight": torch.full((1, 1), 2.0)}, [-1.0, 0.0, 1.0])
        >>> squares = lambda module, batch: module(batch).square().mean()
        >>> evaluate_points(line, path, squares, {"train": [torch.ones(4, 1)]}).values
        {'train': {'loss': [4.0, 0.0, 4.0]}}
    """
    module, points = instance("module", module, nn.Module), instance("points", points, WeightPoints)
    function("measure", measure, "(module, batch)")
    batch_norm = check_batch_norm(batch_norm)
    if points_at_once is not None:
        points_at_once = whole_number("points_at_once", points_at_once, unit="points")
    if max_bytes is not None:
        max_bytes = whole_number("max_bytes", max_bytes, unit="bytes")
    function("evaluation_mode", evaluation_mode, "(module)")
    if not isinstance(splits, Mapping) or not splits:
        raise ValueError(f"splits must be batches by name, at least one, got {type(splits).__name__}; pass "
                         '{"train": loader}')  # fmt: skip
    if statistics is not None:
        statistics = one_of("statistics", text("statistics", statistics), list(splits))
    with same_state(module), torch.no_grad():
        data = {name: held(name, batches, count) for name, batches in splits.items()}
        evaluation_mode(module)
        loop = Loop(module, points, measure, data, batch_norm, data[statistics or next(iter(data))])
        reason = _better_alone(module) if points_at_once is None else ""
        if points_at_once == 1 or len(points) == 1 or reason:
            return loop.result([loop.at(i) for i in range(len(points))], 1, reason)
        on_cpu = _on_cpu(module)
        return _together(
            loop,
            most=min(points_at_once or len(points), len(points)),
            least=_FEWEST_ON_CPU if on_cpu and points_at_once is None else 2,
            max_bytes=max_bytes or (2**22 if on_cpu and points_at_once is None else 2**28),
        )


class Loop:
    """A plain loop over the points: each is written into the module, and measured."""

    def __init__(
        self,
        module: nn.Module,
        points: WeightPoints,
        measure: Measure,
        splits: Mapping[str, Split],
        batch_norm: BatchNormMode,
        statistics: Split,
    ) -> None:
        self.module, self.measure, self.splits = module, measure, splits
        self.batch_norm: BatchNormMode = batch_norm
        self.statistics = statistics
        self.places = Places(module, points)

    def at(self, point: int) -> dict[str, dict[str, float]]:
        """By split and name, the means at one point."""
        self.places.move(point)
        random_numbers = torch.get_rng_state()
        with self._normalised():
            torch.set_rng_state(random_numbers)  # the same at each point
            found = {name: means(self._measured, split) for name, split in self.splits.items()}
        torch.set_rng_state(random_numbers)
        return {split: {name: float(value) for name, value in by_name.items()} for split, by_name in found.items()}

    def _measured(self, batch: Any) -> dict[str, Tensor]:
        return named_means(self.measure(self.module, batch))

    def _normalised(self) -> AbstractContextManager[None]:
        if self.batch_norm == "batch":
            return batch_statistics(self.module)
        if self.batch_norm == "recomputed":
            return recomputed_statistics(self.module, self._pass)
        return nullcontext()

    def _pass(self) -> None:
        for batch in self.statistics.batches:
            self.measure(self.module, batch)

    def result(self, found: Sequence[dict[str, dict[str, float]]], at_once: int, reason: str) -> PointValues:
        """The means of all points, by split and name."""
        if any(each[split].keys() != found[0][split].keys() for each in found for split in each):
            raise ValueError("measure must return the same names at every point; return NaN where there is no value")
        values = {
            split: {name: [each[split][name] for each in found] for name in found[0][split]} for split in found[0]
        }
        return PointValues(values, tuple(self.places.points.shape), at_once, reason)


def _together(loop: Loop, *, most: int, least: int, max_bytes: int) -> PointValues:
    """Stack after stack of points; from the first that fails on, a plain loop."""
    number = len(loop.places.points)
    together = Together(loop.module, loop.places, loop.measure, loop.batch_norm)
    with largest_output(loop.module) as outputs:
        reference = loop.at(0)
    # A layer's input and output, and two more that its kernel makes, are alive at a time.
    each_needs = together.bytes_each + 4 * outputs.get("bytes", 0) + 1
    at_once = max(1, min(most, max_bytes // each_needs))
    reason = ""
    if at_once < least and at_once < number:
        reason = f"a point takes {each_needs} bytes, so that max_bytes={max_bytes} holds {at_once}: a loop is as fast"
    loop.places.move(number - 1)  # what vmap leaves at the module's own weights then differs from the reference
    found: list[dict[str, dict[str, float]]] = []
    while len(found) < number and not reason:
        chunk = range(len(found), min(len(found) + at_once, number))
        try:
            new = together.at(chunk, loop.splits, loop.statistics)
        except Exception as error:  # of whatever type; if it is the user's, the loop raises it again
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            break
        if not found and not _same(new[0], reference):
            reason = "together, the points had other values than one by one"
            break
        found += new
    if reason:
        at_once = at_once if found else 1
        found = found or [reference]
        found += [loop.at(i) for i in range(len(found), number)]
    return loop.result(found, at_once, reason)


def _same(one: dict[str, dict[str, float]], other: dict[str, dict[str, float]]) -> bool:
    if {s: set(v) for s, v in one.items()} != {s: set(v) for s, v in other.items()}:
        return False
    return all(agree(one[split][name], other[split][name]) for split in one for name in one[split])


def _on_cpu(module: nn.Module) -> bool:
    return all(weight.device.type == "cpu" for weight in module.parameters())


def _better_alone(module: nn.Module) -> str:
    if _on_cpu(module) and any(isinstance(part, nn.modules.conv._ConvNd) for part in module.modules()):
        return "convolutions on the CPU are faster one by one; pass points_at_once to stack them"
    return ""
