"""Schedules by steps, samples and tokens on any number of processes; test_units_on_processes.py runs it.

`follow` fits with every unit and kind of loader and writes down which samples each step of each process had. `resume`
does so again from checkpoints of every step. `same` trains a small transformer in float64 with one schedule of tokens,
split over the processes and over micro-batches. `auto` lets one process run out of memory.
"""

import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_gap import BatchSizeScheduler, InMemoryLoader, ResumableLoader, ResumableStream

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

SAMPLES, LENGTH = 60, 5
IDS = torch.arange(SAMPLES)[:, None].expand(SAMPLES, LENGTH).contiguous()
SCHEDULES = {
    "steps": {0: 4, 3: 12, 9: 8, 11: 20},
    "samples": {0: 4, 10: 12, 40: 8, 100: 20},
    "tokens": {0: 4, 50: 12, 200: 8, 500: 20},
}
KINDS = ["ResumableLoader", "ResumableStream", "map", "stream"]


class Shared(IterableDataset):
    """A stream that divides itself over workers and processes, as torch asks of one."""

    def __init__(self, ranks):
        self.rank, self.ranks = int(os.environ.get("LOCAL_RANK", 0)), ranks

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        size, shards = 4 // self.ranks, self.ranks * workers
        # Whole batches in turn for each worker, so that none has a small one of its own at its end.
        mine = [i for i in range(SAMPLES) if i // size % shards == worker * self.ranks + self.rank]
        return iter(IDS[mine])


def make_loader(kind, processes, num_workers):
    size = 4 // processes
    if kind == "ResumableLoader":
        return ResumableLoader(IDS, batch_size=size, shuffle=True, num_workers=num_workers)
    if kind == "ResumableStream":
        return ResumableStream(IDS, batch_size=size, num_workers=num_workers)
    dataset = Shared(processes) if kind == "stream" else TensorDataset(IDS)
    return DataLoader(dataset, batch_size=size, shuffle=kind == "map", num_workers=num_workers)


class Steps(LightningModule):
    """Writes down the samples of each step of this process."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.2), nn.Linear(4, 1)).double()
        self.steps, self.waiting, self.taken = [], [], 0

    def on_train_start(self):
        self.taken = self.trainer.global_step

    def training_step(self, batch, batch_idx):
        ids = batch[0] if isinstance(batch, list) else batch
        self.waiting += ids[:, 0].tolist()
        return self.net(ids[:, :1].double() / SAMPLES).square().mean()

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.trainer.global_step > self.taken:
            self.taken = self.trainer.global_step
            self.steps.append((self.current_epoch, self.waiting))
            self.waiting = []

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class Grab(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{trainer.fit_loop.total_batch_idx}.ckpt")


def fit(kind, unit, processes, num_workers, *callbacks, **options):
    module = Steps()
    scheduler = BatchSizeScheduler(SCHEDULES[unit], unit=unit)
    strategy = "ddp" if processes > 1 else "auto"
    trainer = tiny.trainer(scheduler, *callbacks, max_epochs=2, strategy=strategy, devices=processes)
    trainer.fit(module, make_loader(kind, processes, num_workers), **options)
    return {"steps": module.steps, "weights": tiny.state_of(module)}


def follow(processes, num_workers):
    return {(kind, unit): fit(kind, unit, processes, num_workers) for kind in KINDS for unit in SCHEDULES}


def resume(processes, num_workers, folder):
    found = {}
    for kind in ("ResumableLoader", "ResumableStream"):
        (folder / kind).mkdir(exist_ok=True)
        found[kind, None] = fit(kind, "samples", processes, num_workers, Grab(folder / kind))
        for step in range(len(found[kind, None]["steps"])):
            checkpoint = folder / kind / f"{step}.ckpt"
            found[kind, step] = fit(kind, "samples", processes, num_workers, ckpt_path=checkpoint)
    return found


class Transformer(LightningModule):
    """One block of attention over 11 symbols."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.place = nn.Embedding(11, 8), nn.Parameter(torch.randn(8, 8) * 0.1)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 11)
        self.double()

    def training_step(self, batch, batch_idx):
        (ids,) = batch
        mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64)
        hidden = self.block(self.embed(ids[:, :-1]) + self.place[:7], src_mask=mask)
        return cross_entropy(self.head(hidden).flatten(0, 1), ids[:, 1:].flatten())

    def configure_optimizers(self):
        # The gradient by the biases of the keys is zero but for rounding, which a small eps would make steps of.
        return torch.optim.AdamW(self.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-6)


def same(processes, accumulate):
    ids = torch.randint(11, (300, 8), generator=torch.Generator().manual_seed(1))
    scheduler = BatchSizeScheduler("0:16 1K:32 2K:64", unit="tokens")
    module = Transformer()
    trainer = tiny.trainer(
        scheduler,
        strategy="ddp" if processes > 1 else "auto",
        devices=processes,
        precision="64-true",
        max_epochs=3,
        accumulate_grad_batches=accumulate,
    )
    trainer.fit(module, InMemoryLoader((ids,), batch_size=2, shuffle=True))
    return {"steps": trainer.global_step, "weights": tiny.state_of(module)}


class Greedy(Steps):
    """The second process has memory for three samples at a time."""

    def __init__(self):
        super().__init__()
        self.net[1] = nn.Identity()
        self.largest = 0

    def training_step(self, batch, batch_idx):
        if self.trainer.global_rank == 1 and len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.largest = max(self.largest, len(batch))
        return super().training_step(batch, batch_idx)


def auto(processes):
    module = Greedy()
    scheduler = BatchSizeScheduler({0: 8, 3: 16}, unit="steps", max_micro_batch="auto" if processes > 1 else None)
    strategy = "ddp" if processes > 1 else "auto"
    trainer = tiny.trainer(scheduler, max_epochs=2, strategy=strategy, devices=processes, precision="64-true")
    trainer.fit(module, make_loader("ResumableLoader", processes, 0))
    return {"largest": module.largest, "weights": tiny.state_of(module)}


def main() -> None:
    output, mode, processes, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    found = {
        "follow": lambda: follow(processes, number),
        "resume": lambda: resume(processes, number, output),
        "same": lambda: same(processes, number),
        "auto": lambda: auto(processes),
    }[mode]()
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    torch.save(found, output / f"{mode}-{processes}-{rank}.pt")


if __name__ == "__main__":
    main()
