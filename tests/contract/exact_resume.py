"""A run with everything that changes from step to step; test_exact_resume.py stops it anywhere and starts it again.

As a script: `exact_resume.py FOLDER WORKERS` goes on from the newest checkpoint in FOLDER, saves one at every optimizer
step, and leaves the end of the run in FOLDER/end.pt.
"""

import sys
import time
from pathlib import Path

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import lr_scheduler as lrs
from torch.utils.data import Dataset

from lightning_gap import BatchSizeScheduler, GhostBatchNormSwap, LearningRateScaling, ResumableLoader

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

SAMPLES, EPOCHS, STEPS = 288, 3, 9 + 5 + 3  # batches of 32, 64 and 128; the last of each epoch is smaller


class Noisy(Dataset):
    """With a random transform."""

    def __init__(self):
        self.samples = tiny.dataset(SAMPLES)

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        inputs, target = self.samples[index]
        return inputs + 0.1 * torch.randn(8), target, index


class Module(tiny.Validated):
    def training_step(self, batch, batch_idx):
        self.order = batch[2].tolist()
        return super().training_step(batch[:2], batch_idx)

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [{"scheduler": lrs.CosineAnnealingLR(optimizer, 20, 0.01), "interval": "step"}]


class WatchesLength(Module):
    """Reads what makes Lightning build the loader before it restores it (Lightning issue 20550)."""

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches > 0
        return super().configure_optimizers()


class Steps(Callback):
    """What each step logged and saw, by step."""

    def __init__(self):
        self.seen, self.orders = {}, []

    def on_train_batch_end(self, trainer, pl_module, *rest):
        self.orders.append(pl_module.order)
        if trainer.fit_loop._should_accumulate():
            return
        keys = ("loss_step", "lr/effective", "lr/scale", "batch/effective", "batch/size", "batch/accumulate")
        self.seen[trainer.global_step] = {key: float(trainer.callback_metrics[key]) for key in keys} | {
            "orders": self.orders
        }
        self.orders = []

    def on_train_epoch_end(self, trainer, pl_module):
        if (
            trainer.global_step in self.seen and "val_loss" in trainer.callback_metrics
        ):  # Lightning does not make up for a validation after the last batch saved
            self.seen[trainer.global_step]["val_loss"] = float(trainer.callback_metrics["val_loss"])


GROWS = {0: 32, 1: 64, 2: 128}


def train(folder, *, workers=0, ckpt_path=None, module=None, sizes=GROWS, limit=64, others=(), length=None, **when):
    """The run, saved at every optimizer step or when else it is said; from a checkpoint if there is one."""
    torch.manual_seed(0)
    steps = Steps()
    when = when or {"every_n_train_steps": 1, "save_on_train_epoch_end": False}
    saves = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, **when)
    callbacks = [
        GhostBatchNormSwap(16),
        LearningRateScaling(16, warmup_epochs=1.5),
        BatchSizeScheduler(sizes, max_micro_batch=limit),
        steps,
        *others,
    ]
    saving = [saves] if folder else []
    trainer = tiny.trainer(
        *callbacks, *saving, enable_checkpointing=bool(folder or others), **(length or {"max_epochs": EPOCHS})
    )
    loader = ResumableLoader(Noisy(), batch_size=8, shuffle=True, seed=3, num_workers=workers)
    trainer.fit(module or Module(), loader, tiny.loader(24, seed=2), ckpt_path=ckpt_path)
    optimizer = trainer.optimizers[0].state_dict()
    end = {"weights": tiny.state_of(trainer.lightning_module), "optimizer": optimizer, "steps": steps.seen}
    return end | {"scheduler": trainer.lr_scheduler_configs[0].scheduler.state_dict()}


def newest(folder):
    saved = sorted(folder.glob("*.ckpt"), key=lambda path: int(path.stem.removeprefix("step=")))
    return saved[-1] if saved else None


class Slow(Callback):
    """Leaves time to be killed in every step."""

    def on_train_batch_start(self, *_):
        time.sleep(0.05)


def main() -> None:
    folder, workers = Path(sys.argv[1]), int(sys.argv[2])
    end = train(folder, workers=workers, ckpt_path=newest(folder), others=(Slow(),))
    torch.save(end, folder / "end.pt")


if __name__ == "__main__":
    main()
