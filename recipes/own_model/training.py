"""Train a module of the user's own under one regime with the real Trainer, and evaluate it."""

from __future__ import annotations

import copy
import inspect
import random
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_gap.functional._validation import function, instance

from .kept_runs import OwnRun
from .regime_settings import OwnRegime, RegimeSettings, apply

_OURS: dict[str, Any] = {
    "devices": 1,
    "log_every_n_steps": 1,  # a large batch takes few steps
    "num_sanity_val_steps": 0,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
_NOT_THEIRS = {"max_epochs": "epochs=...", "logger": "folder=..., which keeps logs", "devices": "one device"}
_NOT_THEIRS |= {"num_nodes": "one process", "fast_dev_run": "few epochs", "barebones": "none of it"}


@dataclass(frozen=True)
class OwnTraining:
    """What the runs of a comparison share.

    Attributes:
        make_module: Gives a fresh LightningModule; told the epochs if it takes ``epochs``.
        make_data: Gives a LightningDataModule or loaders for a batch size.
        metric: Read after the evaluation.
        on: What the trained module is evaluated by.
        trainer: Arguments of the Trainer.
        settings: What each regime begins from.
    """

    make_module: Callable[..., Any]
    make_data: Callable[[int], Any]
    metric: str
    on: Literal["test", "validate"]
    trainer: Mapping[str, Any]
    settings: RegimeSettings

    def plan(self, name: str, regime: OwnRegime) -> tuple[RegimeSettings, list[Any]]:
        """What a regime makes of the settings, and its callbacks, made anew each time.

        Raises:
            ValueError: If the regime fails, or its batch cannot be split into the Trainer's micro-batches.
        """
        settings = replace(self.settings, learning_rate_steps={}, hparams=dict(self.settings.hparams))
        callbacks = apply(name, regime, settings)
        if settings.batch_size % self.accumulate:
            raise ValueError(
                f"the regime {name!r} has batches of {settings.batch_size}, which accumulate_grad_batches="
                f"{self.accumulate} does not divide; use a multiple of it"
            )
        return settings, callbacks

    @property
    def accumulate(self) -> int:
        """Micro-batches in a step."""
        return int(self.trainer.get("accumulate_grad_batches", 1))

    def run(self, name: str, regime: OwnRegime, seed: int, logs: Path | None) -> OwnRun:
        """Train and evaluate.

        Args:
            name: Of the regime.
            regime: Its function.
            seed: Of the initial weights and the order of the samples; the same for all regimes.
            logs: Folder for metrics.csv, emptied first; None logs nothing.

        Raises:
            ValueError: If no step was taken.
        """
        with isolate_rng():
            settings, callbacks = self.plan(name, regime)
            _seed(seed)
            module = self.module(settings.epochs)
            _seed(seed)
            data = self.data(settings.batch_size)
            options = copy.deepcopy(dict(self.trainer))  # callbacks of an earlier run remember it
            theirs = options.pop("callbacks", None) or []
            callbacks += theirs if isinstance(theirs, list) else [theirs]
            if settings.gradient_clip is not None:
                options.setdefault("gradient_clip_val", settings.gradient_clip)
            lightning = import_module(lightning_of(module))
            logger: Any = False
            if logs is not None:
                shutil.rmtree(logs, ignore_errors=True)  # of a run that was stopped
                logger = import_module(f"{lightning.__name__}.loggers").CSVLogger(logs, name="", version="")
                callbacks.append(import_module(f"{lightning.__name__}.callbacks").LearningRateMonitor("step"))
            trainer = lightning.Trainer(
                **{**_OURS, **options}, max_epochs=settings.epochs, callbacks=callbacks, logger=logger
            )
            started = time.perf_counter()
            _seed(seed)
            _fit(trainer, module, data)
            seconds = time.perf_counter() - started
            if not trainer.global_step:
                raise ValueError(f"the regime {name!r} took not one step; give make_data more samples than one batch")
            steps, epochs = trainer.global_step, trainer.current_epoch
            groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
            return OwnRun(
                value=float(self.evaluated(trainer, module, data)[self.metric]),
                batch_size=settings.batch_size,
                base_batch_size=settings.small_batch_size,
                steps=steps,
                epochs=epochs,
                accumulate=self.accumulate,
                gradient_clip=float(trainer.gradient_clip_val or 0.0),
                weight_decay=max((float(group.get("weight_decay", 0.0)) for group in groups), default=0.0),
                decay_in_gradient=int(any("amsgrad" in g and not g.get("decoupled_weight_decay") for g in groups)),
                batch_norms=sum(isinstance(p, _BatchNorm) and p.running_mean is not None for p in module.modules()),
                seconds=seconds,
            )

    def module(self, epochs: int) -> Any:
        """A fresh one.

        Raises:
            TypeError: If it is no LightningModule.
        """
        module = self.make_module(epochs=epochs) if takes_epochs(self.make_module) else self.make_module()
        if not lightning_of(module):
            raise TypeError(f"make_module must return a LightningModule, got a {type(module).__name__}")
        return module

    def data(self, batch_size: int) -> Any:
        """A data module, or loaders: training, validation or None, test or None.

        Raises:
            TypeError: If ``make_data`` gives anything else.
            ValueError: If the loaders that are needed are not there, or have another batch size.
        """
        size = batch_size // self.accumulate
        made = self.make_data(size)
        if hasattr(made, "train_dataloader"):
            return made
        if not isinstance(made, tuple | list) or len(made) not in (2, 3):
            raise TypeError(
                "make_data must return a LightningDataModule or loaders (train, validation) or (train, validation, "
                f"test), got a {type(made).__name__}"
            )
        loaders = (*made, None)[:3]
        needed, name = (loaders[2], "test") if self.on == "test" else (loaders[1], "validation")
        if needed is None:
            raise ValueError(
                f"make_data gives no {name} loader, which on={self.on!r} needs; return one, or pass another on"
            )
        _check_size(loaders[0], size)
        return loaders

    def check(self, sizes: Sequence[int]) -> None:
        """Try out the data of every batch size, the module and its metric, before anything is trained.

        Raises:
            TypeError: If the functions return anything but modules and data.
            ValueError: If the metric is not logged, naming those that are, or a loader has another batch size.
        """
        with isolate_rng():
            for size in dict.fromkeys(sizes):
                data = self.data(size)
                if hasattr(data, "train_dataloader"):
                    data.prepare_data()
                    data.setup("fit")
                    _check_size(data.train_dataloader(), size // self.accumulate)
            module = self.module(self.settings.epochs)
            kept = {name: self.trainer[name] for name in ("accelerator", "precision") if name in self.trainer}
            batches = {"limit_test_batches": 1, "limit_val_batches": 1}
            lightning = import_module(lightning_of(module))
            trainer = lightning.Trainer(**{**_OURS, **kept, **batches}, logger=False)
            logged = self.evaluated(trainer, module, self.data(sizes[0]))
        if self.metric not in logged:
            raise ValueError(
                f"metric={self.metric!r} is not logged by {self.on}; logged: {', '.join(sorted(logged)) or 'nothing'}"
            )

    def evaluated(self, trainer: Any, module: Any, data: Any) -> dict[str, Any]:
        """What the module logs when it is evaluated."""
        evaluate = trainer.test if self.on == "test" else trainer.validate
        if isinstance(data, tuple):
            evaluate(module, dataloaders=data[2] if self.on == "test" else data[1], verbose=False)
        else:
            evaluate(module, datamodule=data, verbose=False)
        return dict(trainer.callback_metrics)


def lightning_of(module: object) -> str:
    """Which of Lightning's two packages a module's class comes from; an empty text where neither."""
    for kind in type(module).__mro__:
        if kind.__name__ == "LightningModule":
            return "pytorch_lightning" if kind.__module__.startswith("pytorch_lightning") else "lightning.pytorch"
    return ""


def check_module_maker(make_module: Callable[..., Any], takes: str) -> None:
    """Refuse what makes no module, and a module itself: it can be called, and each run needs a fresh one.

    Raises:
        ValueError: In both cases.
    """
    function("make_module", make_module, takes)
    if isinstance(make_module, torch.nn.Module):
        name = type(make_module).__name__
        raise ValueError(
            f"make_module must make a fresh module, got a module itself; pass the class {name} or lambda: {name}(...)"
        )


def takes_epochs(make_module: Callable[..., Any]) -> bool:
    """Whether it is to be told how many epochs it trains."""
    return "epochs" in inspect.signature(make_module).parameters


def trainer_options(trainer: Mapping[str, Any] | None) -> dict[str, Any]:
    """The user's arguments of the Trainer, none of which a comparison sets by itself.

    Raises:
        ValueError: Names the argument and the fix.
    """
    given: dict[str, Any] = dict(instance("trainer", {} if trainer is None else trainer, Mapping))  # type: ignore[type-abstract]
    for name, instead in _NOT_THEIRS.items():
        if name in given and not (name in ("devices", "num_nodes") and given[name] == 1):
            raise ValueError(f"trainer has {name}={given[name]!r}, which compare sets; leave it out, use {instead}")
    parts = given.get("accumulate_grad_batches", 1)
    if type(parts) is not int or parts < 1:
        raise ValueError(f"trainer has accumulate_grad_batches={parts!r}; use a whole number of at least 1")
    return given


def _fit(trainer: Any, module: Any, data: Any) -> None:
    if isinstance(data, tuple):
        trainer.fit(module, data[0], data[1])
    else:
        trainer.fit(module, datamodule=data)


def _check_size(loader: Any, size: int) -> None:
    found = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", None)
    if found is not None and found != size:
        raise ValueError(
            f"make_data({size}) must make batches of {size}, got a train loader of {found}; use its argument"
        )
    if hasattr(loader, "__len__") and not len(loader):
        raise ValueError(f"make_data({size}) gives a train loader without a batch; use fewer samples in a batch")


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - what the user's own transforms may draw from
    torch.manual_seed(seed)
