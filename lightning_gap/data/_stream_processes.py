"""Let all processes that read one stream have equally many batches, however long the shards of each are."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from . import _planned_loader
from ._shards import Dealer


def agree(dealer: Dealer, samples: list[Any], size: int, epoch: int, *, drop_last: bool) -> tuple[list[int], bool]:
    """Decide together about a batch.

    The epoch ends for all with the last batch of the first process that has no more samples. One sample that another
    process still has joins that batch, as no share of a next one may be empty; more are left out, with a warning.

    Args:
        dealer: Of this process.
        samples: Its share of the batch; one may join.
        size: What the share was to be.
        epoch: For the warning.
        drop_last: Whether a batch that is not full on every process is left out.

    Returns:
        The samples of each process in this batch, none where there is no batch, and whether it is the last.
    """
    taken = _of_all(len(samples), int(dealer.has_more()))
    if all(more for _, more in taken):
        return [count for count, _ in taken], False
    if min(count for count, _ in taken) == 0 or (drop_last and any(count < size for count, _ in taken)):
        if not drop_last and any(count for count, _ in taken):
            _say_what_is_left_out(taken, epoch)
        return [], True
    if not drop_last and any(more for _, more in taken):
        samples.extend(dealer.take(1))
        taken = _of_all(len(samples), int(dealer.has_more()))
        if any(more for _, more in taken):
            _say_what_is_left_out(taken, epoch)
    return [count for count, _ in taken], True


def _say_what_is_left_out(taken: list[tuple[int, int]], epoch: int) -> None:
    ended = ", ".join(str(rank) for rank, (_, more) in enumerate(taken) if not more)
    warnings.warn(
        f"the stream ended on process {ended} before the others in epoch {epoch}; what those had left is left out, and "
        "the epoch ends for all: give shards that are equally long to a sample",
        stacklevel=3,
    )


def _of_all(*own: int) -> list[tuple[int, int]]:
    """Two numbers of each process, in the order of their ranks."""
    processes, _ = _planned_loader._processes()
    if processes == 1:
        return [(own[0], own[1])]
    backend = torch.distributed.get_backend()
    device = torch.device("cuda", torch.cuda.current_device()) if backend == "nccl" else torch.device("cpu")
    numbers = torch.zeros(processes, 2, dtype=torch.long, device=device)
    torch.distributed.all_gather(list(numbers), torch.tensor(own, device=device))
    return [(count, more) for count, more in numbers.tolist()]
