"""Let all hyperparameters of the optimizer follow the batch size: learning rate, betas, epsilon, weight decay, EMA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch.optim import Adadelta, Adagrad, Adamax, Optimizer

from ..functional._validation import flag
from ..functional.optimizer_scaling import (
    OptimizerRule,
    checked_noise_scale,
    checked_rules,
    learning_rate_factor,
    scaled_ema_decay,
    scaled_hyperparameters,
    sets_learning_rate,
)
from ..trainer.callbacks import accumulation_scheduled
from ..trainer.logs import log_step
from ..trainer.optimizers import groups_of
from ._batch_following import SCALE_RATES, BatchFollowingCallback, keyed
from ._ema_decay import FollowingDecay, follow_decays
from ._run import global_batch_size, run_of

COUPLED = (Adadelta, Adagrad, Adamax)  # weight decay is part of the adaptive gradient, and no hyperparameter says so

READ = ("alpha", "eps", "weight_decay", "decoupled_weight_decay", "weight_decouple")  # beside betas, by the rules
PLAIN = frozenset({float, int, bool, type(None)})  # types of values that stay as they are
MANY = 64  # new values that are kept, where a scheduler sets others at each step


class OptimizerScaling(BatchFollowingCallback):
    """Change the hyperparameters of every optimizer by what the batch size calls for, whatever the scheduler.

    `lightning_gap.functional.scaled_hyperparameters` says what each rule makes of a parameter group. The values are
    changed around each update and put back right after it, as in `LearningRateScaling`: schedulers (those of betas too)
    and checkpoints hold your own, chosen for ``base_batch_size``, and a resumed run needs no bookkeeping. The batch
    size is found anew at every step. Only what the rule names changes. There is no warmup: put one in your scheduler,
    for instance `torch.optim.lr_scheduler.LinearLR` in a `SequentialLR`, which the rule then multiplies.

    The decay of Lightning's `EMAWeightAveraging` becomes ``decay ** k`` at each update after a step, with k the last
    step's batch size / ``base_batch_size``.

    Logs ``lr/effective``, ``lr/scale``, and of each parameter group what else the rule changes: ``optimizer/beta1``,
    ``optimizer/beta2``, ``optimizer/alpha``, ``optimizer/eps``, ``optimizer/weight_decay`` (the second group's as
    ``optimizer/beta1_1``), ``optimizer/ema_decay``, and ``batch/size``.

    Args:
        base_batch_size: Samples per optimizer step for which your hyperparameters were chosen.
        rule: ``"linear"`` or ``"sqrt"`` for SGD, ``"adaptive_sqrt"`` for Adam and RMSprop (Malladi et al.),
            ``"surge"`` (Li et al.), ``"half_life"`` (Marek et al.) for beta2, ``"timescale"`` (Wang and Aitchison) for
            AdamW's weight decay; or several that set different hyperparameters: ``("sqrt", "half_life", "timescale")``.
        noise_scale: Batch size at which the best learning rate peaks, in samples; for ``"surge"`` alone, which needs
            it fitted.
        scale_ema_decay: Whether the decay of Lightning's `EMAWeightAveraging` follows too (Busbridge et al.).
        micro_batch_size: Samples per batch and process, for loaders that have no `batch_size` to read.

    Raises:
        ValueError: If an argument is out of range. Before the first step, if an optimizer lacks what the rule needs, a
            beta is out of range or would reach 0 at a batch size that is to come, weight decay has no timescale to
            keep, an average of the weights has no decay to read or one of 1, the batch size cannot be found, another
            callback changes the learning rate with the batch size, or the checkpoint was trained with other arguments.

    Reference:
        Goyal et al. (2017); Hoffer, Hubara and Soudry (2017); Malladi, Lyu, Panigrahi and Arora (2022); Li et al.
        (2024); Marek et al. (2025); Wang and Aitchison (2025); Busbridge et al. (2023).
    """

    decides_training = ("base_batch_size", "rule", "noise_scale", "scale_ema_decay")
    may_change = ("micro_batch_size",)
    resumes_exactly = True

    def __init__(
        self,
        base_batch_size: int,
        rule: OptimizerRule | Sequence[OptimizerRule],
        *,
        noise_scale: float | None = None,
        scale_ema_decay: bool = True,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(base_batch_size=base_batch_size, micro_batch_size=micro_batch_size)
        self.rule = checked_rules(rule)
        self.noise_scale = checked_noise_scale(noise_scale, self.rule)
        self.scale_ema_decay = flag("scale_ema_decay", scale_ema_decay)
        self._size = self.base_batch_size  # of the last step
        self._scale = 0, 1.0  # a batch size and the learning rate's factor for it
        self._known: dict[tuple[Any, ...], dict[str, Any]] = {}  # new values by what they are computed from
        self._decays: list[FollowingDecay] = []

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this callback logs with every optimizer; others depend on it."""
        return (*(("lr/effective", "lr/scale") if sets_learning_rate(self.rule) else ()), "batch/size")

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        fix = "give one of them both rules, rule=(..., ...)"
        run_of(trainer).claim(trainer, self, "scale hyperparameters with the batch size", fix=fix)
        if sets_learning_rate(self.rule) or "timescale" in self.rule:
            run_of(trainer).claim(trainer, self, SCALE_RATES)
            self.claim_rescaling(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        for optimizer in trainer.optimizers:
            self._check(optimizer, _sizes_to_come(trainer, self.batch_size(trainer)))
        if self.scale_ema_decay:
            self._decays = follow_decays(trainer, self._ema_decay)
        self.multiply(trainer, certain=True, new_values=self._new_values)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        log_step(trainer, pl_module, lambda: self._values(trainer))

    def end_fit(self, trainer: Trainer) -> None:
        while self._decays:
            self._decays.pop().put_back()
        super().end_fit(trainer)

    def factor(self, trainer: Trainer) -> float:
        self._size = self.batch_size(trainer)
        if self._size != self._scale[0]:
            base, scale = self.base_batch_size, self.noise_scale
            self._scale = self._size, learning_rate_factor(self._size, base, rules=self.rule, noise_scale=scale)
        return self._scale[1]

    def _new_values(self, optimizer: Optimizer, own: Mapping[str, Any]) -> dict[str, Any]:
        """All but the learning rate, which `factor` multiplies."""
        read = (*(own.get("betas") or ()), *map(own.get, READ))
        key = (self._size, type(optimizer), *read)
        is_plain = PLAIN.issuperset(map(type, read))  # a tensor may change in place
        if is_plain and key in self._known:
            return self._known[key]
        found = {name: value for name, value in self._scaled(optimizer, own, self._size).items() if name != "lr"}
        if is_plain:
            self._known = {**self._known, key: found} if len(self._known) < MANY else {key: found}
        return found

    def _scaled(
        self, optimizer: Optimizer, own: Mapping[str, Any], batch_size: int, group: int | None = None
    ) -> dict[str, Any]:
        if isinstance(optimizer, COUPLED):
            own = {**own, "decoupled_weight_decay": False}
        try:
            return scaled_hyperparameters(
                own, batch_size, self.base_batch_size, rule=self.rule, noise_scale=self.noise_scale
            )
        except ValueError as error:
            where = "" if group is None else f", parameter group {group}"
            raise ValueError(f"OptimizerScaling of {type(optimizer).__name__}{where}: {error}") from error

    def _ema_decay(self, decay: float) -> float:
        return scaled_ema_decay(decay, self._size, self.base_batch_size)

    def _check(self, optimizer: Any, sizes: Sequence[int]) -> None:
        """Raise if some parameter group cannot be scaled to one of these sizes."""
        name, groups = type(optimizer).__name__, groups_of(optimizer)
        for index, group in enumerate(groups):
            for values in (group, *_extremes(group)):
                for size in sizes:
                    self._scaled(optimizer, values, size, index)
        if "timescale" in self.rule and groups and not any(float(group["weight_decay"]) for group in groups):
            raise ValueError(
                f"OptimizerScaling of {name}: rule='timescale' keeps the timescale of weight decay, and it has "
                "weight_decay=0 in all parameter groups; give it one, or leave 'timescale' out"
            )

    def _values(self, trainer: Trainer) -> dict[str, float]:
        """What the last updates had, by the keys to log it under."""
        values: dict[str, float] = {}
        if sets_learning_rate(self.rule):
            values = self.effective_rates(trainer)
            values |= {"lr/scale": self._factor} if values else {}
        record, index = run_of(trainer).factors_of(trainer).record, 0
        for optimizer in trainer.optimizers:
            for used in record.used_values(optimizer):
                values |= {keyed(f"optimizer/{name}", index): value for name, value in self._named(used).items()}
                index += 1
        decays = self._decays if values else []  # a step has been taken
        values |= {keyed("optimizer/ema_decay", i): each.decay for i, each in enumerate(decays)}
        return values | {"batch/size": float(self._size)} if values else {}

    def _named(self, used: Mapping[str, Any]) -> dict[str, float]:
        """The values of a group that differ with the batch size."""
        named = {name: value for name, value in used.items() if name != "betas"}
        if "betas" in used:
            first = {} if "half_life" in self.rule else {"beta1": used["betas"][0]}
            named |= first | {"beta2": used["betas"][1]}
        return {name: float(value) for name, value in named.items() if float(value)}


def _sizes_to_come(trainer: Trainer, present: int) -> list[int]:
    """The batch sizes of this run, as far as they are known: the smallest and the largest."""
    run = run_of(trainer)
    planned = [global_batch_size(trainer, split) for split in run.planned]
    at_a_time = present // trainer.accumulate_grad_batches
    scheduled = [at_a_time * accumulate for accumulate in accumulation_scheduled(trainer)]
    known = [present, *planned, *scheduled, *([] if run.largest_batch_size is None else [run.largest_batch_size])]
    return [min(known), max(known)]


def _extremes(group: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A group with the smallest beta1 that torch's cyclic schedulers will write to it."""
    if group.get("base_momentum") is None or group.get("betas") is None:
        return []
    return [{**group, "betas": (group["base_momentum"], *group["betas"][1:])}]
