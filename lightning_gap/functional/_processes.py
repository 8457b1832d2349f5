"""Sums over processes that fail together or not at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.distributed import ProcessGroup, all_reduce

from .errors import FailedElsewhereError


def sum_over_processes(
    compute: Callable[[], tuple[Sequence[float], list[Tensor]]],
    *,
    numbers: int,
    process_group: ProcessGroup | None,
    device: torch.device | None = None,
) -> tuple[list[float], list[Tensor]]:
    """Call ``compute`` on each process and add up what it returns; what fails on one of them ends on all of them.

    Args:
        compute: Returns this process's numbers and tensors, the tensors of equal shapes everywhere.
        numbers: How many numbers it returns; they are added in float64.
        process_group: The processes, all of which must call alike; None for this one alone, whose values come back as
            they are.
        device: Where the processes exchange their numbers; the CPU by default.

    Raises:
        FailedElsewhereError: If ``compute`` failed on another process. What fails here is raised as it is.

    Example:
        >>> sum_over_processes(lambda: ([2.0], []), numbers=1, process_group=None)
        ([2.0], [])
    """
    if process_group is None:
        own, tensors = compute()
        return list(own), tensors
    failure: BaseException | None = None
    own, tensors = [math.nan] * numbers, []
    try:
        own, tensors = compute()
    except BaseException as error:  # the others wait for us, whatever it was
        failure = error
    told = torch.tensor([failure is not None, *own], dtype=torch.float64, device=device)
    all_reduce(told, group=process_group)
    if failure is not None:
        raise failure
    if told[0] > 0:
        raise FailedElsewhereError("measuring failed on another process; see its error")
    # Autograd may give one tensor for two weights, and one laid out otherwise in memory than on another process.
    tensors = [tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors]
    for tensor in tensors:
        all_reduce(tensor, group=process_group)
    return told[1:].tolist(), tensors
