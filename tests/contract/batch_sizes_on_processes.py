"""Batch-size schedules on any number of processes; test_batch_sizes_on_processes.py runs it.

`follow` fits with growing and shrinking batches from every source of a loader and writes down what each process saw.
`same` trains in float64 with one schedule of global batches, split over the processes and over micro-batches. `adapt`
lets the gradient's noise decide.
"""

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import lr_scheduler as lrs
from torch.utils.data import BatchSampler, DataLoader, TensorDataset, WeightedRandomSampler

from lightning_gap import (
    AdaptiveBatchSize,
    BatchSizeScheduler,
    GhostBatchNormSwap,
    InMemoryLoader,
    LearningRateScaling,
    ResumableLoader,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

SCHEDULES = {"grows": {0: 8, 1: 16, 3: 24}, "shrinks": {0: 24, 1: 16, 3: 4}}
SOURCES = ["fit", "module", "data module"]
LOADERS = {
    "DataLoader": lambda size: DataLoader(numbered(), batch_size=size, shuffle=True),
    "ResumableLoader": lambda size: ResumableLoader(numbered(), batch_size=size, shuffle=True),
}


def numbered():
    return TensorDataset(*tiny.dataset(48).tensors, torch.arange(48))


class Watched(tiny.Validated):
    def __init__(self, make_loader=None):
        super().__init__()
        self.make_loader, self.batch_size = make_loader, 12
        self.seen, self.lengths, self.validated, self.rates = {}, {}, [], []

    def training_step(self, batch, batch_idx):
        self.seen.setdefault(self.current_epoch, []).append(batch[2].tolist())
        self.lengths[self.current_epoch] = self.trainer.num_training_batches
        return super().training_step(batch[:2], batch_idx)

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.validated.append(self.current_epoch)

    def on_train_epoch_end(self):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [lrs.StepLR(optimizer, 1, 0.5)]


class OwnLoader(Watched):
    def train_dataloader(self):
        return self.make_loader(self.batch_size)

    def val_dataloader(self):
        return tiny.loader(24, seed=2)


class Data(LightningDataModule):
    def __init__(self, make_loader):
        super().__init__()
        self.make_loader, self.batch_size = make_loader, 12

    def train_dataloader(self):
        return self.make_loader(self.batch_size)

    def val_dataloader(self):
        return tiny.loader(24, seed=2)


def follow(processes):
    found = {}
    for loader, make_loader in LOADERS.items():
        for source in SOURCES:
            for name, schedule in SCHEDULES.items():
                torch.manual_seed(0)
                module = OwnLoader(make_loader) if source == "module" else Watched()
                trainer = tiny.trainer(BatchSizeScheduler(schedule), max_epochs=4, strategy="ddp", devices=processes)
                if source == "fit":
                    trainer.fit(module, make_loader(12), tiny.loader(24, seed=2))
                else:
                    trainer.fit(module, Data(make_loader) if source == "data module" else None)
                found[loader, source, name] = {
                    "seen": module.seen,
                    "lengths": module.lengths,
                    "validated": module.validated,
                    "rates": module.rates,
                }
    found["weighted"] = weighted(processes)
    found["refused"] = refused(processes)
    return found


def weighted(processes):
    """A sampler that draws the even samples only, which Lightning shares out."""
    module = Watched()
    sampler = WeightedRandomSampler(torch.arange(48) % 2 == 0, 48)
    loader = DataLoader(numbered(), batch_size=12, sampler=sampler)
    trainer = tiny.trainer(BatchSizeScheduler({0: 8, 1: 16}), max_epochs=2, strategy="ddp", devices=processes)
    trainer.fit(module, loader, tiny.loader(24, seed=2))
    return module.seen


def refused(processes):
    """What cannot be done on several processes, each before the first step on all of them."""
    own = DataLoader(numbered(), batch_sampler=type("Own", (BatchSampler,), {})(range(48), 8, drop_last=False))
    tries = {
        "own batch sampler": (BatchSizeScheduler({0: 8, 1: 16}), own),
        "odd size": (BatchSizeScheduler({0: 8, 1: 17}), LOADERS["DataLoader"](8)),
        "too large": (BatchSizeScheduler({0: 8, 1: 96}), LOADERS["DataLoader"](8)),
    }
    rank = int(os.environ.get("LOCAL_RANK", 0))
    tries["different"] = BatchSizeScheduler({0: 8 + 8 * rank}), LOADERS["DataLoader"](8)
    messages = {}
    for name, (callback, loader) in tries.items():
        trainer = tiny.trainer(callback, max_epochs=2, strategy="ddp", devices=processes)
        try:
            trainer.fit(Watched(), loader, tiny.loader(24, seed=2))
        except ValueError as error:
            messages[name] = (trainer.global_step, str(error))
    return messages


class Small(LightningModule):
    def __init__(self, *, norm):
        super().__init__()
        torch.manual_seed(0)
        norms = [nn.BatchNorm1d(16)] if norm else []
        self.net = nn.Sequential(nn.Linear(8, 16), *norms, nn.Tanh(), nn.Linear(16, 3)).double()

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-3)


def tensors(samples):
    inputs, targets = tiny.dataset(samples).tensors
    return inputs.double(), targets


def same(processes, accumulations):
    found = {}
    for accumulate in accumulations:
        for norm, samples in ((False, 1332), (True, 1280)):  # without BatchNorm also with tails of uneven shares
            callbacks = [LearningRateScaling(64, warmup_epochs=2), BatchSizeScheduler({0: 128, 3: 256})]
            callbacks += [GhostBatchNormSwap(8)] if norm else []
            module = Small(norm=norm)
            trainer = tiny.trainer(
                *callbacks,
                strategy="ddp" if processes > 1 else "auto",
                devices=processes,
                precision="64-true",
                max_epochs=-1,
                max_steps=50,
                accumulate_grad_batches=accumulate,
            )
            trainer.fit(module, InMemoryLoader(tensors(samples), batch_size=8, shuffle=True))
            found["ghosts" if norm else "plain", accumulate] = tiny.state_of(module.net)
    return found


class Wanted(Callback):
    """The batch size and what the test asked for, at each step."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *rest):
        if "batch/wanted" in trainer.callback_metrics and not trainer.fit_loop._should_accumulate():
            self.seen.append([float(trainer.callback_metrics[key]) for key in ("batch/size", "batch/wanted")])


def adapt(processes):
    """With all of a batch's noise known, from the micro-batches of any number of processes."""
    found = {}
    for every in (None, 2):
        module, wanted = Small(norm=False), Wanted()
        adaptive = AdaptiveBatchSize(
            64, 512, theta=0.3, measure_every_n_steps=1, decide_every_n_steps=every, micro_batches=4
        )
        trainer = tiny.trainer(
            adaptive,
            wanted,
            strategy="ddp" if processes > 1 else "auto",
            devices=processes,
            precision="64-true",
            max_epochs=5,
        )
        trainer.fit(module, InMemoryLoader(tensors(1300), batch_size=8, shuffle=True))
        found[every] = {"seen": wanted.seen, "weights": tiny.state_of(module.net)}
    return found


def main() -> None:
    output, mode, processes = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    if mode == "same":
        found = same(processes, [int(k) for k in sys.argv[4:]])
    else:
        found = {"follow": follow, "adapt": adapt}[mode](processes)
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    torch.save(found, output / f"{mode}-{processes}-{rank}.pt")


if __name__ == "__main__":
    main()
