"""Swap every BatchNorm layer for a ghost layer while training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from .._lightning import (
    last_micro_batch_size,
    micro_batch_size,
    planned_micro_batch_sizes,
    samples_in,
    uses_sync_batch_norm,
)
from .._refusals import refuse_second
from ..functional.ghost_batch_norm import RunningStats, checked_running_stats
from ..functional.ghost_swap import restore_batch_norm, swap_batch_norm
from ..functional.ghosts import Leftover, checked_ghost_batch_size, checked_leftover, ghost_runs, number_of_ghosts
from ._callback import GapCallback

_log = logging.getLogger(__name__)


class GhostBatchNormSwap(GapCallback):
    """Normalise each small slice of a large batch by itself, in every BatchNorm layer of the model.

    The layers are converted in place when fit starts and are BatchNorm again when it ends; parameters, buffers,
    `state_dict` keys and checkpoints are those of the plain model throughout. Logs ``ghost/layers`` once; a table of
    the layers goes to the logger of this module at debug level.

    Args:
        ghost_batch_size: Samples per ghost, at most the batch of one process. Hoffer et al. use 128.
        leftover: What the samples do that fill no ghost: ``"merge"``, ``"balance"`` or ``"error"``; see
            `GhostBatchNorm2d`.
        running_stats: How ghosts enter the running statistics: ``"sequential"``, as in the authors' code, or
            ``"mean"``; see `GhostBatchNorm2d`.

    Raises:
        TypeError: If ``ghost_batch_size`` is not an integer.
        ValueError: If ``ghost_batch_size`` is below 1, or ``leftover`` or ``running_stats`` is unknown. At fit start,
            if the ghost exceeds the batch of one process, ``leftover="error"`` and a batch leaves one, the model has
            no BatchNorm layer or a lazy one, the Trainer has ``sync_batchnorm=True`` or a second swap, or the
            processes have different settings.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 4.
    """

    may_change = ("ghost_batch_size", "leftover", "running_stats")  # told in words of their own

    def __init__(
        self,
        ghost_batch_size: int = 128,
        *,
        leftover: Leftover = "merge",
        running_stats: RunningStats = "sequential",
    ) -> None:
        self.ghost_batch_size = checked_ghost_batch_size(ghost_batch_size)
        self.leftover = checked_leftover(leftover)
        self.running_stats = checked_running_stats(running_stats)
        # Layers that are ghosts while fit runs, and ghost layers of the model's own with their settings; the layers
        # themselves, because names change where configure_model wraps or compiles.
        self._converted: dict[nn.Module, str] = {}
        self._former: dict[nn.Module, tuple[str, Mapping[str, Any]]] = {}
        self._skipped: Mapping[str, str] = {}
        self._asks_the_batch = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        refuse_second(trainer, self, because="each layer has one ghost size")
        if uses_sync_batch_norm(trainer):
            raise ValueError(
                "sync_batchnorm=True would turn the ghost layers into SyncBatchNorm, which does the opposite; "
                "use Trainer(sync_batchnorm=False) or drop GhostBatchNormSwap"
            )
        self._swap(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        self._swap(pl_module)  # layers made in configure_model did not exist in setup
        self._refuse_unswappable(pl_module)
        for name, reason in self._skipped.items():
            rank_zero_warn(f"GhostBatchNormSwap left {name} alone: {reason}")
        rank_zero_info(f"{len(self._layers)} BatchNorm layers use ghosts of {self.ghost_batch_size} samples")
        if trainer.is_global_zero:
            _log.debug(self._table())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        size, last = micro_batch_size(trainer), last_micro_batch_size(trainer)
        self._asks_the_batch = size is None
        for planned in sorted(planned_micro_batch_sizes(trainer) | ({size} if size is not None else set())):
            self._check_batch(planned)
            ghost_runs(planned, self.ghost_batch_size, self.leftover, positions=2)
        if last is not None:
            ghost_runs(last, self.ghost_batch_size, self.leftover, positions=2)  # raises where it must be whole ghosts
        pl_module.log("ghost/layers", float(len(self._layers)), sync_dist=True)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._asks_the_batch:
            self._asks_the_batch = False
            size = samples_in(batch)
            if size is not None and size <= self.ghost_batch_size:  # a guess, so no error
                rank_zero_warn(
                    f"the first batch seems to hold {size} samples, so that ghost_batch_size={self.ghost_batch_size} "
                    "changes nothing; use a smaller size"
                )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._restore()  # not in on_fit_end, which a Tuner skips

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["GhostBatchNormSwap"] = self._settings

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("GhostBatchNormSwap", self._settings)
        if saved != self._settings:
            rank_zero_warn(f"the checkpoint was trained with ghosts of {saved}, this run goes on with {self._settings}")

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "ghost_batch_size": self.ghost_batch_size,
            "leftover": self.leftover,
            "running_stats": self.running_stats,
        }

    @property
    def _layers(self) -> dict[nn.Module, str]:
        return self._converted | {layer: name for layer, (name, _) in self._former.items()}

    def _swap(self, module: LightningModule) -> None:
        report = swap_batch_norm(module, **self._settings)
        self._converted |= {module.get_submodule(name): name for name in report.converted}
        for name, settings in report.changed.items():
            layer = module.get_submodule(name)
            if layer not in self._layers:  # the second pass meets the layers of the first one again
                self._former[layer] = name, settings
        self._skipped = report.skipped

    def _restore(self) -> None:
        for layer, name in self._converted.items():
            if not restore_batch_norm(layer):
                rank_zero_warn(f"{name} became {type(layer).__name__} during fit and cannot be turned back")
        for layer, (_, settings) in self._former.items():
            swap_batch_norm(layer, **settings)
        self._converted, self._former = {}, {}

    def _refuse_unswappable(self, module: LightningModule) -> None:
        for name, reason in self._skipped.items():
            if name in self._layers.values():
                raise ValueError(
                    f"{name} was swapped in setup and is a {type(module.get_submodule(name)).__name__} now: {reason}; "
                    "convert layers before fit or not at all"
                )
            if isinstance(module.get_submodule(name), LazyModuleMixin):
                raise ValueError(f"GhostBatchNormSwap cannot swap {name}: {reason}")
        if not self._layers:
            reasons = "".join(f"; left {name} alone: {reason}" for name, reason in self._skipped.items())
            raise ValueError(
                f"GhostBatchNormSwap found no BatchNorm layer in {type(module).__name__}{reasons}; "
                "remove the callback or use a model with torch.nn.BatchNorm1d, 2d or 3d"
            )

    def _check_batch(self, size: int) -> None:
        if self.ghost_batch_size > size:
            raise ValueError(
                f"ghost_batch_size={self.ghost_batch_size} is larger than the batch of {size} samples that each "
                f"process normalises at a time; use at most {size}"
            )
        if number_of_ghosts(ghost_runs(size, self.ghost_batch_size, self.leftover, positions=2)) == 1:
            rank_zero_warn(
                f"ghost_batch_size={self.ghost_batch_size} makes one ghost of the batch of {size} samples that each "
                "process normalises at a time, which is plain BatchNorm; use a smaller size"
            )

    def _table(self) -> str:
        rows = [("layer", "class", "channels")]
        rows += [(name, type(layer).__name__, str(layer.num_features)) for layer, name in self._layers.items()]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        settings = ", ".join(f"{name}={value!r}" for name, value in self._settings.items())
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
        return "\n".join([f"ghost batch norm, {settings}", *lines])
