"""A module that logs means, sums and extremes of the epoch; test_epoch_means.py stops it anywhere and resumes it.

As a script: `epoch_means.py FOLDER` does so on two processes, and leaves what they logged in FOLDER/rank-0.pt and 1.
"""

import sys
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers.logger import Logger
from torch.utils.data import Dataset

from lightning_gap import LearningRateScaling, ResumableLoader

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

SAMPLES, STEPS = 44, 6  # of each epoch, the last one smaller


class Numbered(Dataset):
    """Samples that know their number."""

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        inputs, target = tiny.dataset(SAMPLES)[index]
        return inputs, target, index


class Logs(tiny.Validated):
    """In every way that gathers something over the epoch."""

    sync, terms = True, {}

    def on_train_epoch_start(self):
        self.log("begun", torch.tensor(3.0 + self.current_epoch), sync_dist=self.sync)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        value, over = loss.detach() / 3 + batch[2].float().mean(), {"on_step": False, "on_epoch": True}
        over["sync_dist"] = self.sync
        self.log("mean", value, **(over | self.terms))
        self.log("number", batch[2].float().mean(), **over, batch_size=len(batch[2]))
        self.log("lowest", batch[2].float().min(), **over, reduce_fx="min")
        self.log("double", value.double(), **over, batch_size=len(batch[0]) + 1)
        self.log("sum", value, **over, reduce_fx="sum")
        self.log("sum_of_python", value, **over, reduce_fx=sum)
        self.log("least", value, **over, reduce_fx="min")
        self.log("most", value, **over, reduce_fx=max)
        for part in (0.1, 0.7):
            self.log("twice", value * part, **over)
        if batch_idx % 4 == 1:
            self.log("seldom", value, **over)
        if batch_idx == 0:
            self.log("at_first", value, **over)
        return loss


KEYS = ("begun", "mean", "double", "sum", "sum_of_python", "least", "most", "twice", "seldom", "at_first")
KEYS += ("number", "lowest", "loss_epoch")


class Notes(Logger):
    """What was logged, by key and step."""

    name = version = "notes"

    def __init__(self):
        super().__init__()
        self.rows = {}

    def log_metrics(self, metrics, step):
        for key in KEYS:
            if key in metrics:
                self.rows[key, metrics["epoch"]] = step, metrics[key]

    def log_hyperparams(self, *_):
        pass


def train(folder, *callbacks, ckpt_path=None, module=None, batch_size=8, **options):
    """Two epochs, saved at every optimizer step; what was logged and what callbacks could read at the end."""
    torch.manual_seed(0)
    saves = [ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1)] if folder else []
    callbacks = callbacks or (LearningRateScaling(rule="none", warmup_epochs=0),)
    notes = Notes()
    trainer = tiny.trainer(*callbacks, *saves, logger=notes, enable_checkpointing=bool(folder), **options)
    loader = ResumableLoader(Numbered(), batch_size=batch_size, shuffle=True)
    trainer.fit(module or Logs(), loader, tiny.loader(24, seed=2), ckpt_path=ckpt_path)
    at_end = {key: float(trainer.callback_metrics[key]) for key in KEYS}
    return notes.rows, at_end


def main() -> None:
    folder = Path(sys.argv[1])
    two = {"strategy": "ddp", "devices": 2, "batch_size": 4, "max_epochs": 1}
    found = {}
    for sync, stops in ((True, (2, 6)), (False, (4,))):
        Logs.sync = sync
        whole = train(folder / str(sync), **two)
        resumed = [train(None, ckpt_path=folder / str(sync) / f"step={step}.ckpt", **two) for step in stops]
        found[sync] = whole, dict(zip(stops, resumed, strict=True))
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else int(sys.argv[2:] != [])
    torch.save(found, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    main()
