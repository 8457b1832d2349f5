"""The base of the monitors: when they measure, and where the values go."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, final

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from ..functional._validation import flag, shown, text
from ..trainer.callbacks import state_key
from ..trainer.logs import log_now
from ..trainer.progress import is_last_planned
from ..trainer.refusals import refuse_sharded_weights
from ..trainer.saved_progress import epoch_without_its_end
from ._attempts import NoValueError, attempt
from ._history import History, PlottedCallback, note
from ._run import run_of
from ._schedule import EveryNEpochs, TimeBudget, check_every_n_epochs, check_time_share, is_regular

T = TypeVar("T")

_EXAMPLES = {
    "area": "the first part of its keys, for instance area = 'sharpness'",
    "quantity": "what it measures in words, for instance quantity = 'the mean sharpness'",
}


@dataclass(kw_only=True, eq=False, repr=False)
class Monitor(PlottedCallback, ABC):
    """Logs its values before the first step if asked to, at the ends of epochs that are due, and when the run ends.

    A subclass says what it logs (`area` and `names`), and answers one question: `measure`. The keys are
    ``<area>/<name><suffix>``. Arguments are fields, checked in `check_arguments`, when they are given and again when
    fit begins, so that one that was set in between counts.

    A missing value does not end the run: where the loss is not finite, or a batch has none, NaN is logged with the
    reason. Where memory runs out the chunks are halved, three times at most. A measurement that was due when a
    checkpoint was saved at the end of an epoch is made after resuming.

    Args:
        every_n_epochs: Measure at the end of every n-th epoch, or with "log" of epochs 1, 2, 4, 8, ...; and at the end
            of the run.
        at_start: Measure also before the first step.
        max_time_share: Most time that measuring between the first and the last epoch may take, as a share of the
            training time; measurements wait until it allows them. The first ten seconds of measuring are not limited.
            ``None`` for no limit.
        suffix: Appended to the keys, so that two monitors can stand side by side.
    """

    may_change: ClassVar[tuple[str, ...]] = ("every_n_epochs", "at_start", "max_time_share")
    area: ClassVar[str]  # the first part of the keys
    quantity: ClassVar[str]  # what is measured, in words

    every_n_epochs: EveryNEpochs = 1
    at_start: bool = False
    max_time_share: float | None = 0.1
    suffix: str = ""

    def __post_init__(self) -> None:
        self._budget = TimeBudget()
        self._history: History = []
        self._measured_step: int | None = None  # the last one that was measured at
        self._owed_epoch: int | None = None
        self._resumed_step = 0
        self._in_training = self._tried_out = False
        for name, example in _EXAMPLES.items():
            said = getattr(self, name, None)
            if not isinstance(said, str) or not said:
                raise TypeError(f"{type(self).__name__} needs the class attribute {name}, {example}; got {said!r}")
        self.check_arguments()

    @property
    @abstractmethod
    def names(self) -> Sequence[str]:
        """What is logged, without area and suffix."""

    @abstractmethod
    def measure(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """Measure now, inside fit; nothing is logged.

        Returns:
            A value for each of `names`, or a result that `named` takes apart.
        """

    # What a subclass may add

    @property
    def optional_names(self) -> Sequence[str]:
        """Those of `names` that a measurement may have no value for, and which are then not logged."""
        return ()

    @property
    def plotted(self) -> Sequence[str]:
        """What `plot` draws by default, of one unit; the first of `names`."""
        return self.names[:1]

    def check_arguments(self) -> None:
        """Raise if an argument is out of range, and keep it as a plain value."""
        self.every_n_epochs = check_every_n_epochs(self.every_n_epochs)
        self.at_start = flag("at_start", self.at_start)
        self.max_time_share = check_time_share(self.max_time_share)
        self.suffix = text("suffix", self.suffix)

    def begin(self, trainer: Trainer) -> None:
        """Fit begins, before a checkpoint is loaded: what was measured in an earlier fit is over."""

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        """Fix what to measure on, when training begins."""

    def try_out(self, trainer: Trainer, module: LightningModule, training_batch: Any) -> None:
        """Raise before the first step if something cannot be measured."""

    def halve_chunks(self, trainer: Trainer, module: LightningModule) -> bool:
        """Measure in smaller chunks from now on; whether that can be done and is the same measurement."""
        return False

    def named(self, trainer: Trainer, module: LightningModule, result: Any) -> Mapping[str, float]:
        """A result by `names`."""
        values: Mapping[str, float] = result
        return values

    def unknown(self, trainer: Trainer, module: LightningModule) -> Mapping[str, float]:
        """What is logged where there is no value."""
        return dict.fromkeys(self.names, math.nan)

    def finish(self, trainer: Trainer, module: LightningModule) -> None:
        """Log what is measured only when the run is over."""

    def owes_at_end(self, trainer: Trainer) -> bool:
        """Whether `finish` is still to come in a run that is resumed from after its last step."""
        return False

    def forget(self) -> None:
        """Let go of what was drawn."""

    # The hooks, which are the same for all

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this monitor logs."""
        return tuple(self._by_key(dict.fromkeys(self.names, 0.0)))

    @property
    def state_key(self) -> str:
        return state_key(self, suffix=self.suffix)

    def state_dict(self) -> dict[str, Any]:
        return {"measured_step": self._measured_step or 0, "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._measured_step = state_dict.get("measured_step")
        self._history = [dict(point) for point in state_dict.get("history", ())]

    @final
    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        if "_budget" not in vars(self):
            cut = next(kind for kind in type(self).__mro__ if "__post_init__" in vars(kind))
            raise TypeError(f"{cut.__name__}.__post_init__ must call super().__post_init__()")
        self.check_arguments()
        refuse_sharded_weights(trainer, self)
        run_of(trainer).claim_keys(trainer, self, self.keys)
        self._measured_step = self._owed_epoch = None
        self._history = []
        self._in_training = self._tried_out = False
        self.begin(trainer)

    @final
    def resume_from(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        self._owed_epoch = epoch_without_its_end(checkpoint)
        self._resumed_step = int(checkpoint.get("global_step", 0))

    @final
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._in_training = True
        if self._measured_step is None:
            self._measured_step = trainer.global_step
        self.draw(trainer, pl_module)
        self._budget.begin(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if self._tried_out:
            return
        self._tried_out = True  # by now, other callbacks' hooks have all run once
        self._attempt(lambda: self.try_out(trainer, pl_module, batch), trainer, pl_module, alone=True)
        if self._owes(trainer) or (self.at_start and trainer.global_step == 0):
            log_now(trainer, self._measured(trainer, pl_module))

    @final
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if is_last_planned(trainer) or (
            is_regular(trainer.current_epoch, self.every_n_epochs)
            and self._budget.allows(trainer, type(self).__name__, self.max_time_share)
        ):
            pl_module.log_dict(self._measured(trainer, pl_module), sync_dist=True)

    @final
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step > (self._measured_step or 0):
            log_now(trainer, self._measured(trainer, pl_module))
        self.finish(trainer, pl_module)
        self.forget()

    @final
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that was resumed from after its last step has nothing to train, and Lightning calls no other hook.
        measured = self._measured_step in (None, trainer.global_step)
        if self._in_training or (measured and not self.owes_at_end(trainer)):
            return
        trainer.strategy.model_to_device()
        self.draw(trainer, pl_module)
        self._budget.begin(trainer)
        self.on_train_end(trainer, pl_module)

    @final
    def end_fit(self, trainer: Trainer) -> None:
        self.forget()

    def epochs_begun(self, trainer: Trainer) -> int:
        """Epochs of training up to this measurement; one that is made after resuming belongs to the epoch before."""
        if self._owed_epoch is not None and (self._measured_step or 0) < trainer.global_step == self._resumed_step:
            return self._owed_epoch + 1
        progress: Any = trainer.fit_loop.epoch_progress.current
        # The one is short after a resume, the other inside an epoch.
        return int(max(progress.ready, progress.processed))

    def _owes(self, trainer: Trainer) -> bool:
        """Whether the checkpoint was saved with an epoch's last step and before the measurement that was due then."""
        owed = None if self._measured_step == trainer.global_step else self._owed_epoch
        return owed is not None and is_regular(owed, self.every_n_epochs)

    def _measured(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """The values by key, or NaN with a warning where there are none."""
        with self._budget.spent():
            try:
                found = self._attempt(lambda: self.measure(trainer, module), trainer, module)
                values = self._checked(self.named(trainer, module, found))
            except NoValueError as error:  # a diverged run, a rare batch or a full device are not ours to stop
                rank_zero_warn(f"{self.quantity} is logged as NaN: {error}")
                values = self.unknown(trainer, module)
            except Exception as error:
                if hasattr(error, "add_note"):  # since Python 3.11
                    error.add_note(f"{type(self).__name__} was measuring {self.quantity} when this was raised")
                raise
        self._measured_step = trainer.global_step
        note(self._history, trainer.global_step, values)
        return self._by_key(values)

    def _checked(self, values: Any) -> Mapping[str, float]:
        """What was measured, if it is a value for each name: others have no key that was claimed."""
        if isinstance(values, Mapping) and set(self.names) - set(self.optional_names) <= set(values) <= set(self.names):
            return values
        hook = "measure" if type(self).named is Monitor.named else "named"
        got = f"those of {list(values)}" if isinstance(values, Mapping) else shown(values)
        raise ValueError(
            f"{type(self).__name__}.{hook} must return a value for each of {list(self.names)} and no other, got {got}"
        )

    def _attempt(self, function: Callable[[], T], trainer: Trainer, module: LightningModule, alone: bool = False) -> T:
        return attempt(function, trainer, halve_chunks=lambda: self.halve_chunks(trainer, module), alone=alone)

    def _by_key(self, values: Mapping[str, float]) -> dict[str, float]:
        return {f"{self.area}/{name}{self.suffix}": value for name, value in values.items()}
