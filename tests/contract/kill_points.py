"""Short runs with all callbacks, which a point of theirs ends by SIGKILL; test_kill_points.py starts them again.

Every life of a run is a process of its own that goes on from the newest whole checkpoint in FOLDER, saves one at every
optimizer step, writes what each step logged to FOLDER/steps.jsonl, and its end to FOLDER/end.pt if it lives that long.
"""

import json
import os
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from registry import REGISTRY

from lightning_gap import (
    AdaptiveBatchSize,
    AdversarialTraining,
    BatchSizeScheduler,
    ConservativeTraining,
    GhostBatchNormSwap,
    GradientPenalty,
    LearningRateScaling,
    MultiplicativeNoise,
    OptimizerScaling,
    PiggybackWarmStart,
    RecomputeBatchNorm,
    ResumableLoader,
    ResumeExactly,
    SharpnessAwareMinimization,
    StabilityTraining,
    StopOnNaN,
)

EPOCHS = 4
HOOKS = (
    "on_train_start",
    "on_train_epoch_start",
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_end",
    "on_train_epoch_end",
    "on_save_checkpoint",
)


def monitors():
    return [entry.make() for entry in REGISTRY.values() if entry.is_monitor]


# All that can stand beside each other; every public callback is in one of them.
CASTS = {
    "schedule": lambda: [
        GhostBatchNormSwap(8),
        BatchSizeScheduler({0: 16, 2: 32}, max_micro_batch=16),
        LearningRateScaling(16, warmup_epochs=1.5),
        SharpnessAwareMinimization(0.05),
        RecomputeBatchNorm(),
        ResumeExactly(),
        StopOnNaN(),
        *monitors(),
    ],
    "adaptive": lambda: [
        AdaptiveBatchSize(16, 32, test="noise_scale", measure_every_n_steps=1, micro_batches=2),
        OptimizerScaling(16, "sqrt"),
        AdversarialTraining(0.1),
        MultiplicativeNoise(0.5),
        GradientPenalty(0.01),
    ],
    "warm start": lambda: [
        PiggybackWarmStart(2, 32, optimizer_state="reset"),
        StabilityTraining(0.1, strength=0.5),
    ],
    "proximal": lambda: [ConservativeTraining(0.1, inner_steps=2), REGISTRY["ExactAccumulation"].make()],
}


@dataclass(frozen=True)
class Point:
    """Where a process ends: the ``count``-th time that ``what`` comes.

    Attributes:
        what: A hook of HOOKS; "forward", one pass of the network, also of a measurement or a perturbation; "file", an
            opening, moving or removing of a file after the first save has begun; or "never".
        count: From 1.
    """

    what: str
    count: int = 1


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class Dies(Callback):
    """Ends the process at a point, and no sooner."""

    def __init__(self, point):
        self.point, self.left = point, point.count
        for hook in HOOKS:
            setattr(self, hook, lambda *_, hook=hook: self.comes(hook))

    def comes(self, what):
        if what == "on_save_checkpoint" and self.point.what == "file":
            sys.addaudithook(self.sees)
        if what == self.point.what:
            self.left -= 1
            if not self.left:
                die()

    def sees(self, event, args):
        if event in ("os.rename", "os.remove", "shutil.move", "shutil.copyfile") or (
            event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            self.comes("file")


class Writes(Callback):
    """What each step logged."""

    def __init__(self, file):
        self.file = file

    def on_train_batch_end(self, trainer, *_):
        if not trainer.fit_loop._should_accumulate():
            values = {key: float(value) for key, value in trainer.callback_metrics.items()}
            self.file.write(json.dumps({"step": trainer.global_step} | values) + "\n")
            self.file.flush()


def newest_whole(folder):
    """The newest checkpoint that can be read, and how many newer ones cannot."""
    # "step=5.ckpt"; where half of one is in the way, Lightning calls the next "step=5-v1.ckpt".
    saved = sorted(folder.glob("*.ckpt"), key=lambda path: [*map(int, re.findall(r"\d+", path.stem))], reverse=True)
    for torn, path in enumerate(saved):
        try:
            torch.load(path, weights_only=True)
        except Exception:  # whatever half a file raises
            continue
        return path, torn
    return None, len(saved)


class Module(tiny.Validated):
    def __init__(self, dies):
        super().__init__(dropout=0.2)
        self.dies = dies

    def forward(self, inputs):
        self.dies.comes("forward")
        return super().forward(inputs)


def live(folder, cast, point):
    """One life of a run."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dies = Dies(point)
    path, _ = newest_whole(folder)
    saves = ModelCheckpoint(
        folder, filename="{step}", save_top_k=-1, every_n_train_steps=1, save_on_train_epoch_end=False
    )
    with (folder / "steps.jsonl").open("a") as file:
        callbacks = [*CASTS[cast](), Writes(file), dies, saves]
        trainer = tiny.trainer(*callbacks, enable_checkpointing=True, max_epochs=EPOCHS)
        loader = ResumableLoader(tiny.dataset(64), batch_size=16, shuffle=True, seed=3)
        trainer.fit(Module(dies), loader, tiny.loader(24, seed=2), ckpt_path=path)
    optimizer = trainer.optimizers[0].state_dict()
    metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
    end = {"weights": tiny.state_of(trainer.lightning_module), "optimizer": optimizer, "metrics": metrics}
    torch.save(end, folder / "end.pt")


def process(folder, cast, point, printed):
    """`live` in a process whose words go to a file."""
    with open(printed, "a") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        live(Path(folder), cast, point)
