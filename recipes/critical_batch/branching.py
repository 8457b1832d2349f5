"""Where a run branches, and what each branch comes to: equally many samples, in batches larger by a factor."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_gap import LearningRateScaling
from lightning_gap.functional import GradientNoise

from ..advice import measured_noise, rule_for
from ..evaluation import evaluate, evaluated_with
from ..recipe import Recipe
from ..runner.checkpoints import newest_checkpoint, remove_checkpoints, savers, write_whole_files
from ..runner.plan import Plan
from ..runner.telling import Say, silent
from ..runner.trainer import make_trainer
from ..runner.whole_files import load_whole, save_whole

_ON_THE_WAY = "training the small batch"
EVALUATED = 4096  # training samples that a branch's loss is the mean over


@dataclass(frozen=True)
class Fork:
    """The state of a run from which branches go on.

    Attributes:
        step: Optimizer steps taken.
        samples: Samples seen.
        state: What a branch takes over: the recipe's and the optimizer's state, and that of its scheduler.
        noise: Gradient noise there.
    """

    step: int
    samples: int
    state: dict[str, Any]
    noise: GradientNoise

    @classmethod
    def load(cls, file: Path) -> Fork:
        """From a file that `ForkSaver` wrote.

        Raises:
            ValueError: If it cannot be read.
        """
        try:
            found = load_whole(file, map_location="cpu")
            return cls(found["step"], found["samples"], found["state"], GradientNoise(**found["noise"]))
        except Exception as error:  # of whatever type the bytes lead to
            raise ValueError(f"{str(file)!r} cannot be read ({error}); delete it to train up to there again") from error


class ForkSaver(Callback):
    """Save a fork at each of some steps, and end the run with the last.

    Args:
        files: By step.
        batch_size: Samples of a step.
        say: Called with what is done next, in words.
    """

    def __init__(self, files: dict[int, Path], batch_size: int, say: Say) -> None:
        self.files, self.batch_size, self.say = files, batch_size, say

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        file = self.files.get(trainer.global_step)
        if file is None or file.exists():
            return
        assert isinstance(pl_module, Recipe)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.say(f"measuring the noise scale after {trainer.global_step:,} steps")
        noise = measured_noise(pl_module, data.train)
        self.say(_ON_THE_WAY)
        own: dict[str, Any] = {}
        pl_module.on_save_checkpoint(own)
        state = {
            "network": {name: value.cpu().clone() for name, value in pl_module.network.state_dict().items()},
            "optimizers": [optimizer.state_dict() for optimizer in trainer.optimizers],
            "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            "own": own,
        }
        found = {"step": trainer.global_step, "samples": trainer.global_step * self.batch_size, "state": state}
        save_whole({**found, "noise": vars(noise)}, file)


class _GoOnFrom(Callback):
    """Begin a fit with the state of a fork."""

    def __init__(self, fork: Fork) -> None:
        self.fork = fork

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Recipe)
        state = copy.deepcopy(self.fork.state)  # an optimizer goes on with the tensors that it is given
        pl_module.network.load_state_dict(state["network"])
        pl_module.on_load_checkpoint(state["own"])
        for optimizer, own in zip(trainer.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(own)
        for config, own in zip(trainer.lr_scheduler_configs, state["schedulers"], strict=True):
            config.scheduler.load_state_dict(own)


def train_up_to(plan: Plan, files: dict[int, Path], say: Say = silent) -> None:
    """Train the small batch, or continue, and save a fork at each step that has no file yet.

    Args:
        plan: What was asked for.
        files: By step.
        say: Called with what is done next, in words.
    """
    say(_ON_THE_WAY)
    recipe, folder = plan.recipe("small", plan.settings.seed), plan.output / "way"
    callbacks = [ForkSaver(files, recipe.batch_size, say), *savers(folder, recipe.epochs)]
    _fit(plan, recipe, max(files), callbacks, plan.settings.seed, go_on=newest_checkpoint(folder, warn=True))
    remove_checkpoints(folder)


def branch(plan: Plan, fork: Fork, factor: int, samples: int, *, trial: int) -> float:
    """Go on from a fork with a batch larger by a factor, and give the mean loss of training samples at the end.

    The learning rate follows: by the root of the factor for optimizers that scale every step by the size of the
    gradient, else by the factor.

    Args:
        plan: What was asked for.
        fork: Where to begin.
        factor: On the small batch.
        samples: That the branch trains on; a multiple of its batch.
        trial: Of several with other orders of the samples.
    """
    settings = plan.settings
    base = settings.hyperparameters["small_batch_size"]
    larger = replace(settings, hyperparameters={**settings.hyperparameters, "small_batch_size": factor * base})
    plan = replace(plan, settings=larger)
    recipe = plan.recipe("small", settings.seed)
    scaling = LearningRateScaling(base, rule=rule_for(recipe.optimizer), warmup_epochs=0)
    data = _fit(plan, recipe, samples // (factor * base), [_GoOnFrom(fork), scaling], settings.seed + 1000 + trial)
    if not all(bool(torch.isfinite(weight).all()) for weight in recipe.parameters()):
        return math.nan
    recipe.eval()
    chunk = recipe.evaluation_chunk
    with evaluated_with(recipe.batch_norm, recipe, lambda: data.evaluation("train", chunk)):
        return evaluate(recipe, data.evaluation("train", chunk, EVALUATED))[0]


def _fit(
    plan: Plan, recipe: Recipe, steps: int, callbacks: Sequence[Callback], seed: int, go_on: Path | None = None
) -> Any:
    data = plan.data(recipe, seed)
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    length = {"max_steps": steps, "limit_val_batches": 0, "enable_checkpointing": saves}
    trainer = make_trainer({**plan.settings.trainer, **length}, epochs=-1, callbacks=[*callbacks], logger=None)
    write_whole_files(trainer)
    trainer.fit(recipe, data, ckpt_path=go_on)
    return data
