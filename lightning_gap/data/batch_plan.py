"""Which samples form which batch of an epoch, for every process: a pure function of seed, epoch and position."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..functional._validation import each, flag, refusal, seed_number, set_plain, whole_number


@dataclass(frozen=True)
class BatchPlan:
    """The batches of one process in every epoch, with nothing to save: what was planned can be planned again.

    All processes cut the same order into batches of ``batch_size * processes`` samples, and each takes a consecutive
    share of every batch; the shares of a smaller last batch differ by at most one sample. No sample is repeated
    and, unless ``drop_last``, none is lost: a remainder of fewer samples than there are processes joins the batch
    before it, because no share may be empty.

    The size may change inside the epoch, where so many samples of it came before: no batch mixes two sizes, and all
    but the last have the size planned for them.

    Args:
        samples: Samples in the data set.
        batch_size: Samples per batch and process.
        shuffle: Whether each epoch has an order of its own.
        seed: Seed of the orders.
        drop_last: Leave out what does not fill a batch.
        processes: Processes that train together.
        rank: This process, from 0.
        later_sizes: Pairs of samples of the epoch, over all processes, and the samples per batch and process of
            every batch before which as many came; in rising order.

    Raises:
        ValueError: If a count is not a whole number of at least 1, the rank is not below ``processes``, there are
            too few samples for one batch, or ``later_sizes`` are not in rising order.

    Example:
        >>> plan = BatchPlan(10, 2, processes=2, rank=1)
        >>> [batch.tolist() for batch in plan.batches(epoch=0)]
        [[2, 3], [6, 7], [9]]
        >>> [batch.tolist() for batch in BatchPlan(9, 2, later_sizes=((4, 3),)).batches(epoch=0)]
        [[0, 1], [2, 3], [4, 5, 6], [7, 8]]
    """

    samples: int
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    drop_last: bool = False
    processes: int = 1
    rank: int = 0
    later_sizes: Sequence[tuple[int, int]] = ()

    def __post_init__(self) -> None:
        processes = whole_number("processes", self.processes, unit="processes")
        set_plain(
            self,
            samples=whole_number("samples", self.samples, unit="samples"),
            batch_size=whole_number("batch_size", self.batch_size, unit="samples"),
            shuffle=flag("shuffle", self.shuffle),
            seed=seed_number("seed", self.seed),
            drop_last=flag("drop_last", self.drop_last),
            processes=processes,
            rank=whole_number("rank", self.rank, 0, most=processes - 1, hint="it is below processes"),
            later_sizes=_checked_sizes(self.later_sizes),
        )
        if self.samples < self.processes:
            raise ValueError(
                f"{self.samples} samples cannot be shared by {self.processes} processes; use fewer processes"
            )
        if len(self) == 0:
            raise ValueError(
                f"drop_last=True leaves no batch: {self.samples} samples do not fill one of {self.samples_per_batch}; "
                "use a smaller batch_size or drop_last=False"
            )

    @property
    def samples_per_batch(self) -> int:
        """Samples of one batch over all processes."""
        return self.batch_size * self.processes

    def __len__(self) -> int:
        return self._batches

    @cached_property
    def _batches(self) -> int:
        position, first, batch = self._parts[-1]
        full, rest = divmod(self.samples - first, batch)
        full += position
        return full if self.drop_last or (rest < self.processes and full) else full + 1

    def order(self, epoch: int) -> Tensor:
        """Indices of all samples, shape (samples,), in this epoch's order."""
        if not self.shuffle:
            return torch.arange(self.samples)
        # The epoch-th number of the seed's own stream. Plain seed + epoch would hand one run the orders of another,
        # shifted; and torch's CPU generator reads only the low 32 bits of a seed, so the two cannot be packed.
        stream = torch.Generator().manual_seed(self.seed)
        epoch_seed = int(torch.randint(2**31, (epoch + 1,), generator=stream)[-1])
        return torch.randperm(self.samples, generator=torch.Generator().manual_seed(epoch_seed))

    def batches(self, epoch: int, start: int = 0, device: torch.device | None = None) -> Iterator[Tensor]:
        """This process's share of each batch of the epoch, from position ``start`` on; 1-D tensors of indices."""
        order = self.order(epoch).to(device)
        for position in range(start, len(self)):
            first, last = self._bounds(position)
            yield order[first:last]

    def size(self, position: int) -> int:
        """Samples of this process at a position."""
        first, last = self._bounds(position)
        return last - first

    def samples_before(self, position: int) -> int:
        """Samples of the epoch before the batch at a position, over all processes; at its end all that it serves."""
        return sum(self._span(position - 1)) if position else 0

    def random_seed(self, epoch: int, position: int, purpose: str) -> int:
        """A seed below 2^32 for what is drawn at random with this batch, for each purpose and process another."""
        return self._seed_of(f"{epoch} {position} {self.rank} {purpose}")

    def sample_seed(self, epoch: int, sample: int) -> int:
        """A seed below 2^32 for what is drawn with this sample, whatever its batch, position and process."""
        return self._seed_of(f"{epoch} {sample} sample")

    def sample_numbers(self, epoch: int, count: int) -> Tensor:
        """Random numbers from 0 to below 1 for each sample of the data set, shape (samples, count).

        The same for every batch size, order and process: what is made of them is a function of seed, epoch and sample.
        """
        generator = torch.Generator().manual_seed(self._seed_of(f"{epoch} numbers"))
        return torch.rand(self.samples, count, generator=generator)

    def _seed_of(self, what: str) -> int:
        return derived_seed(self.seed, what)

    def _bounds(self, position: int) -> tuple[int, int]:
        """Where this process's share of a batch begins and ends in the order."""
        start, size = self._span(position)
        return start + size * self.rank // self.processes, start + size * (self.rank + 1) // self.processes

    def _span(self, position: int) -> tuple[int, int]:
        """Where a batch begins in the order, and its samples, over all processes."""
        first, start, size = self._part(position)
        start += (position - first) * size
        is_last = position == self._batches - 1 and not self.drop_last
        return start, self.samples - start if is_last else size

    def _part(self, position: int) -> tuple[int, int, int]:
        parts = self._parts
        if len(parts) == 1:
            return parts[0]
        return parts[bisect_right(parts, position, key=lambda part: part[0]) - 1]

    @cached_property
    def _parts(self) -> list[tuple[int, int, int]]:
        """Batches of one size in a row: the position and the sample that they begin at, and their size over all."""
        parts = [(0, 0, self.samples_per_batch)]
        for samples_before, size in self.later_sizes:
            position, first, batch = parts[-1]
            batches = -(-max(0, samples_before - first) // batch)
            begin = first + batches * batch
            if begin >= self.samples or (not self.drop_last and 0 < self.samples - begin < self.processes):
                break
            if not batches:
                parts.pop()
            if not parts or parts[-1][2] != size * self.processes:
                parts.append((position + batches, begin, size * self.processes))
        return parts


def derived_seed(seed: int, what: str) -> int:
    """A seed below 2^32 for each purpose, as good as independent of those for others."""
    return int.from_bytes(hashlib.blake2b(f"{seed} {what}".encode(), digest_size=4).digest(), "big")


def _checked_sizes(sizes: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    plain = each("later_sizes", sizes, _checked_pair)
    before = [samples for samples, _ in plain]
    if before != sorted(before):
        raise ValueError(f"later_sizes must be in rising order of the samples before them, got {tuple(plain)}")
    return tuple(plain)


def _checked_pair(name: str, pair: object) -> tuple[int, int]:
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise ValueError(refusal(name, "must be pairs of samples before and batch size", pair))
    return whole_number(name, pair[0], 0, unit="samples"), whole_number(name, pair[1], unit="samples")
