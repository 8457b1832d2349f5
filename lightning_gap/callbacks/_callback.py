"""What every callback of this package does: compare its settings between processes and with a checkpoint."""

from __future__ import annotations

from typing import Any, ClassVar

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from ..logging.layout import write_layout
from ..trainer.callbacks import callbacks_of, is_lightnings
from ..trainer.resume import keep_epoch, saved_epoch
from ._processes import refuse_different_callbacks, refuse_different_loaders
from ._run import run_of
from ._settings import refuse_half_made, settings_of

KEY = "lightning_gap_settings"  # in a checkpoint: the settings of each callback


class GapCallback(Callback):
    """A callback whose settings are the same on all processes, and those of the checkpoint that it resumes from.

    Settings are the arguments of `__init__`, kept under their own names. A subclass that overrides one of the hooks
    below calls `super()` first. It claims what it shares with others in `begin_fit`, and reads from `on_train_start`
    on; see `Run`. What must be put back when its fit is over goes to `end_fit`.
    """

    decides_training: ClassVar[tuple[str, ...]] = ()  # settings with which alone a run can be resumed
    may_change: ClassVar[tuple[str, ...]] = ()  # settings that need no word when a run is resumed with others
    resumes_exactly: ClassVar[bool] = False  # whether it needs the progress of a resumed run to be fixed

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this callback logs, as far as they are known before the run."""
        return ()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            refuse_half_made(self)
            run_of(trainer).join(self, fixes_resume=self.resumes_exactly)
            if self.resumes_exactly:
                # Lightning would load a checkpoint's float64 into float32 weights, and convert those afterwards.
                trainer.precision_plugin.convert_module(pl_module)
            self._has_begun = False
            self.begin_fit(trainer, pl_module)
            if not self._has_begun:
                raise TypeError(f"{type(self).__name__}.begin_fit must call super().begin_fit(trainer, module)")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _first(trainer) is self:
            ours = [other for other in callbacks_of(trainer) if isinstance(other, GapCallback)]
            refuse_different_callbacks(
                trainer, ((type(other).__name__, other._settings_of_process(trainer)) for other in ours)
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = run_of(trainer)
        if not run.serves(self):
            name, setup = type(self).__name__, type(self).setup
            if setup is GapCallback.setup:
                raise RuntimeError(
                    f"{name} was added when Lightning had called setup; give it to the Trainer, return it from "
                    "configure_callbacks, or add it in a setup"
                )
            raise RuntimeError(f"{name}.setup must call super().setup(trainer, pl_module, stage)")
        if _first(trainer) is self:
            refuse_different_loaders(trainer)
            run.start(trainer)
            _lay_out(trainer)
        elif not run.has_started:
            first = type(_first(trainer)).__name__
            raise RuntimeError(
                f"{first}.on_train_start must call super().on_train_start(trainer, pl_module) before anything else: as "
                "the first of the callbacks of lightning_gap it begins the run for all of them"
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if _first(trainer) is self:
            run_of(trainer).read_batch_size(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._end(trainer)  # not in on_fit_end, which a Tuner skips

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._end(trainer)

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        """A fit begins, before a checkpoint is loaded: refuse what cannot work, claim, forget an earlier fit."""
        self._has_begun = True

    def resume_from(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        """The fit continues where this checkpoint was saved."""

    def end_fit(self, trainer: Trainer) -> None:
        """This callback's fit is over, or has failed: put back what it has changed."""

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint.setdefault(KEY, {})[self._name] = settings_of(self)
        if self.resumes_exactly:
            keep_epoch(trainer, checkpoint)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        run = run_of(trainer)
        if not run.serves(self):  # not a fit: a checkpoint is validated or tested
            return
        if self.resumes_exactly:
            run.saved_epoch = saved_epoch(checkpoint)
        saved = checkpoint.get(KEY, {}).get(self._name)  # none in checkpoints of before
        if saved is not None:
            self._compare(saved)
        self.resume_from(trainer, checkpoint)

    @property
    def _name(self) -> str:
        return type(self).__name__ + getattr(self, "suffix", "")

    def _end(self, trainer: Trainer) -> None:
        run = run_of(trainer)
        if run.serves(self):  # not a second Trainer, which validates with the same callbacks in the middle of a fit
            self.end_fit(trainer)
            run.release(self)

    def _settings_of_process(self, trainer: Trainer) -> dict[str, Any]:
        """What must be the same on all processes."""
        return settings_of(self, code=True)

    def _compare(self, saved: dict[str, Any]) -> None:
        name = type(self).__name__
        for argument, own in settings_of(self).items():
            if argument not in saved or saved[argument] == own or argument in self.may_change:
                continue
            text = f"{argument}={saved[argument]!r}, this run has {argument}={own!r}"
            if argument in self.decides_training:
                raise ValueError(
                    f"the checkpoint was trained with {name}'s {text}: the run would continue differently; resume "
                    f"with {argument}={saved[argument]!r}, or begin a new run from the weights alone, with "
                    "load_state_dict and no ckpt_path"
                )
            rank_zero_warn(f"the checkpoint was saved with {name}'s {text}; what it logs is not comparable")


def _first(trainer: Trainer) -> Callback | None:
    """The first of this package's callbacks in the list, which does what is done once for all."""
    return next((other for other in callbacks_of(trainer) if isinstance(other, GapCallback)), None)


def _lay_out(trainer: Trainer) -> None:
    """Give TensorBoard its charts, before the first value."""
    if trainer.is_global_zero:
        ours = [key for other in callbacks_of(trainer) if isinstance(other, GapCallback) for key in other.keys]
        lightnings = ["lr-"] * any(is_lightnings(other, "LearningRateMonitor") for other in callbacks_of(trainer))
        write_layout(trainer.loggers, [*ours, *lightnings])
