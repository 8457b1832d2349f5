"""What a batch counts for, on one process or two; test_counts_on_processes.py runs it."""

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, RandomSampler, TensorDataset

from lightning_gap import BatchSizeScheduler, ExactAccumulation

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny


def rows(samples):
    """Rows of different length, each with a target."""
    generator = torch.Generator().manual_seed(2)
    lengths = torch.randint(2, 7, (samples,), generator=generator).tolist()
    options = {"generator": generator, "dtype": torch.float64}
    return [(torch.randn(n, 5, **options), torch.randn((), **options)) for n in lengths]


def as_graphs(batch):
    owner = torch.cat([torch.full((len(row),), number) for number, (row, _) in enumerate(batch)])
    return torch.cat([row for row, _ in batch]), owner, torch.stack([y for _, y in batch])


class Graphs(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(5, 1).double()

    def training_step(self, batch, batch_idx):
        nodes, owner, targets = batch
        sums = nodes.new_zeros(len(targets), 5).index_add_(0, owner, nodes)
        return mse_loss(self.net(sums).squeeze(1), targets)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.5)


class Tokens(LightningModule):
    """A mean over what is not padding: 0 / 0 where all is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(8, 3).double()

    def training_step(self, batch, batch_idx):
        losses = cross_entropy(self.net(batch[0]), batch[1], reduction="none")
        return (losses * batch[2]).sum() / batch[2].sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def with_padding(empty):
    """48 samples; those of this batch of the second of two processes, of 4 each, are empty."""
    inputs, targets = tiny.dataset(48).tensors
    kept = (torch.rand(48, generator=torch.Generator().manual_seed(5)) < 0.6).double()
    for number in empty:
        kept[[8 * number + 2 * place + 1 for place in range(4)]] = 0  # a process has every second sample
    return TensorDataset(inputs.double(), targets, kept)


def tokens(batch):
    return batch[2].sum()


def train(module, loader, processes, *callbacks, **options):
    strategy = {"strategy": "ddp" if processes > 1 else "auto", "devices": processes}
    trainer = tiny.trainer(*callbacks, **strategy, **({"max_epochs": 2} | options))
    trainer.fit(module, loader)
    return tiny.state_of(module)


def loader_of(data, size, processes, **options):
    """Every second sample for each of two processes, in order; Lightning would shuffle them."""
    rank = int(os.environ.get("LOCAL_RANK", 0))
    shares = DistributedSampler(data, processes, rank, shuffle=False) if processes > 1 else None
    return DataLoader(data, size, sampler=shares, **options)


def same(processes):
    """Batches of 16 over all processes, on each in micro-batches of 4."""
    share = 16 // processes
    small = {"accumulate_grad_batches": share // 4} if processes > 1 else {}
    size = 4 if processes > 1 else 16
    graphs = loader_of(rows(44), size, processes, collate_fn=as_graphs)
    found = {"graphs": train(Graphs(), graphs, processes, ExactAccumulation(), **small)}
    for name, empty in (("first", [0]), ("last", [3]), ("whole window", [2, 3])):
        loader = loader_of(with_padding(empty), size, processes)
        found[name] = train(Tokens(), loader, processes, ExactAccumulation(tokens), **small)
    return found


class Rows(TensorDataset):
    """A list of indices for a whole batch."""


class InBulk(tiny.TinyClassifier):
    def __init__(self):
        super().__init__()
        self.batch_size, self.sizes = 4, []

    def train_dataloader(self):
        data = Rows(*tiny.dataset(48).tensors)
        return DataLoader(data, batch_size=None, sampler=BatchSampler(RandomSampler(data), self.batch_size, False))

    def training_step(self, batch, batch_idx):
        self.sizes.append(len(batch[1]))
        return super().training_step(batch, batch_idx)


def error_of(callback, processes):
    try:
        train(Tokens(), DataLoader(with_padding([]), 4), processes, callback)
    except (ValueError, RuntimeError) as error:
        return str(error)


def refused(processes):
    """What is wrong on the second process alone ends on both."""

    def fails_later(batch):
        fails_later.calls += 1
        return float("nan") if torch.distributed.get_rank() == 1 and fails_later.calls > 5 else 1

    fails_later.calls = 0
    tries = {
        "at the first batch": lambda batch: -1 if torch.distributed.get_rank() == 1 else 1,
        "later": fails_later,
    }
    messages = {}
    for name, count in tries.items():
        messages[name] = error_of(ExactAccumulation(count), processes)
    return messages


def main() -> None:
    output, processes = Path(sys.argv[1]), int(sys.argv[2])
    found = {"same": same(processes)}
    module = InBulk()
    train(module, None, processes, BatchSizeScheduler({0: 8, 1: 24}))
    found["in bulk"] = module.sizes
    found["refused"] = refused(processes)
    torch.save(found, output / f"{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    main()
