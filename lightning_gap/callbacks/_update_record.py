"""What the updates of one fit had for hyperparameters, and which weights they have reached."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim import Optimizer

from ..trainer.optimizers import groups_of, weights_of


@dataclass
class _Update:
    """The last update of an optimizer that had the factor.

    Attributes:
        rates: Its learning rates by parameter group.
        reaches: Whether the optimizer's weights are known to be reached.
    """

    rates: list[float]
    reaches: bool


class UpdateRecord:
    """The updates that had the factors, by optimizer, parameter group and weight.

    Attributes:
        stepped: The optimizers that have made them since the set was last cleared.
    """

    def __init__(self) -> None:
        self.stepped: set[Optimizer] = set()
        self._updates: WeakKeyDictionary[Optimizer, _Update] = WeakKeyDictionary()
        self._last: dict[int, tuple[Tensor, float]] = {}  # rates by the first weight of a group, over all optimizers
        self._values: dict[int, tuple[Tensor, dict[str, Any]]] = {}  # of other hyperparameters, likewise

    def note(self, optimizer: Optimizer, around: Sequence[Optimizer], *, correct_momentum: bool) -> None:
        """The learning rates of ``optimizer`` are those of the update that comes now.

        ``around`` are wrappers whose steps are under way, the outermost first. With ``correct_momentum`` its momentum
        buffer is brought to the new learning rate.
        """
        used = []
        for group in optimizer.param_groups:
            rate = math.nan if group.get("lr") is None else float(group["lr"])
            used.append(rate)
            if group["params"]:
                self._last[_key(group)] = group["params"][0], rate
        update = self._updates.get(optimizer)
        if update is None:
            update = self._updates[optimizer] = _Update([], True)
        previous, update.rates, update.reaches = update.rates, used, True
        self.stepped.add(optimizer)
        for outer in around:
            if outer in self._updates:  # the innermost step makes the update
                rates = self._updates[outer].rates
                for index, group in enumerate(outer.param_groups[: len(rates)]):
                    if _key(group) in self._last:
                        rates[index] = self._last[_key(group)][1]
        if not correct_momentum or len(previous) != len(used):
            return
        if not any(outer.state is optimizer.state for outer in around if outer is not optimizer):
            _correct_momentum(optimizer, previous, used)  # else the step around it has corrected it

    def note_value(self, group: dict[str, Any], name: str, value: Any) -> None:
        """Another hyperparameter of the update that comes now; one that a step around it has noted stays."""
        if group["params"]:
            self._values.setdefault(_key(group), (group["params"][0], {}))[1][name] = value

    def remember(self, optimizer: Optimizer, used: list[float]) -> None:
        """Take over the learning rates of the last step from a checkpoint."""
        if used:
            self._updates[optimizer] = _Update(used, False)

    def used(self, optimizer: Optimizer) -> list[float]:
        """The learning rates of the last update by parameter group, NaN for a group that had none; [] without one."""
        if optimizer in self._updates:
            return self._updates[optimizer].rates
        rates = [
            self._last[key][1] if (key := _key(group)) in self._last else math.nan for group in groups_of(optimizer)
        ]
        return rates if any(math.isfinite(rate) for rate in rates) else []

    def used_values(self, optimizer: Optimizer) -> list[dict[str, Any]]:
        """What other hyperparameters were in the last update, by name for each parameter group; learning rates not."""
        return [self._values.get(_key(group), (None, {}))[1] for group in groups_of(optimizer)]

    def used_by_others(self, held: Sequence[Optimizer]) -> list[float]:
        """The learning rates of the last updates by optimizers that the Trainer does not hold, nor wraps."""
        known = {_key(group) for optimizer in held for group in groups_of(optimizer)}
        return [
            rate
            for optimizer, update in self._updates.items()
            if not any(optimizer is own for own in held)
            for group, rate in zip(groups_of(optimizer), update.rates, strict=False)
            if _key(group) not in known
        ]

    def reaches(self, optimizer: Optimizer) -> bool:
        """Whether it has stepped with the factor, or others, like those that it wraps, have stepped all its weights."""
        own = weights_of(optimizer).keys()
        known = [other for other, update in self._updates.items() if update.reaches]
        return optimizer in self._updates or (bool(own) and own <= weights_of(*known).keys())

    def forget(self, optimizer: Optimizer) -> None:
        """Its last update had no scaled learning rate."""
        self._updates.pop(optimizer, None)
        for update in self._updates.values():
            update.reaches = False  # others may step the same weights
        for group in groups_of(optimizer):
            self._last.pop(_key(group), None)
            self._values.pop(_key(group), None)

    def forget_others(self, optimizers: list[Optimizer]) -> None:
        """These are the Trainer's from now on: updates of the same weights by others are not theirs."""
        for optimizer in optimizers:
            if optimizer not in self._updates:
                self.forget(optimizer)


def _correct_momentum(optimizer: Optimizer, previous: list[float], used: list[float]) -> None:
    """Rescale a momentum buffer that holds the old learning rate to the new one: Goyal et al. (2017), equation 10."""
    if type(optimizer).__module__.startswith("torch.optim"):
        return  # came later: at train start they are refused, since their buffer does not hold the learning rate
    for group, old, new in zip(optimizer.param_groups, previous, used, strict=True):
        if old in (0.0, new) or not math.isfinite(new / old):
            continue
        for parameter in group["params"]:
            history = optimizer.state[parameter].get("momentum_buffer") if parameter in optimizer.state else None
            if isinstance(history, Tensor):
                history.mul_(new / old)


def _key(group: dict[str, Any]) -> int:
    """What tells a group from others, also where a wrapper holds the same weights in a group of its own."""
    return id(group["params"][0]) if group["params"] else -1
