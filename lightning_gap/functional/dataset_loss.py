"""A module's mean loss over fixed samples, as a function of its weights and of nothing else."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import TracebackType
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.distributed import ProcessGroup, get_rank, get_world_size

from ._sample_count import guess_samples
from ._uninterrupted import uninterrupted_exit
from ._validation import checked_group, each, function, indexed, instance, one_of, refusal, whole_number
from .batch_statistics import batch_statistics, recomputed_statistics
from .fixed_subset import FixedSubset

BatchNormMode = Literal["running", "batch", "recomputed"]
"""Statistics with which BatchNorm is evaluated; see `DatasetLoss`."""


class DatasetLoss(AbstractContextManager["DatasetLoss"]):
    """The ``loss_fn`` that `sharpness` and the curvature functions take, made from a module and batches.

    Called, it yields each batch's share of the mean loss over all samples, one graph alive at a time. As a context
    manager, which those functions enter, it puts the module in evaluation mode (no dropout) with the chosen BatchNorm
    statistics, and puts modes and buffers back at the end.

    Args:
        module: The module; its parameters are not touched.
        loss_fn: Mean loss of one batch, a function of (module, batch).
        batches: The same batches every time: a list of them, or a `FixedSubset`.
        sizes: Samples in each batch; by default the first axis of its tensors, on which all must agree.
        batch_norm: "running" evaluates BatchNorm with its running statistics, "batch" with those of each batch, which
            then belongs to the definition, "recomputed" with the mean of the batches' statistics at the weights.
        process_group: Processes between which the batches are dealt out; pass the same to the function that measures.
        evaluation_mode: Puts the module in evaluation mode, `nn.Module.eval` by default.

    Attributes:
        samples: Number of samples, over all processes.
        batch_norm: As given.

    Raises:
        ValueError: If there is no batch, a size cannot be told, or ``batch_norm`` is unknown.

    Example:
        >>> import torch
        >>> from lightning_gap.functional import sharpness
        >>> module = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(module.weight)
        >>> loss = DatasetLoss(module, lambda m, b: m(b).square().mean(), [torch.ones(3, 1), 2 * torch.ones(1, 1)])
        >>> round(sharpness(loss, module.parameters(), epsilon=0.5).percent, 1)  # 7/4 and 7/4 * 2**2: 100 * 5.25 / 2.75
        190.9
    """

    def __init__(
        self,
        module: nn.Module,
        loss_fn: Callable[[Any, Any], Tensor],
        batches: Sequence[Any],
        *,
        sizes: Sequence[int] | None = None,
        batch_norm: BatchNormMode = "running",
        process_group: ProcessGroup | None = None,
        evaluation_mode: Callable[[nn.Module], object] = nn.Module.eval,
    ) -> None:
        self.module = instance("module", module, nn.Module)
        self.batch_norm: BatchNormMode = check_batch_norm(batch_norm)
        self._loss_fn = function("loss_fn", loss_fn, "(module, batch)")
        self._batches = _checked_batches(batches)
        if sizes is None:
            sizes = batches.sizes if isinstance(batches, FixedSubset) else [samples_in(batch) for batch in batches]
        self._sizes = each("sizes", sizes, lambda name, size: whole_number(name, size, unit="samples"))
        if not self._sizes or len(self._sizes) != len(batches):
            raise ValueError(
                f"sizes and batches must pair up, at least one of each, got {len(self._sizes)} and {len(batches)}"
            )
        self.samples = sum(self._sizes)
        self._group = checked_group(process_group)
        self._rank = get_rank(self._group) if self._group else 0
        self._processes = get_world_size(self._group) if self._group else 1
        self._evaluation_mode = function("evaluation_mode", evaluation_mode, "(module)")
        self._entered: list[AbstractContextManager[None]] = []

    @property
    def sizes(self) -> list[int]:
        """Samples in each of the batches that this process evaluates, in order."""
        return self._sizes[self._rank :: self._processes]

    def __call__(self) -> Tensor | Iterator[Tensor]:
        """The loss, or its parts where there are several batches."""
        if len(self._sizes) == 1 == self._processes:
            return self._loss_fn(self.module, self._batches[0])
        return self._parts()

    def halves(self) -> tuple[Callable[[], Iterator[Tensor]], ...]:
        """The mean loss over the first batches and that over the rest, cut where the samples are nearest to halved.

        None where one side would hold less than a quarter of the samples, as with a single batch. Each is to be a fair
        sample of the whole: the batches come in random order, as those of a `FixedSubset` do. For use while this loss
        is entered, which puts the module in the right mode.
        """
        ends = list(itertools.accumulate(self._sizes))
        middle = min(range(len(ends)), key=lambda i: abs(2 * ends[i] - self.samples))
        smaller = min(ends[middle], self.samples - ends[middle])
        if 4 * smaller < self.samples:
            return ()
        return partial(self._parts, 0, middle + 1), partial(self._parts, middle + 1)

    def _parts(self, first: int = 0, end: int | None = None) -> Iterator[Tensor]:
        samples = sum(self._sizes[first:end])
        for i in range(len(self._sizes))[first:end][self._rank :: self._processes]:
            yield self._loss_fn(self.module, self._batches[i]) * (self._sizes[i] / samples)

    def __enter__(self) -> DatasetLoss:
        evaluating = self._evaluating()
        try:
            evaluating.__enter__()
            self._entered.append(evaluating)
        except BaseException:  # also a signal right here: nobody else would leave it
            self._entered = [manager for manager in self._entered if manager is not evaluating]
            evaluating.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.pop().__exit__(kind, error, trace)

    @uninterrupted_exit
    def _evaluating(self) -> Iterator[None]:
        modes = [(part, part.training) for part in self.module.modules()]
        try:
            self._evaluation_mode(self.module)
            with self._statistics():
                yield
        finally:
            for part, training in modes:
                part.training = training

    def _statistics(self) -> AbstractContextManager[None]:
        if self.batch_norm == "batch":
            return batch_statistics(self.module)
        if self.batch_norm == "recomputed":
            return recomputed_statistics(self.module, self._pass, process_group=self._group)
        return nullcontext()

    def _pass(self) -> None:
        for part in self._parts():
            del part  # and its graph


def check_batch_norm(batch_norm: BatchNormMode) -> BatchNormMode:
    """Give ``batch_norm`` back, or raise the one error that names it."""
    return one_of("batch_norm", batch_norm, get_args(BatchNormMode))


def _checked_batches(batches: Sequence[Any]) -> Sequence[Any]:
    """Give the batches back if they are several, and can be read again and again."""
    if hasattr(batches, "__array__"):  # as a tensor has
        raise ValueError(refusal("batches", "must be a list of batches or a FixedSubset", batches, "pass [batch]"))
    checked: Sequence[Any] = indexed("batches", batches, "a list of batches or a FixedSubset")
    return checked


def samples_in(batch: Any) -> int:
    """Samples in a batch: the first axis of its tensors.

    Raises:
        ValueError: If they do not agree on it, or it could be something else; see `guess_samples`.
    """
    size = guess_samples(batch)
    if size is None:
        raise ValueError(
            f"batches: cannot tell how many samples a {type(batch).__name__} holds; pass sizes=..., one for each"
        )
    return size
