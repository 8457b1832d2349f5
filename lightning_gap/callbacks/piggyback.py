"""Train with the small batch first, then continue with the large one from its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_info

from ..functional._validation import one_of, shown, whole_number
from ..functional.batch_size.schedule import MicroBatching
from ..trainer.checkpoint_file import load_weights, read_checkpoint, short_error, stored_beside, weights_in
from ..trainer.progress import is_trial
from ..trainer.refusals import refuse_sharded_weights
from ..trainer.resume import continue_from
from ..trainer.saved_progress import ends_epoch
from ._arguments import optional_whole_number
from ._batch_size import BatchSizeCallback
from ._run import run_of
from ._sample_counter import Count

OptimizerState = Literal["keep", "reset"]
Mode = Literal["weights", "continue"]


class PiggybackWarmStart(BatchSizeCallback):
    """Let the large batch start from weights that the small batch found: a piggybacked, or warm-started, run.

    In one run: the loader's own batch size until ``switch_epoch``, then ``large_batch_size``. Or the large batch
    alone, from a checkpoint that a small-batch run has saved: with ``mode="weights"`` as a new run that
    begins at epoch 0 from those weights, as in the paper's figure; with ``mode="continue"`` as the same run,
    epochs and steps counted from where they stood. Logs ``piggyback/switched``, 0 or 1, ``batch/size`` and
    ``batch/accumulate``.

    Args:
        switch_epoch: First epoch with the large batch, counted from 0. ``None`` with ``source_checkpoint``.
        large_batch_size: Samples per optimizer step with the large batch, over all processes.
        optimizer_state: At the switch, ``"keep"`` the optimizer's momentum and moments, or ``"reset"`` them. To be
            stated: the paper does not say, and it matters. With ``mode="continue"``, ``"keep"`` also brings back
            the checkpoint's learning rate and its scheduler; with ``"reset"`` both begin anew. Weights alone have
            no state to keep.
        source_checkpoint: A Lightning checkpoint of the small-batch run.
        mode: What is taken from it, ``"weights"`` or ``"continue"``.
        max_micro_batch: Most samples that one process works on at a time; larger batches are accumulated.
        batch_arg_name: As in `BatchSizeScheduler`.
        count: As in `ExactAccumulation`: what the mean of your loss is taken over, if not the samples.

    Raises:
        ValueError: If ``optimizer_state`` is not stated, neither or both of ``switch_epoch`` and ``source_checkpoint``
            are given, or an argument is out of range. Before the first step, if the run ends before the switch,
            the large batch is not larger, or the checkpoint is of another model; see also `BatchSizeScheduler`.
        FileNotFoundError: At fit start, if there is no such checkpoint.

    Reference:
        Keskar et al. (2017), section 4, figure 5.
    """

    decides_training = ("switch_epoch", "large_batch_size", "optimizer_state", "mode", "count")
    may_change = (*BatchSizeCallback.may_change, "source_checkpoint")

    def __init__(
        self,
        switch_epoch: int | None,
        large_batch_size: int,
        *,
        optimizer_state: OptimizerState | None = None,
        source_checkpoint: str | Path | None = None,
        mode: Mode = "weights",
        max_micro_batch: int | None = None,
        batch_arg_name: str = "batch_size",
        count: Count | None = None,
    ) -> None:
        super().__init__(max_micro_batch=max_micro_batch, batch_arg_name=batch_arg_name, count=count)
        self.large_batch_size = whole_number("large_batch_size", large_batch_size)
        if (switch_epoch is None) == (source_checkpoint is None):
            raise ValueError(
                "the small batch comes either before switch_epoch or from source_checkpoint, got "
                f"switch_epoch={shown(switch_epoch)} and source_checkpoint={shown(source_checkpoint)}; give one of them"
            )
        first = "for the small batch to come first"
        self.switch_epoch = optional_whole_number("switch_epoch", switch_epoch, hint=first)
        if not isinstance(optimizer_state, str) or optimizer_state not in get_args(OptimizerState):
            raise ValueError(
                f"optimizer_state must be stated, 'keep' or 'reset', got {shown(optimizer_state)}: what the small "
                "batch's momentum does to the large one's first steps is part of the experiment"
            )
        self.mode: Mode = one_of("mode", mode, get_args(Mode))
        if source_checkpoint is not None and mode == "weights" and optimizer_state == "keep":
            raise ValueError(
                "mode='weights' takes nothing but the weights from the checkpoint, so that no optimizer_state can be "
                "kept; use optimizer_state='reset' or mode='continue'"
            )
        self.optimizer_state = optimizer_state
        self.source_checkpoint = None if source_checkpoint is None else str(source_checkpoint)
        self._switched = False
        self._resumed = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this callback logs."""
        return (*super().keys, "piggyback/switched")

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        self._resumed = trainer.global_step > 0  # a second fit of one Trainer
        self._switched = self._switched and self._resumed
        if self._resumed:
            return
        if self.source_checkpoint is not None:
            refuse_sharded_weights(trainer, self)
            if os.path.exists(self.source_checkpoint):  # now, before others take note of the initial weights
                _load_weights(module, self.source_checkpoint)
        elif not is_trial(trainer) and 0 <= (trainer.max_epochs or -1) <= (self.switch_epoch or 0):
            raise ValueError(
                f"switch_epoch={self.switch_epoch} is not before the end of the run, max_epochs={trainer.max_epochs}: "
                "the large batch would never come; switch sooner or train longer"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if self.source_checkpoint is not None and not self._resumed:
            checkpoint = _load_weights(pl_module, self.source_checkpoint)  # again: configure_model may have made them
            if self.mode == "continue":
                _check_continues(checkpoint, self.source_checkpoint, optimizers=self.optimizer_state == "keep")
                if self.optimizer_state == "keep":
                    _check_optimizers(checkpoint["optimizer_states"], trainer, self.source_checkpoint)
                continue_from(trainer, checkpoint, optimizers=self.optimizer_state == "keep")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.switch_epoch is not None and trainer.current_epoch < self.switch_epoch:
            small = run_of(trainer).batch_size(trainer)
            if small is not None and small >= self.large_batch_size:
                raise ValueError(
                    f"large_batch_size={self.large_batch_size} is not larger than the small batch, {small} samples per "
                    "step; give the loader a smaller batch_size"
                )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if not self._switched and trainer.current_epoch >= (self.switch_epoch or 0):
            self._switched = True
            if self.optimizer_state == "reset" and self.source_checkpoint is None:
                for optimizer in trainer.optimizers:
                    optimizer.state.clear()
            state = "kept" if self.optimizer_state == "keep" else "reset"
            rank_zero_info(
                f"PiggybackWarmStart: batches of {self.large_batch_size} from epoch {trainer.current_epoch} on, "
                f"optimizer state {state}"
            )

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["PiggybackWarmStart"] = {"switched": self._switched}

    def recall(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        self._resumed = True
        self._switched = checkpoint.get("PiggybackWarmStart", {}).get("switched", False)

    def planned(self, trainer: Trainer, epoch: int) -> MicroBatching | None:
        small = self.switch_epoch is not None and epoch < self.switch_epoch
        return None if small else self._split(trainer, self.large_batch_size)

    def values(self, trainer: Trainer) -> dict[str, float]:
        return super().values(trainer) | {"piggyback/switched": float(self._switched)}


def _load_weights(module: LightningModule, path: str) -> dict[str, Any]:
    """Put the weights of a checkpoint into the module; the whole checkpoint."""
    try:
        checkpoint: dict[str, Any] = read_checkpoint(path)
        weights = weights_in(checkpoint)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"source_checkpoint={path!r} does not exist: {stored_beside(path)}; save the small-batch run's epochs with "
            "ModelCheckpoint(every_n_epochs=1, save_top_k=-1)"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"source_checkpoint={path!r} cannot be read: {error}; it must be whole, saved by Lightning, and hold "
            "nothing but tensors and plain values, hyper-parameters included"
        ) from error
    if next(module.parameters(), None) is None:
        return checkpoint  # not made yet
    try:
        load_weights(weights, module, strict=module.strict_loading)
    except ValueError as error:
        raise ValueError(
            f"source_checkpoint={path!r} does not fit {type(module).__name__}: {error}; use a checkpoint of the same "
            "architecture"
        ) from error
    return checkpoint


def _check_continues(checkpoint: dict[str, Any], path: str, *, optimizers: bool) -> None:
    """Refuse, for mode="continue", what holds weights alone or stopped inside an epoch."""
    needed = ["loops", "global_step", *(["optimizer_states", "lr_schedulers"] if optimizers else [])]
    missing = [name for name in needed if name not in checkpoint]
    if missing or not isinstance(checkpoint["loops"], dict):
        raise ValueError(
            f"source_checkpoint={path!r} holds no {' and no '.join(missing or ['loops'])}, without which no run "
            "continues; use one that Lightning saved with save_weights_only=False, or mode='weights'"
        )
    try:
        ended = ends_epoch(checkpoint)
    except (AttributeError, TypeError, KeyError) as error:
        raise ValueError(
            f"source_checkpoint={path!r} holds loops that are not Lightning's ({short_error(error)}); use one that "
            "Lightning saved, or mode='weights'"
        ) from error
    if not ended:
        raise ValueError(
            f"source_checkpoint={path!r} was saved inside an epoch, whose rest cannot continue in larger batches; use "
            "one from the end of an epoch, or mode='weights'"
        )


def _check_optimizers(states: Any, trainer: Trainer, path: str) -> None:
    """Refuse states that torch would refuse without a name, or of which Lightning would leave out those that lack."""
    try:
        there = [[len(group["params"]) for group in state["param_groups"]] for state in states]
    except (TypeError, KeyError):
        there = None
    here = [[len(group["params"]) for group in optimizer.param_groups] for optimizer in trainer.optimizers]
    if there != here:
        raise ValueError(
            f"source_checkpoint={path!r} holds the state of other optimizers than this run's: parameters by optimizer "
            f"and group are {there} there and {here} here; use the same optimizers, or optimizer_state='reset'"
        )
