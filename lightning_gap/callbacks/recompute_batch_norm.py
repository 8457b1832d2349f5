"""Validate, and keep at the end, with BatchNorm statistics gathered over training data for the weights as they are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.nn.modules.batchnorm import _BatchNorm

from ..functional._validation import one_of, seed_number, whole_number
from ..trainer.averaged_weights import averaged_modules, run_after_averaging
from ..trainer.processes import shares_batch_statistics
from ..trainer.progress import validates_next
from ..trainer.refusals import refuse_lazy_layers, refuse_sharded_weights
from ._arguments import check_batches, optional_function
from ._callback import GapCallback
from ._evaluations import LossFunction
from ._gathered_statistics import GatheredStatistics, trained_layers, what_to_draw
from ._module_loss import check_measurable
from ._run import run_of

Every = Literal["validation", "end"] | int


class RecomputeBatchNorm(GapCallback):
    """Replace the running statistics of BatchNorm by exact ones, for the weights that are validated and those kept.

    Running statistics are an average over past steps, so that they lag behind the weights: most of all with large
    batches, whose steps are few, and with averaged weights, which no step ever had. Here they are the plain mean of the
    statistics of training batches, all evaluated with the weights as they are, in evaluation mode but for BatchNorm,
    and in the Trainer's precision. Ghost layers take a batch as one ghost.

    They are recomputed before a validation, and stay: checkpoints that are written after it hold what was validated. So
    do those that are written with the batch before it, from which Lightning resumes without that validation. Training
    goes on as without this callback, bit for bit: a BatchNorm layer in training mode does not read its running
    statistics, and goes on averaging from the new ones. Layers that train in evaluation mode, frozen ones, are left
    alone. At the end of fit, also an early one, they are recomputed once more, and stay in the module.

    Weight averaging by Lightning's callbacks is seen as it is: `WeightAveraging` and `EMAWeightAveraging` validate and
    keep the averaged weights, which get statistics of their own, in checkpoints too; `StochasticWeightAveraging` those
    of its last epoch.

    Args:
        every: ``"validation"`` before each validation, a number n before those in every n-th epoch, ``"end"`` before
            none. At the end of fit in each case.
        batches: Training batches to average over, those of all processes together, of the size that training begins
            with; drawn by ``seed``, the same each time. By default as many as an epoch has.
        data: Batches to average over instead, as `training_step` takes them.
        loss_fn: Runs the module on one batch, a function of (module, batch), instead of `training_step`.
        seed: Seed of the draw, and of random transforms in the data set.

    Raises:
        ValueError: If an argument is out of range, or ``batches`` and ``data`` are both given. Before the first step,
            if the model has no BatchNorm layer with running statistics, the Trainer has ``sync_batchnorm=True`` or a
            second such callback, the strategy shards the weights, no batches can be drawn from the train loader, or
            `training_step` cannot be used to evaluate.

    Reference:
        Goyal et al. (2017), section 5.1; Wu and Johnson (2021), section 3.
    """

    def __init__(
        self,
        every: Every = "validation",
        batches: int | None = None,
        *,
        data: Iterable[Any] | None = None,
        loss_fn: LossFunction | None = None,
        seed: int = 0,
    ) -> None:
        self.every = _checked_every(every)
        self.batches = None if batches is None else whole_number("batches", batches)
        check_batches(data=data)
        if data is not None and batches is not None:
            raise ValueError(f"batches={batches!r} are drawn from the train loader, not from data; give one of them")
        self.data = data
        self.loss_fn = optional_function("loss_fn", loss_fn)
        self.seed = seed_number("seed", seed)
        self._draw: dict[str, int] = {}  # the same for the whole run, though its batches may grow
        self._statistics: GatheredStatistics | None = None
        self._trained: list[_BatchNorm] = []  # in training mode during the last step
        self._is_due = self._has_tried = False

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        run_of(trainer).claim(trainer, self, "recompute the running statistics")
        refuse_sharded_weights(trainer, self)
        _refuse_shared_statistics(trainer)
        run_after_averaging(trainer, self)
        self._draw, self._statistics, self._has_tried = {}, None, False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["RecomputeBatchNorm"] = {"batches": self.batches, "draw": self._draw}
        if self._statistics is not None and validates_next(trainer) and self._is_due_in(trainer.current_epoch):
            self._save_exact_statistics(trainer, pl_module, checkpoint["state_dict"])

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        saved = checkpoint.get("RecomputeBatchNorm", {})
        if saved.get("batches") == self.batches and run_of(trainer).serves(self):
            self._draw = dict(saved.get("draw", {}))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._begin(trainer, pl_module)
        self._trained = trained_layers(pl_module)  # a run resumed from its last batch ends without another one

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._has_tried:
            return
        self._has_tried = True
        if not trained_layers(pl_module):
            rank_zero_warn(
                "all BatchNorm layers are in evaluation mode when training begins: RecomputeBatchNorm takes them for "
                "frozen and leaves their statistics alone"
            )
        self._gathered.try_out(trainer, pl_module, batch)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._trained = trained_layers(pl_module)  # at validation all are in evaluation mode

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if run_of(trainer).serves(self):  # not a second Trainer, which validates in the middle of a fit
            in_training = self._statistics is not None and not trainer.sanity_checking
            self._is_due = in_training and self._is_due_in(trainer.current_epoch)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._is_due:  # the first batch: whatever swaps the weights for a validation has done so
            self._is_due = False
            self._gathered.replace(trainer, pl_module, self._trained)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_with_exact_statistics(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that was resumed from after its last step has nothing to train, and Lightning calls no other hook.
        if self._statistics is None:
            trainer.strategy.model_to_device()
            self._begin(trainer, pl_module)
            self._trained = trained_layers(pl_module)
            self._end_with_exact_statistics(trainer, pl_module)

    def end_fit(self, trainer: Trainer) -> None:
        super().end_fit(trainer)
        self._statistics, self._trained, self._is_due = None, [], False

    def _is_due_in(self, epoch: int) -> bool:
        return self.every == "validation" if isinstance(self.every, str) else (epoch + 1) % self.every == 0

    @property
    def _gathered(self) -> GatheredStatistics:
        assert self._statistics is not None, "statistics are recomputed inside fit"
        return self._statistics

    def _begin(self, trainer: Trainer, module: LightningModule) -> None:
        _refuse_shared_statistics(trainer)  # once more: configure_model makes layers after begin_fit
        refuse_lazy_layers(module, self)
        check_measurable(module, self.loss_fn)
        layers = [part for part in module.modules() if isinstance(part, _BatchNorm)]
        if not any(layer.running_mean is not None for layer in layers):
            without = f"{len(layers)} without running statistics" if layers else "none"
            raise ValueError(
                f"RecomputeBatchNorm needs BatchNorm layers with running statistics, and {type(module).__name__} has "
                f"{without}; remove the callback, or use layers with track_running_stats=True"
            )
        if self.data is None:
            self._draw = self._draw or what_to_draw(trainer, self.batches)
        self._statistics = GatheredStatistics(
            trainer, data=self.data, draw=self._draw, loss_fn=self.loss_fn, seed=self.seed
        )

    def _save_exact_statistics(self, trainer: Trainer, module: LightningModule, saved: dict[str, Any]) -> None:
        """Save what the validation to come will have, which Lightning leaves out when it resumes from here."""
        if averaged_modules(trainer):  # whose weights are in place in the validation only
            return
        found = self._gathered.gather(trainer, module, self._trained)
        saved.update({name: value for name, value in found.items() if name in saved})

    def _end_with_exact_statistics(self, trainer: Trainer, module: LightningModule) -> None:
        self._gathered.replace(trainer, module, self._trained, also_in=averaged_modules(trainer))


def _refuse_shared_statistics(trainer: Trainer) -> None:
    if shares_batch_statistics(trainer):
        raise ValueError(
            "RecomputeBatchNorm deals the batches out to the processes, which sync_batchnorm=True, or SyncBatchNorm "
            "layers, would let wait for each other; use Trainer(sync_batchnorm=False) and BatchNorm layers"
        )


def _checked_every(every: Any) -> Every:
    if isinstance(every, str):
        return one_of("every", every, ("validation", "end"))
    return whole_number("every", every, unit="epochs", hint="or 'validation' or 'end'")
