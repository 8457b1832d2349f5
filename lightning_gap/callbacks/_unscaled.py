"""Find updates of the weights that a factor on the learning rate did not reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from ..trainer.optimizers import loss_scale, weights_of
from ..trainer.progress import ends_accumulation
from ._hyperparameter_factors import HyperparameterFactors

LARGEST = 1_000_000  # numbers of a weight that are looked at
MODULE = "the module itself"


@dataclass
class _Unproven:
    """An optimizer of which no scaled step was seen, None for what the module steps by hand, and its weights."""

    optimizer: Any
    weights: list[Tensor]
    before: list[tuple[int, float]]


class UnscaledUpdates:
    """Compares weights before and after a batch until each optimizer of the Trainer is known to step with the factor.

    Torch calls its hooks in the `step` of an `Optimizer`. They miss a wrapper that is none and makes the update itself,
    a `step` that replaces the class's, and weights that the module moves by hand. Once each optimizer has stepped with
    the factor, this costs two comparisons a batch.

    Weights also change where nothing is wrong: another optimizer that shares them has stepped, or the module clamps or
    initialises them. It is certain only in automatic optimization, where Lightning has counted a step and no hook was
    called. Elsewhere an optimizer whose `step` is known to call the hooks is believed once something has stepped.
    """

    def __init__(self, factors: HyperparameterFactors) -> None:
        self._factors, self._record = factors, factors.record
        self._unproven: list[_Unproven] = []
        self._optimizers: object = None  # the Trainer's list of them, which hooks of the user's may replace
        self._proven = False  # the factor is known to reach them all
        self._doubted = False
        self._began = (0, 0, 1.0)  # before the batch: steps by Lightning's count and by ours, and the loss scale
        self._told: set[str] = set()
        self._told_unsure = False

    def before_batch(self, trainer: Trainer) -> None:
        """Note what the weights of unproven optimizers are; called once or several times."""
        factors, record = self._factors, self._record
        record.stepped.clear()
        if self._proven and self._optimizers is trainer.optimizers:
            return
        if self._optimizers is not trainer.optimizers:
            self._optimizers = trainer.optimizers
            record.forget_others(trainer.optimizers)
        unproven = self._not_reached(trainer)
        self._proven = not unproven
        if unproven and factors.changes_rates:
            self._unproven = [_Unproven(optimizer, weights, _state(weights)) for optimizer, weights in unproven]
            self._began = trainer.global_step, factors.steps, loss_scale(trainer)

    def after_batch(self, trainer: Trainer) -> None:
        """Say it once if weights have changed without the factor: an error at the first step, a warning later.

        Called once or several times.
        """
        reached = bool(self._record.stepped)
        if reached:
            self._doubted = False
        elif trainer.lightning_module.automatic_optimization and ends_accumulation(trainer):
            self._doubted, self._proven = True, False  # a gradient scaler skipped the step, or there are no hooks
        if not self._unproven:
            return
        unproven, self._unproven = self._unproven, []
        step, steps, scale = self._began
        stepped, automatic = trainer.global_step > step, trainer.lightning_module.automatic_optimization
        if loss_scale(trainer) < scale or (automatic and not stepped):
            return
        certain = automatic and len(trainer.optimizers) == 1 and not reached
        for entry in unproven:
            if reached and entry.optimizer is not None and self._record.reaches(entry.optimizer):
                continue
            if certain and entry.optimizer is not None:
                if self._is_changed(entry):
                    self._say(entry.optimizer, at_first_step=steps == 0)
            elif not self._told_unsure and not self._is_innocent(entry.optimizer) and self._is_changed(entry):
                self._say_that_it_may_be(entry.optimizer)

    def _is_changed(self, entry: _Unproven) -> bool:
        """Whether some weight was changed, those that a scaled step has updated in this batch left out."""
        after = _state(entry.weights)
        stepped = weights_of(*self._record.stepped)
        return any(
            before != now and id(weight) not in stepped
            for weight, before, now in zip(entry.weights, entry.before, after, strict=True)
        )

    def _is_innocent(self, optimizer: Any) -> bool:
        """Whether what has changed the weights was not this optimizer, in a run that does step by optimizers."""
        return self._factors.steps > 0 and optimizer is not None and _calls_hooks(optimizer)

    def _not_reached(self, trainer: Trainer) -> list[tuple[Any, list[Tensor]]]:
        weights = {id(w): w for w in trainer.lightning_module.parameters() if w.requires_grad and not is_lazy(w)}
        held = [
            (optimizer, [weight for key, weight in weights_of(optimizer).items() if key in weights])
            for optimizer in trainer.optimizers  # a stand-in without weights where the module configures none
        ]
        if not any(own for _, own in held):
            return [] if self._told_unsure or self._factors.steps else [(None, list(weights.values()))]
        if self._told_unsure and not trainer.lightning_module.automatic_optimization:
            return []
        return [
            (optimizer, own)
            for optimizer, own in held
            if own
            and type(optimizer).__name__ not in self._told
            and (self._doubted or not self._record.reaches(optimizer))
        ]

    def _say(self, optimizer: Any, *, at_first_step: bool) -> None:
        owners, name = " and ".join(self._factors.owners), type(optimizer).__name__
        self._record.forget(optimizer)
        self._told.add(name)
        self._factors.say(
            f"{owners} did not reach an update: the weights were changed by {name} without the factor on the learning "
            f"rate, because its step does not call the hooks of torch.optim.Optimizer; {_ADVICE} {owners} and multiply "
            "the learning rate by lightning_gap.functional.learning_rate_scale yourself",
            at_first_step=at_first_step,
        )

    def _say_that_it_may_be(self, optimizer: Any) -> None:
        self._told_unsure = True
        owners = " and ".join(self._factors.owners)
        whose = MODULE if optimizer is None else type(optimizer).__name__
        self._factors.say(
            f"weights changed without a scaled step: {owners} may not have reached an update of those of {whose}. "
            "If the module has clamped, initialised or averaged them, all is well. If this was an update, its learning "
            f"rate had no factor; {_ADVICE} {owners}",
            at_first_step=False,
        )


_ADVICE = "use an optimizer that is a torch.optim.Optimizer and leave its step as it is, or remove"


def _calls_hooks(optimizer: Any) -> bool:
    """Whether the step is the class's own, which torch has wrapped to call its hooks, or a scheduler's count of it."""
    own = vars(optimizer).get("step")
    as_made = own is None or hasattr(own, "_wrapped_by_lr_sched")
    return isinstance(optimizer, Optimizer) and as_made and bool(getattr(type(optimizer).step, "hooked", False))


def _state(weights: list[Tensor]) -> list[tuple[int, float]]:
    """What tells whether each weight was changed: in place, or behind the back of autograd by `.data`."""
    sums = []
    for weight in weights:
        local = weight.detach()
        local = local.to_local() if hasattr(local, "to_local") else local  # a part of it, where weights are sharded
        local = torch.view_as_real(local) if local.is_complex() else local
        sums.append(local.flatten()[:LARGEST].double().sum())
    values = torch.stack([s.cpu() for s in sums]).tolist() if sums else []
    return [(weight._version, value) for weight, value in zip(weights, values, strict=True)]
