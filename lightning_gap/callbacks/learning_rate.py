"""Scale the learning rate with the batch size, and warm up to it."""

from __future__ import annotations

from typing import Any, Literal, get_args

from lightning.pytorch import LightningModule, Trainer

from ..functional._validation import flag, one_of, real_number
from ..functional.learning_rate import Rule, Warmup, checked_rule, learning_rate_scale, ramp
from ..trainer.logs import log_step
from ..trainer.progress import optimizer_steps_per_epoch, optimizer_steps_planned_before, optimizer_steps_taken
from ._arguments import optional_whole_number
from ._batch_following import SCALE_RATES, BatchFollowingCallback
from ._learning_rate_checks import check_optimizer, check_warmup
from ._run import run_of

WhenBatchChanges = Literal["rescale", "keep", "replace_decay"]


class LearningRateScaling(BatchFollowingCallback):
    """Multiply the learning rate by what the batch size calls for, whatever the optimizer and scheduler.

    The factor is applied around each update of the module's weights and taken back right after it, so schedulers and
    checkpoints hold your own unscaled schedule, and a resumed run needs no bookkeeping. It reaches every
    `torch.optim.Optimizer` that steps parameters of the module: those of the Trainer, those that replace them, those
    that the module steps by hand, and what a wrapper steps. An update that it does not reach is an error at the first
    step, or a warning where it comes later. A factor above 1 is approached by warmup: it starts at 1 and grows by the
    same amount every step.

    The batch size is `accumulate_grad_batches` x the micro-batches of all processes, found anew at every step. Logs
    ``lr/effective`` (the learning rate of the last update of the first parameter group; others as ``lr/effective_1``,
    ...; none of a group that had no update with the factor), ``lr/scale`` and ``batch/effective``.

    Args:
        base_batch_size: Samples per optimizer step for which your learning rate was chosen. Goyal et al. use 256.
        rule: ``"linear"`` (Goyal et al.), ``"sqrt"`` (Hoffer et al.), ``"none"`` for warmup alone, or a function of
            (batch_size, base_batch_size) that returns the factor.
        warmup_epochs: Length of the warmup in epochs, 0 for none. Goyal et al. use 5.
        warmup_steps: The same in optimizer steps (batches in manual optimization), instead of ``warmup_epochs``.
        warmup: ``"gradual"``, or ``"constant"``: the first factor until the warmup ends.
        warmup_start: Factor at the beginning, a fraction of your unscaled learning rate. Goyal et al. start from the
            learning rate itself, 1.
        when_batch_changes: What happens if the batch size changes inside the run. ``"rescale"``: the rule is applied
            to the size at each step. ``"keep"``: to the size at the beginning of the run. ``"replace_decay"`` (Smith
            et al.): the latter times the growth since, so that growth undoes the decay that your scheduler makes
            at the same time, and what the batch can no longer grow the learning rate decays.
        momentum_correction: Rescale the momentum buffer by new / old learning rate at each change. Only for
            optimizers whose buffer has absorbed the learning rate (Goyal et al., section 3, equation 10); torch's SGD
            keeps it out and needs none.
        micro_batch_size: Samples per batch and process, for loaders that have no `batch_size` to read.

    Raises:
        ValueError: If an argument is out of range. At train start, if the batch size or the length of an epoch
            cannot be found, ``micro_batch_size`` is not what a loader with torch's own collate function states (a
            warning with another), an optimizer has no learning rate,
            or no momentum where its correction is asked for, the Trainer has a second scaling, the checkpoint was
            trained with other arguments, or the processes have different ones. At the first step, if weights were
            updated without the factor, or an optimizer sets its own learning rate inside `step`.

    Reference:
        Goyal et al. (2017), sections 2.1, 2.2 and 3; Hoffer, Hubara and Soudry (2017), section 3; Smith et al. (2018).
    """

    decides_training = (
        *("base_batch_size", "rule", "warmup_epochs", "warmup_steps", "warmup", "warmup_start"),
        *("when_batch_changes", "momentum_correction"),
    )
    may_change = ("micro_batch_size",)
    resumes_exactly = True

    def __init__(
        self,
        base_batch_size: int = 256,
        *,
        rule: Rule = "linear",
        warmup_epochs: float = 5,
        warmup_steps: int | None = None,
        warmup: Warmup = "gradual",
        warmup_start: float = 1.0,
        when_batch_changes: WhenBatchChanges = "rescale",
        momentum_correction: bool = False,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(base_batch_size=base_batch_size, micro_batch_size=micro_batch_size)
        none = "0 means no warmup"
        self.rule: Rule = checked_rule(rule)
        epochs = real_number("warmup_epochs", warmup_epochs, at_least=0, hint=none)
        self.warmup_epochs = int(epochs) if epochs.is_integer() else epochs  # messages say 5, not 5.0
        self.warmup_steps = optional_whole_number("warmup_steps", warmup_steps, 0, hint=none)
        self.warmup: Warmup = one_of("warmup", warmup, get_args(Warmup))
        self.warmup_start = real_number(
            "warmup_start", warmup_start, at_least=0, at_most=1, hint="it is a fraction of your learning rate"
        )
        self.when_batch_changes: WhenBatchChanges = one_of(
            "when_batch_changes", when_batch_changes, get_args(WhenBatchChanges)
        )
        self.momentum_correction = flag("momentum_correction", momentum_correction)
        self._first_batch_size: int | None = None
        self._rates_before: list[list[float]] = []  # of each optimizer, as a checkpoint had them
        self._scale = 0, 1.0  # the batch size and what the rule gives for it

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this callback logs."""
        return ("lr/effective", "lr/scale", "batch/size", "batch/effective")

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        run_of(trainer).claim(trainer, self, SCALE_RATES)
        if self.when_batch_changes != "keep":
            self.claim_rescaling(trainer)
        self._scale = 0, 1.0
        if trainer.global_step == 0:  # not a second fit of one Trainer
            self._first_batch_size, self._rates_before = None, []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self._warms_up(self._scales(trainer)[0]):
            check_warmup(trainer, epochs=self.warmup_epochs, steps=self.warmup_steps)
        for optimizer in trainer.optimizers:
            check_optimizer(optimizer, momentum_correction=self.momentum_correction)
        factors = run_of(trainer).factors_of(trainer)
        factors.corrects_momentum = self.momentum_correction
        for optimizer, used in zip(trainer.optimizers, self._rates_before, strict=False):
            factors.record.remember(optimizer, used)
        self.multiply(trainer, certain=self._changes_rates)

    def begin_batches(self, trainer: Trainer) -> None:
        if self._first_batch_size is None:
            self._first_batch_size = self.batch_size(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        log_step(trainer, pl_module, lambda: self._values(trainer))

    def end_fit(self, trainer: Trainer) -> None:
        self._remember_rates(trainer)
        super().end_fit(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # What step and epoch do not tell. No `state_dict`: with one Lightning refuses a second scaling less clearly.
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        self._remember_rates(trainer)
        checkpoint["LearningRateScaling"] = {"first_batch_size": self._first_batch_size, "rates": self._rates_before}

    def resume_from(self, trainer: Trainer, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("LearningRateScaling", {})
        self._first_batch_size = saved.get("first_batch_size")
        self._rates_before = saved.get("rates", [])

    def factor(self, trainer: Trainer) -> float:
        scale, growth = self._scales(trainer)
        if self._warms_up(scale):
            step, length = self._progress(trainer)
            scale = ramp(self.warmup, step, length, scale, self.warmup_start)
        return scale * growth

    def _values(self, trainer: Trainer) -> dict[str, float]:
        """What is logged of a step; nothing before an update had the factor."""
        rates = self.effective_rates(trainer)
        if not rates:
            return {}
        size = float(self.batch_size(trainer))
        return rates | {"lr/scale": self._factor, "batch/size": size, "batch/effective": size}  # the last until 0.2

    def _scales(self, trainer: Trainer) -> tuple[float, float]:
        """The factor to warm up to, and the factor by which a grown batch replaces decay."""
        size = self.batch_size(trainer)
        first = self._first_batch_size or size
        followed = size if self.when_batch_changes == "rescale" else first
        growth = size / first if self.when_batch_changes == "replace_decay" else 1.0
        if followed != self._scale[0]:
            self._scale = followed, learning_rate_scale(followed, self.base_batch_size, rule=self.rule)
        return self._scale[1], growth

    @property
    def _changes_rates(self) -> bool:
        return self.rule != "none" or self._warmup_length > 0 or self.when_batch_changes == "replace_decay"

    @property
    def _warmup_length(self) -> float:
        """In epochs or steps."""
        return self.warmup_epochs if self.warmup_steps is None else self.warmup_steps

    def _warms_up(self, scale: float) -> bool:
        return scale > self.warmup_start and self._warmup_length > 0

    def _progress(self, trainer: Trainer) -> tuple[int, float]:
        """Steps taken and steps of the warmup. In epochs: of this epoch's length, which a new batch size changes."""
        if self.warmup_steps is not None:
            return optimizer_steps_taken(trainer), self.warmup_steps
        per_epoch = optimizer_steps_per_epoch(trainer) or 0
        return optimizer_steps_planned_before(trainer, per_epoch), self.warmup_epochs * per_epoch

    def _remember_rates(self, trainer: Trainer) -> None:
        factors = run_of(trainer).factors
        if factors is not None:  # a checkpoint may be saved after the fit
            self._rates_before = [factors.record.used(optimizer) for optimizer in trainer.optimizers]
