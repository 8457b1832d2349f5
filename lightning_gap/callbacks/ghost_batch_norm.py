"""Swap every BatchNorm layer for a ghost layer while training."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn

from .._lightning import micro_batch_size, refuse_second, uses_sync_batch_norm
from ..functional.ghost_batch_norm import checked_ghost_batch_size, restore_batch_norm, swap_batch_norm


class GhostBatchNormSwap(Callback):
    """Normalise each small slice of a large batch by itself, in every BatchNorm layer of the model.

    The layers are converted in place when fit starts and are BatchNorm again when it ends; parameters, buffers,
    `state_dict` keys and checkpoints are those of the plain model throughout. Logs ``ghost/layers`` once.

    Args:
        ghost_batch_size: Samples per ghost, at most the batch of one process. Hoffer et al. use 128.

    Raises:
        TypeError: If ``ghost_batch_size`` is not an integer.
        ValueError: If ``ghost_batch_size`` is below 1; at fit start, if it exceeds the batch, the model has no
            BatchNorm layer, the Trainer has ``sync_batchnorm=True``, or a second swap.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 4.
    """

    def __init__(self, ghost_batch_size: int = 128) -> None:
        self.ghost_batch_size = checked_ghost_batch_size(ghost_batch_size)
        self._converted: list[str] = []
        self._resized: dict[str, int] = {}
        self._layers = 0
        self._skipped: Mapping[str, str] = {}

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
        self._swap(pl_module)  # layers made in configure_model did not exist in setup
        if not self._layers:
            reasons = "".join(f"; left {name} alone: {reason}" for name, reason in self._skipped.items())
            raise ValueError(
                f"GhostBatchNormSwap found no BatchNorm layer in {type(pl_module).__name__}{reasons}; "
                "remove the callback or use a model with torch.nn.BatchNorm1d, 2d or 3d"
            )
        for name, reason in self._skipped.items():
            rank_zero_warn(f"GhostBatchNormSwap left {name} alone: {reason}")
        rank_zero_info(f"{self._layers} BatchNorm layers use ghosts of {self.ghost_batch_size} samples")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        batch_size = micro_batch_size(trainer)
        if batch_size is not None and self.ghost_batch_size > batch_size:
            raise ValueError(
                f"ghost_batch_size={self.ghost_batch_size} is larger than the batch of {batch_size} samples that each "
                f"process normalises at a time; use at most {batch_size}"
            )
        pl_module.log("ghost/layers", float(self._layers), sync_dist=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore(pl_module)

    def _swap(self, module: LightningModule) -> None:
        report = swap_batch_norm(module, self.ghost_batch_size)
        self._converted += report.converted
        for name, size in report.resized.items():
            if name not in self._converted:
                self._resized.setdefault(name, size)  # the second pass sees the sizes that the first one set
        self._layers = len(report.converted) + len(report.resized)
        self._skipped = report.skipped

    def _restore(self, module: LightningModule) -> None:
        for name in self._converted:
            restore_batch_norm(module.get_submodule(name))
        for name, size in self._resized.items():  # ghost layers that the model brought along stay what they were
            swap_batch_norm(module.get_submodule(name), size)
        self._converted, self._resized = [], {}
