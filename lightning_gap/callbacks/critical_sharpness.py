"""Log how far the steps of a run could go before they raise the loss, by forward passes over their own batches."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from ..functional._validation import one_of, real_number, text, whole_number
from ..functional.curvature.critical_sharpness import CriticalSharpness, critical_sharpness
from ..trainer.callbacks import state_key
from ..trainer.logs import log_now
from ..trainer.optimizers import has_optimizer, largest_learning_rate
from ..trainer.processes import process_group
from ..trainer.progress import averages_weights_now, optimizer_steps_taken
from ..trainer.refusals import refuse_sharded_weights, refuse_sync_batch_norm
from ._arguments import optional_function, optional_whole_number
from ._attempts import NoValueError, attempt
from ._evaluations import LossFunction
from ._history import History, PlottedCallback, note
from ._module_loss import check_measurable, trained_weights
from ._real_update import RealUpdate
from ._run import run_of
from ._schedule import TimeBudget, check_time_share
from ._step_loss import BatchNorm, KeptBatch, check_step_loss, step_loss

T = TypeVar("T")

_AREA = "curvature"
_NAMES = ("critical_sharpness", "critical_learning_rate", "critical_multiple", "critical_evaluations")
_NO_MEMORY = "the loss at other weights needs two copies of the weights more; leave the monitor out"


@dataclass(kw_only=True, eq=False, repr=False)
class CriticalSharpnessMonitor(PlottedCallback):
    """Log the largest learning rate at which a step of the run would not have raised the loss, and 2 over it.

    Measured every n steps along the update that the run's own optimizer made, whatever it is made of (momentum, weight
    decay, clipping), and on the batch of that step: five to seven forward passes in evaluation mode, but for BatchNorm,
    no gradient and no other data. So any loss that can be evaluated will do, with fused attention or in a compiled
    module. The loss comes from your own `training_step`, silenced and isolated; ``loss_fn`` overrides it. The run is
    bit for bit the same with and without the monitor.

    Logs right after the step ``curvature/critical_multiple``, how many times its update could have been made before the
    loss exceeds where it began; ``curvature/critical_learning_rate``, that times the (largest) learning rate;
    ``curvature/critical_sharpness``, 2 over that; and ``curvature/critical_evaluations``, the forward passes used. A
    multiple below 1 tells that the step raised the loss of its own batch. NaN, with a warning, where the update does
    not lead down or the optimizer has no learning rate; infinite where the loss never came back.

    Args:
        every_n_steps: Measure at steps 0, n, 2 n, ...
        micro_batches: Under accumulation measure on so many of the step's micro-batches, the first ones; ``None`` for
            all.
        batch_norm: ``"batch"`` normalises by each batch, as training does (ghost layers by the whole of it), and leaves
            running statistics alone; ``"running"`` by those.
        tolerance: Width of the bracket around the critical learning rate, relative to it.
        max_evaluations: Most forward passes over the batches of a step.
        max_time_share: Most time that measuring may take, as a share of the training time; a measurement for which
            there is no time yet is left out. ``None`` for no limit.
        loss_fn: Mean loss of one batch, a function of (module, batch), instead of `training_step`.
        suffix: Appended to the keys, so that two monitors can stand side by side.

    Raises:
        ValueError: If an argument is out of range; before the first step, if the loss cannot be measured or is random,
            there is no optimizer, the strategy shards the weights, or two monitors log the same key.

    Reference:
        Kalra et al. (2026); see `lightning_gap.functional.critical_sharpness`.
    """

    may_change: ClassVar[tuple[str, ...]] = ("every_n_steps", "max_evaluations", "max_time_share")

    every_n_steps: int = 250
    micro_batches: int | None = None
    batch_norm: BatchNorm = "batch"
    tolerance: float = 0.1
    max_evaluations: int = 12
    max_time_share: float | None = 0.02
    loss_fn: LossFunction | None = None
    suffix: str = ""

    def __post_init__(self) -> None:
        self.check_arguments()
        self._budget = TimeBudget()
        self._update: RealUpdate | None = None  # of a step that is measured
        self._is_in_step = self._tried_out = False
        self._rate, self._step = math.nan, 0  # at the beginning of the present batch
        self._multiple, self._critical_rate = 1.0, math.nan  # found last
        self._told: set[str] = set()
        self._history: History = []

    def check_arguments(self) -> None:
        """Raise if an argument is out of range, and keep it as a plain value."""
        self.every_n_steps = whole_number("every_n_steps", self.every_n_steps)
        self.micro_batches = optional_whole_number("micro_batches", self.micro_batches, hint="None for all")
        self.batch_norm = one_of("batch_norm", self.batch_norm, get_args(BatchNorm))
        self.tolerance = real_number("tolerance", self.tolerance, above=0, below=1, hint="try 0.1")
        self.max_evaluations = whole_number("max_evaluations", self.max_evaluations, 5)
        self.max_time_share = check_time_share(self.max_time_share)
        self.loss_fn = optional_function("loss_fn", self.loss_fn)
        self.suffix = text("suffix", self.suffix)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this monitor logs."""
        return tuple(f"{_AREA}/{name}{self.suffix}" for name in _NAMES)

    @property
    def state_key(self) -> str:
        return state_key(self, suffix=self.suffix)

    def state_dict(self) -> dict[str, Any]:
        return {"multiple": self._multiple, "critical_rate": self._critical_rate, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._multiple, self._critical_rate = state_dict["multiple"], state_dict["critical_rate"]
        self._history = [dict(point) for point in state_dict.get("history", ())]

    @property
    def plotted(self) -> tuple[str, ...]:
        """Critical sharpness."""
        return _NAMES[:1]

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        self.check_arguments()
        refuse_sharded_weights(trainer, self)
        if self.batch_norm == "batch":
            refuse_sync_batch_norm(trainer, "batch_norm='batch'")
        if "dataloader_iter" in inspect.signature(module.training_step).parameters:
            raise ValueError(
                "CriticalSharpnessMonitor measures on the batch of a step, and a training_step that takes "
                "dataloader_iter would fetch the next one; let it take (batch, batch_idx)"
            )
        run_of(trainer).claim_keys(trainer, self, self.keys)
        self._update, self._is_in_step, self._tried_out = None, False, False
        self._history = []
        self._multiple, self._critical_rate = 1.0, math.nan
        self._told.clear()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        check_measurable(pl_module, self.loss_fn)
        if not has_optimizer(trainer):
            raise ValueError(
                "CriticalSharpnessMonitor measures along the updates of an optimizer, and configure_optimizers of "
                f"{type(pl_module).__name__} gives none; let it return one"
            )
        trained_weights(trainer, pl_module)
        self._budget.begin(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self._update, self._is_in_step = None, False

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if averages_weights_now(trainer):
            return  # no step will follow
        if not self._tried_out:
            self._tried_out = True  # by now, other callbacks' hooks have all run once
            self._attempt(lambda: self._try_out(trainer, pl_module, batch, batch_idx), trainer, alone=True)
        if not self._is_in_step:
            self._is_in_step = True
            due = optimizer_steps_taken(trainer) % self.every_n_steps == 0
            if due and self._budget.has_room(trainer, self.max_time_share):
                self._update = RealUpdate(trained_weights(trainer, pl_module), self.micro_batches)
        if self._update is not None:
            self._update.see(batch, batch_idx)
        self._rate = largest_learning_rate(trainer)  # schedulers move on before the batch ends
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step == self._step:
            return
        self._is_in_step = False
        update, self._update = self._update, None
        if update is None:
            return
        rate = self._rate * run_of(trainer).learning_rate_scale
        with self._budget.spent():
            try:
                found = self._attempt(lambda: self._measure(trainer, pl_module, update, rate), trainer)
            except NoValueError as error:  # a diverged run or a full device are not ours to stop
                found = CriticalSharpness(*(math.nan,) * 5, evaluations=0, reason=str(error))
        values = self._values(found, rate)
        note(self._history, trainer.global_step, dict(zip(_NAMES, values, strict=True)))
        log_now(trainer, dict(zip(self.keys, values, strict=True)))

    def end_fit(self, trainer: Trainer) -> None:
        self._update = None

    def _try_out(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Raise before the first step if the loss cannot be measured; a compiled module is compiled for it here."""
        first = KeptBatch(batch, batch_idx)
        check_step_loss(trainer, module, first, batch_norm=self.batch_norm, loss_fn=self.loss_fn)

    def _measure(self, trainer: Trainer, module: LightningModule, update: RealUpdate, rate: float) -> CriticalSharpness:
        """In units of the update."""
        known = math.isfinite(self._critical_rate) and rate > 0
        with (
            update.undone() as (weights, direction),
            step_loss(trainer, module, update.batches, batch_norm=self.batch_norm, loss_fn=self.loss_fn) as loss,
        ):
            return critical_sharpness(
                loss,
                weights,
                direction,
                guess=self._critical_rate / rate if known else self._multiple,
                tolerance=self.tolerance,
                max_evaluations=self.max_evaluations,
                check_repeatable=False,
                process_group=process_group(trainer),
            )

    def _values(self, found: CriticalSharpness, rate: float) -> tuple[float, ...]:
        """What is logged, in the order of the names."""
        multiple = found.learning_rate
        critical_rate = multiple * rate if rate > 0 else math.nan
        if math.isfinite(multiple):
            self._multiple, self._critical_rate = multiple, critical_rate
        else:
            self._tell(f"critical sharpness is logged as {multiple}: {found.reason}")
        return 2 / critical_rate, critical_rate, multiple, float(found.evaluations)

    def _tell(self, reason: str) -> None:
        """Once for each kind of reason."""
        kind = "".join(letter for letter in reason if not letter.isdigit())
        if kind not in self._told:
            self._told.add(kind)
            rank_zero_warn(f"{reason}; this is said once")

    def _attempt(self, function: Callable[[], T], trainer: Trainer, *, alone: bool = False) -> T:
        return attempt(function, trainer, halve_chunks=lambda: False, alone=alone, fix=_NO_MEMORY)
