"""Swap every BatchNorm layer for a ghost layer while training."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.utils.hooks import RemovableHandle

from ..functional.ghost_batch_norm._copies import mark, marked, new_swap, take_back, without_ghosts
from ..functional.ghost_batch_norm.layers import RunningStats, checked_running_stats
from ..functional.ghost_batch_norm.runs import (
    Leftover,
    checked_ghost_batch_size,
    checked_leftover,
    ghost_runs,
    number_of_ghosts,
)
from ..functional.ghost_batch_norm.swap import swap_batch_norm
from ..trainer.batches import changes_batches, micro_batch_size
from ..trainer.loader import collected_train_loaders
from ..trainer.processes import uses_sync_batch_norm
from ._callback import GapCallback
from ._last_batch import batches_of_each_loader, smallest_batches, watch_for_single_values, watch_inputs
from ._run import run_of
from ._swap_report import left_alone, table_of_layers

_log = logging.getLogger(__name__)


class GhostBatchNormSwap(GapCallback):
    """Normalise each small slice of a large batch by itself, in every BatchNorm layer of the model.

    The layers are converted in place when fit starts and are BatchNorm again when it ends, and so are copies made in
    between; parameters, buffers, `state_dict` keys and checkpoints are those of the plain model throughout, but for
    networks in the hyperparameters of a checkpoint of weights only, for which Lightning asks no callback. Logs
    ``ghost/layers`` once; a table of the layers goes to the logger of this module at debug level.

    Args:
        ghost_batch_size: Samples per ghost, at most the batch of one process. Hoffer et al. use 128.
        leftover: How to handle the remainder when the batch is not divisible by the ghost size: ``"merge"``,
            ``"balance"`` or ``"error"``; see `GhostBatchNorm2d`.
        running_stats: How ghosts enter the running statistics: ``"sequential"``, as in the authors' code, or
            ``"mean"``; see `GhostBatchNorm2d`.

    Raises:
        ValueError: If ``ghost_batch_size`` is below 1, or ``leftover`` or ``running_stats`` is unknown. At fit start,
            if the ghost exceeds the batch of one process, ``leftover="error"`` and a batch leaves one, the model has
            no BatchNorm layer, a lazy one, or more that cannot be swapped than can, the Trainer has
            ``sync_batchnorm=True`` or a second swap, or the processes have different settings. In the first batch,
            before a step, if the last one of an epoch will hold a single sample that a layer cannot normalise.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 4.
    """

    may_change = ("ghost_batch_size", "leftover", "running_stats")  # a warning of its own names them all

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
        # Layers that are ghosts of ours while fit runs, and their names, which may change in configure_model.
        self._layers: dict[nn.Module, str] = {}
        self._this_swap: str | None = None
        self._skipped: Mapping[str, str] = {}
        self._seen: set[tuple[int, int]] | None = None  # what layers get in the first batch, where no loader says it
        self._watches: list[RemovableHandle] = []

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this callback logs."""
        return ("ghost/layers",)

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        run_of(trainer).claim(trainer, self, "set the ghost size of a layer")
        if uses_sync_batch_norm(trainer):
            raise ValueError(
                "sync_batchnorm=True would turn the ghost layers into SyncBatchNorm, which does the opposite; "
                "use Trainer(sync_batchnorm=False) or drop GhostBatchNormSwap"
            )
        self._swap(module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        self._swap(pl_module)  # layers made in configure_model did not exist in setup
        self._refuse_unswappable(pl_module)
        if self._skipped:
            rank_zero_warn(f"GhostBatchNormSwap {left_alone(self._skipped)[2:]}")
        layers = "layer uses" if len(self._layers) == 1 else "layers use"
        rank_zero_info(f"{len(self._layers)} BatchNorm {layers} ghosts of {self.ghost_batch_size} samples")
        if trainer.is_global_zero:
            _log.debug(table_of_layers(self._layers, self._settings))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        sizes = {split.micro_batch_size for split in run_of(trainer).planned}
        size, each = micro_batch_size(trainer), batches_of_each_loader(trainer)
        smallest = smallest_batches(trainer, sizes)
        if size == 1 and not sizes and changes_batches(trainer):  # a loader of ready batches
            size, smallest = None, {}
        if len(each) == len(collected_train_loaders(trainer)) == 1:
            ((size, last),) = each
            each, smallest = [], {} if last is None else {size: last}
        for planned in sorted(sizes | ({size} if size is not None else set())):
            self._check_batch(planned)
        for samples in smallest.values():  # raises where it must be whole ghosts
            ghost_runs(samples, self.ghost_batch_size, self.leftover, positions=2)
        leave_one = sorted(planned for planned, samples in smallest.items() if samples == 1)
        if leave_one:
            present = size if size is not None else leave_one[0]
            self._watches = watch_for_single_values(self._layers, samples=present, sizes_that_leave_one=leave_one)
        for full, last in each:
            if last == 1:
                self._watches += watch_for_single_values(self._layers, samples=full, sizes_that_leave_one=[full])
        if size is None:
            self._seen = set()
            self._watches += watch_inputs(self._layers, self._seen)
        pl_module.log("ghost/layers", float(len(self._layers)), sync_dist=True)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        seen = self._seen
        self._end_watch()
        if not seen:
            return
        cuts = (ghost_runs(n, self.ghost_batch_size, self.leftover, positions=positions) for n, positions in seen)
        if all(number_of_ghosts(runs) == 1 for runs in cuts):  # a batch may be smaller than others, so no error
            rank_zero_warn(
                f"ghost_batch_size={self.ghost_batch_size} makes one ghost of each layer's input in the first batch, "
                f"of at most {max(seen)[0]} samples, which is plain BatchNorm; use a smaller size"
            )

    def end_fit(self, trainer: Trainer) -> None:
        super().end_fit(trainer)
        self._end_watch()
        if self._this_swap is None:
            return
        for layer in {*self._layers, *marked(self._this_swap)}:  # copies, too, wherever they are kept
            if not take_back(layer):
                name = self._layers.get(layer, "a copy of a layer")
                rank_zero_warn(f"{name} became {type(layer).__name__} during fit and cannot be turned back")
        self._layers, self._this_swap = {}, None

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["GhostBatchNormSwap"] = self._settings
        copies: dict[int, Any] = {}
        for owner in (pl_module, trainer.datamodule):  # type: ignore[attr-defined]
            key = getattr(owner, "CHECKPOINT_HYPER_PARAMS_KEY", None)
            if key not in checkpoint:
                continue
            try:
                checkpoint[key] = without_ghosts(checkpoint[key], copies)  # a network may be among them
            except Exception as error:
                rank_zero_warn(
                    f"the {key} of this checkpoint hold a network with ghost layers, which could not be copied "
                    f"({type(error).__name__}: {error}); call restore_batch_norm on it after loading"
                )

    def resume_from(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("GhostBatchNormSwap", self._settings)
        if saved != self._settings:
            rank_zero_warn(
                f"the checkpoint was trained with ghosts of {saved}, this run continues with {self._settings}"
            )

    @property
    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in GhostBatchNormSwap.may_change}

    def _swap(self, module: LightningModule) -> None:
        self._this_swap = self._this_swap or new_swap()
        report = swap_batch_norm(module, **self._settings)
        before = {**dict.fromkeys(report.converted), **report.changed}
        for name, former in before.items():
            layer = module.get_submodule(name)
            if layer not in self._layers:  # the second pass meets the layers of the first one again
                mark(layer, self._this_swap, former)
                self._layers[layer] = name
        self._skipped = report.skipped

    def _end_watch(self) -> None:
        for watch in self._watches:
            watch.remove()
        self._watches, self._seen = [], None

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
            raise ValueError(
                f"GhostBatchNormSwap found no BatchNorm layer in {type(module).__name__}{left_alone(self._skipped)}; "
                "remove the callback or use a model with torch.nn.BatchNorm1d, 2d or 3d"
            )
        left, swapped = len(self._skipped), len(self._layers)
        if left > swapped:
            raise ValueError(
                f"GhostBatchNormSwap would change {swapped} of {left + swapped} BatchNorm layers only"
                f"{left_alone(self._skipped)}; remove the callback, use torch.nn.BatchNorm1d, 2d or 3d instead, or "
                "call swap_batch_norm on the part of the model that is to be changed"
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
