"""Which samples form which batch of an epoch, for every process: a pure function of seed, epoch and position."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..functional._validation import flag, seed_number, set_plain, whole_number


@dataclass(frozen=True)
class BatchPlan:
    """The batches of one process in every epoch, with nothing to save: what was planned can be planned again.

    All processes cut the same order into batches of ``batch_size * processes`` samples, and each takes a consecutive
    share of every batch; the shares of a smaller last batch differ by at most one sample. No sample is repeated
    and, unless ``drop_last``, none is lost: a remainder of fewer samples than there are processes joins the batch
    before it, because no share may be empty.

    Args:
        samples: Samples in the data set.
        batch_size: Samples per batch and process.
        shuffle: Whether each epoch has an order of its own.
        seed: Seed of the orders.
        drop_last: Leave out what does not fill a batch.
        processes: Processes that train together.
        rank: This process, from 0.

    Raises:
        ValueError: If a count is not a whole number of at least 1, the rank is not below ``processes``, or there are
            too few samples for one batch.

    Example:
        >>> plan = BatchPlan(10, 2, processes=2, rank=1)
        >>> [batch.tolist() for batch in plan.batches(epoch=0)]
        [[2, 3], [6, 7], [9]]
    """

    samples: int
    batch_size: int
    shuffle: bool = False
    seed: int = 0
    drop_last: bool = False
    processes: int = 1
    rank: int = 0

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
        full, rest = divmod(self.samples, self.samples_per_batch)
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
        return int.from_bytes(hashlib.blake2b(f"{self.seed} {what}".encode(), digest_size=4).digest(), "big")

    def _bounds(self, position: int) -> tuple[int, int]:
        """Where this process's share of a batch begins and ends in the order."""
        start = position * self.samples_per_batch
        is_last = position == len(self) - 1 and not self.drop_last
        size = self.samples - start if is_last else self.samples_per_batch
        return start + size * self.rank // self.processes, start + size * (self.rank + 1) // self.processes
