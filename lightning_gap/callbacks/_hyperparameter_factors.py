"""Change hyperparameters around each optimizer step, so that schedulers and checkpoints never see it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lightning.pytorch import Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ..trainer.optimizers import groups_of, weights_of
from ._learning_rate_checks import no_rate
from ._update_record import UpdateRecord

NewValues = Callable[[Optimizer, Mapping[str, Any]], Mapping[str, Any]]  # of a group, from the user's own values in it


class _Scaled(NamedTuple):
    """A hyperparameter of a group that a step has scaled."""

    group: dict[str, Any]
    name: str
    before: Any
    scaled: Any


@dataclass
class _Step:
    """An optimizer step that is under way, the factor on its learning rates, and what it has scaled."""

    optimizer: Optimizer
    factor: float
    scaled: list[_Scaled] = field(default_factory=list)


class HyperparameterFactors:
    """Hyperparameters of one fit, changed before each update of the module's weights and put back after it.

    The learning rate is multiplied. What no factor changes, like betas, is computed anew from the user's own.

    By torch's hooks, not Lightning's: a scheduler steps right after the optimizer and must find the unscaled value. So
    must the closure, in which Lightning runs `training_step`. Torch calls these hooks for every optimizer: they reach
    an optimizer that replaces another, one that the module steps by hand, and one that a wrapper steps. Callbacks that
    multiply share one pair of hooks, since two pairs would put values back in the wrong order.

    The factors apply to the optimizers of the Trainer, to those that hold a parameter of its module, and to those that
    share a parameter group with one of the first. A wrapper's step and the step inside it scale a value once.

    Attributes:
        corrects_momentum: Whether momentum buffers follow the learning rate.
        learning_rate_factor: The factor on the learning rate in the last step.
        steps: Steps that are over, those inside a wrapper's not counted.
        record: What the updates had.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.corrects_momentum = False
        self.learning_rate_factor = 1.0
        self.steps = 0
        self.record = UpdateRecord()
        self._trainer = trainer
        self._owners: dict[object, tuple[Callable[[], float], bool]] = {}
        self._new_values: dict[object, NewValues] = {}
        self._steps: list[_Step] = []  # under way, the outermost first
        self._told: set[str] = set()
        self._handles = [register_optimizer_step_pre_hook(self._before), register_optimizer_step_post_hook(self._after)]

    @property
    def owners(self) -> list[str]:
        """The callbacks that multiply."""
        return [type(owner).__name__ for owner in self._owners]

    @property
    def changes_rates(self) -> bool:
        """Whether some factor is known not to be 1 throughout."""
        return any(certain for _, certain in self._owners.values())

    def multiply(
        self,
        owner: object,
        factor: Callable[[], float],
        *,
        certain: bool = True,
        new_values: NewValues | None = None,
    ) -> None:
        """Multiply the learning rates by what ``factor`` says at each step, until ``owner`` stops.

        ``certain`` tells that the factor is not 1 throughout, so that an update without it is wrong. ``new_values``
        gives other hyperparameters by name; it is asked for each group after ``factor``.
        """
        self._owners[owner] = factor, certain
        if new_values is not None:
            self._new_values[owner] = new_values

    def stop(self, owner: object) -> bool:
        """Multiply no longer for this owner, and put back what a step that raised has left; whether others do."""
        self._owners.pop(owner, None)
        self._new_values.pop(owner, None)
        if not self._owners:
            self._told.clear()
            while self._steps:
                self._put_back(self._steps.pop())
            for handle in self._handles:
                handle.remove()
        return bool(self._owners)

    def say(self, text: str, *, at_first_step: bool) -> None:
        """Raise at the first step; later, when a long run is not to end, warn once."""
        if at_first_step:
            raise ValueError(text)
        if text not in self._told:
            self._told.add(text)
            rank_zero_warn(text)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if not self._is_ours(optimizer):
            return None
        self.learning_rate_factor = math.prod([factor() for factor, _ in self._owners.values()])
        step = _Step(optimizer, self.learning_rate_factor)
        self._steps.append(step)
        self._scale(step)
        named = "closure" in kwargs
        closure = kwargs["closure"] if named else next(iter(args[1:]), None)
        if not callable(closure):
            self._note(step)
            return None

        def unscaled_closure() -> Any:
            self._unscale(step)
            result = closure()
            self._scale(step)
            self._note(step)
            return result

        if named:
            return args, {**kwargs, "closure": unscaled_closure}
        return (args[0], unscaled_closure, *args[2:]), kwargs

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        while optimizer in [step.optimizer for step in self._steps]:
            step = self._steps.pop()  # a step inside that raised, and was caught, is still there
            self._unscale(step)
            if step.optimizer is optimizer:
                break
        self.steps += not self._steps

    def _is_ours(self, optimizer: Optimizer) -> bool:
        if optimizer in self._trainer.optimizers:
            return True
        weights = {id(weight) for weight in self._trainer.lightning_module.parameters()}
        groups = {id(group) for own in self._trainer.optimizers for group in groups_of(own)}
        return bool(weights & weights_of(optimizer).keys() or groups & {*map(id, optimizer.param_groups)})

    def _scale(self, step: _Step) -> None:
        around = [scaled for other in self._steps if other is not step for scaled in other.scaled]
        for group in step.optimizer.param_groups:
            rate = group.get("lr")
            if rate is None:
                if self.changes_rates:
                    self.say(no_rate(step.optimizer, self.owners[0]), at_first_step=self.steps == 0)
            elif not around or _scaled_around(group, "lr", rate, around) is None:
                # a new object: learning rates held as tensors are shared
                _set(step, group, "lr", rate * step.factor)
            for new_values in self._new_values.values():
                own = _own_values(group, around) if around else group
                for name, value in new_values(step.optimizer, own).items():
                    if own[name] is group[name]:  # not scaled already by a step around this one
                        _set(step, group, name, value)

    def _note(self, step: _Step) -> None:
        around = [other.optimizer for other in self._steps if other is not step]
        self.record.note(step.optimizer, around, correct_momentum=self.corrects_momentum)
        for entry in step.scaled:
            if entry.name != "lr":
                self.record.note_value(entry.group, entry.name, entry.scaled)

    def _put_back(self, step: _Step) -> bool:
        """Put the unscaled values back; whether they still were those that the step was given."""
        entries, step.scaled = step.scaled, []
        kept = True
        for group, name, before, scaled in entries:
            now = group[name]
            if now is scaled or bool(now == scaled):
                group[name] = before
            elif isinstance(before, tuple | list):  # betas, which no factor leads back from
                group[name], kept = before, False
            else:  # the optimizer's own doing, beginning with the value that it found
                group[name], kept = now * (before / scaled) if scaled else now, False
        return kept

    def _unscale(self, step: _Step) -> None:
        if not self._put_back(step):
            name = type(step.optimizer).__name__
            or_others = " or another hyperparameter" if self._new_values else ""
            self.say(
                f"{name} sets its own learning rate{or_others} inside step, so that {self.owners[0]} cannot tell which "
                f"one an update had; remove {self.owners[0]}, or set it outside of the step, as schedulers do",
                at_first_step=self.steps == 0,
            )


def _set(step: _Step, group: dict[str, Any], name: str, value: Any) -> None:
    step.scaled.append(_Scaled(group, name, group[name], value))
    group[name] = value


def _scaled_around(group: dict[str, Any], name: str, value: Any, around: list[_Scaled]) -> _Scaled | None:
    """How a step around this one has scaled this value, or the one that it is a copy of; None if it has not."""
    for other in around:
        if name != other.name:
            continue
        if group is other.group:
            return other
        same = other.scaled != other.before and value == other.scaled
        if same and {*map(id, group["params"])} & {*map(id, other.group["params"])}:
            return other
    return None


def _own_values(group: dict[str, Any], around: list[_Scaled]) -> dict[str, Any]:
    """The user's own values in a group, where steps around this one may have scaled them."""
    scaled = {name: _scaled_around(group, name, value, around) for name, value in group.items() if name != "params"}
    return {**group, **{name: entry.before for name, entry in scaled.items() if entry is not None}}
