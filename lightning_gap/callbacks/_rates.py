"""Multiply the learning rate around each optimizer step, so that schedulers and checkpoints never see it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from lightning.pytorch import Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


@dataclass
class _Step:
    """An optimizer step that is under way, and the groups whose learning rate it has scaled: unscaled and scaled."""

    optimizer: Optimizer
    factor: float
    groups: list[tuple[dict[str, Any], Any, Any]] = field(default_factory=list)


class ScaledRates:
    """The learning rates of one fit, multiplied before each update of the module's weights and put back after it.

    Torch's own hooks, not Lightning's: a scheduler steps right after the optimizer and must find the unscaled rate. So
    must the closure, in which Lightning runs `training_step`, and whoever sets the learning rate there. The hooks are
    those that torch calls for every optimizer: one that a hook of the user's puts in the place of another, one that
    the module steps by hand, and one that a wrapper steps are reached too. Callbacks that multiply share one pair of
    hooks, since the hooks of two would put the learning rates back in the wrong order.

    Scaled are the optimizers of the Trainer, those that hold a parameter of its module, and those that share a
    parameter group with one of the first. A wrapper's step and the step inside it scale a learning rate once.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.corrects_momentum = False
        self.factor = 1.0  # in the last step
        self.updates = 0  # that had the factor
        self.steps = 0  # that are over, those inside a wrapper's not counted
        self._trainer = trainer
        self._factors: dict[object, tuple[Callable[[], float], bool]] = {}
        self._steps: list[_Step] = []  # under way, the outermost first
        self._used: WeakKeyDictionary[Optimizer, list[float]] = WeakKeyDictionary()  # by group, in the last step
        self._last: dict[int, tuple[Tensor, float]] = {}  # the same by the first weight of a group, whoever stepped
        self._reached: dict[int, Tensor] = {}  # weights that a scaled step has updated, by id
        self._entered: WeakSet[Optimizer] = WeakSet()  # whose weights are among them
        self.stepped: list[Optimizer] = []  # with the factor, since the list was last cleared
        self._ours: WeakKeyDictionary[Optimizer, tuple[int, bool]] = WeakKeyDictionary()
        self._latest: Optimizer | None = None  # of ours; most runs have one
        self._told: set[str] = set()
        self._handles = [
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        ]

    @property
    def owners(self) -> list[str]:
        """The callbacks that multiply."""
        return [type(owner).__name__ for owner in self._factors]

    def multiplies_for(self, owner: object) -> bool:
        """Whether this is one of them."""
        return owner in self._factors

    @property
    def first_owner(self) -> object:
        """The one of them that speaks for all."""
        return next(iter(self._factors), None)

    @property
    def changes_rates(self) -> bool:
        """Whether some factor is known not to be 1 throughout."""
        return any(certain for _, certain in self._factors.values())

    def multiply(self, owner: object, factor: Callable[[], float], *, certain: bool = True) -> None:
        """Multiply every learning rate by what ``factor`` says at each step, until ``owner`` stops.

        ``certain`` tells that the factor is not 1 throughout, so that an update without it is wrong.
        """
        self._factors[owner] = factor, certain

    def stop(self, owner: object) -> bool:
        """Multiply no longer for this owner; learning rates that a step which raised has left scaled are put back.

        Returns:
            Whether others still multiply.
        """
        self._factors.pop(owner, None)
        if not self._factors:
            self._told.clear()
            while self._steps:
                self._put_back(self._steps.pop())
            for handle in self._handles:
                handle.remove()
        return bool(self._factors)

    def remember(self, optimizer: Optimizer, used: list[float]) -> None:
        """Take over the learning rates of the last step from a checkpoint."""
        if used:
            self._used[optimizer] = used

    def used(self, optimizer: Optimizer) -> list[float]:
        """The learning rates of the last update by parameter group, NaN for a group that had none; [] without one."""
        if optimizer in self._used:
            return self._used[optimizer]
        rates = [self._last[key][1] if (key := _key(group)) in self._last else math.nan for group in _groups(optimizer)]
        return rates if any(math.isfinite(rate) for rate in rates) else []

    def used_by_others(self) -> list[float]:
        """The learning rates of the last updates by optimizers that the Trainer does not hold, nor wraps."""
        known = {_key(group) for optimizer in self._trainer.optimizers for group in _groups(optimizer)}
        return [
            rate
            for optimizer, rates in self._used.items()
            if not any(optimizer is own for own in self._trainer.optimizers)
            for group, rate in zip(_groups(optimizer), rates, strict=False)
            if _key(group) not in known
        ]

    def reaches(self, optimizer: Optimizer) -> bool:
        """Whether it has stepped with the factor, or others, like those that it wraps, have stepped all its weights."""
        weights = [weight for group in _groups(optimizer) for weight in group["params"]]
        return optimizer in self._used or (bool(weights) and all(id(weight) in self._reached for weight in weights))

    def forget(self, optimizer: Optimizer) -> None:
        """Its last update had no scaled learning rate."""
        self._used.pop(optimizer, None)
        self._entered.clear()  # others may step the same weights
        for group in _groups(optimizer):
            self._last.pop(_key(group), None)
            for weight in group["params"]:
                self._reached.pop(id(weight), None)

    def forget_others(self, optimizers: list[Optimizer]) -> None:
        """These are the Trainer's from now on: what others did to the same weights is not theirs."""
        for optimizer in optimizers:
            if optimizer not in self._used:
                self.forget(optimizer)

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
        self.factor = math.prod(factor() for factor, _ in self._factors.values())
        step = _Step(optimizer, self.factor)
        self._scale(step)
        self._steps.append(step)
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
        while any(step.optimizer is optimizer for step in self._steps):
            step = self._steps.pop()  # a step inside that raised, and was caught, is still there
            self._unscale(step)
            if step.optimizer is optimizer:
                break
        self.steps += not self._steps

    def _is_ours(self, optimizer: Optimizer) -> bool:
        if optimizer is self._latest:
            return True
        ours = self._holds_weights(optimizer)
        self._latest = optimizer if ours else self._latest
        return ours

    def _holds_weights(self, optimizer: Optimizer) -> bool:
        if any(optimizer is own for own in self._trainer.optimizers):
            return True
        count = sum(len(group["params"]) for group in optimizer.param_groups)
        known = self._ours.get(optimizer)
        if known is None or known[0] != count:  # groups may be added later
            weights = {id(weight) for weight in self._trainer.lightning_module.parameters()}
            groups = {id(group) for own in self._trainer.optimizers for group in _groups(own)}
            ours = any(
                id(group) in groups or any(id(weight) in weights for weight in group["params"])
                for group in optimizer.param_groups
            )
            self._ours[optimizer] = known = count, ours
        return known[1]

    def _scale(self, step: _Step) -> None:
        outer = [other for other in self._steps if other is not step] if self._steps else []
        around = [entry for other in outer for entry in other.groups]
        for group in step.optimizer.param_groups:
            rate = group.get("lr")
            if rate is None:
                if self.changes_rates:
                    self.say(no_rate(step.optimizer, self.owners[0]), at_first_step=self.steps == 0)
                continue
            if around and _is_scaled(group, rate, around):
                continue
            scaled = rate * step.factor  # a new object: learning rates held as tensors are shared
            step.groups.append((group, rate, scaled))
            group["lr"] = scaled

    def _note(self, step: _Step) -> None:
        """The learning rates are those of the update that comes now."""
        optimizer = step.optimizer
        used = [math.nan if group.get("lr") is None else float(group["lr"]) for group in optimizer.param_groups]
        previous, self._used[optimizer] = self._used.get(optimizer, []), used
        self.updates += 1
        if not self.stepped or self.stepped[-1] is not optimizer:
            self.stepped.append(optimizer)
        if optimizer not in self._entered:
            self._entered.add(optimizer)
            self._reached.update((id(weight), weight) for group in _groups(optimizer) for weight in group["params"])
        for group, rate in zip(optimizer.param_groups, used, strict=True):
            if group["params"]:
                self._last[_key(group)] = group["params"][0], rate
        for outer in self._steps:
            if outer is not step and outer.optimizer in self._used:  # the innermost step makes the update
                rates = self._used[outer.optimizer]
                for index, group in enumerate(outer.optimizer.param_groups[: len(rates)]):
                    if _key(group) in self._last:
                        rates[index] = self._last[_key(group)][1]
        if self.corrects_momentum and len(previous) == len(used):
            self._correct_momentum(optimizer, previous, used)

    def _put_back(self, step: _Step) -> bool:
        """Put the unscaled learning rates back; whether they still were those that the step was given."""
        groups, step.groups = step.groups, []
        kept = True
        for group, rate, scaled in groups:
            now = group["lr"]
            if now is scaled or bool(now == scaled):
                group["lr"] = rate
            else:  # the optimizer's own doing, beginning with the learning rate that it found
                group["lr"], kept = now * (rate / scaled) if scaled else now, False
        return kept

    def _unscale(self, step: _Step) -> None:
        if not self._put_back(step):
            name = type(step.optimizer).__name__
            self.say(
                f"{name} sets its own learning rate inside step, so that {self.owners[0]} cannot tell which one an "
                f"update had; remove {self.owners[0]}, or set the learning rate outside of the step, as schedulers do",
                at_first_step=self.steps == 0,
            )

    def _correct_momentum(self, optimizer: Optimizer, previous: list[float], used: list[float]) -> None:
        """Goyal et al. (2017), equation 10: a history that holds old rates is brought to the new one."""
        if type(optimizer).__module__.startswith("torch.optim"):
            return  # came later: at train start they are refused, since their buffer does not hold the learning rate
        if any(outer.optimizer.state is optimizer.state for outer in self._steps if outer.optimizer is not optimizer):
            return  # corrected by the step around this one
        for group, old, new in zip(optimizer.param_groups, previous, used, strict=True):
            if old in (0.0, new) or not math.isfinite(new / old):
                continue
            for parameter in group["params"]:
                history = optimizer.state[parameter].get("momentum_buffer") if parameter in optimizer.state else None
                if isinstance(history, Tensor):
                    history.mul_(new / old)


def no_rate(optimizer: Any, owner: str) -> str:
    """The error for an optimizer that finds its own step size."""
    without = any("lr" not in group for group in _groups(optimizer))
    what = "no 'lr' to scale" if without else "no learning rate to scale, lr=None"
    return (
        f"{type(optimizer).__name__} has {what}: it finds its own step size, like Adafactor(relative_step=True); "
        f"give it a learning rate, use another optimizer, or remove {owner}"
    )


def check_rates(optimizer: Any, owner: str) -> None:
    """Raise if the optimizer has no learning rate that could be scaled."""
    if any(group.get("lr") is None for group in _groups(optimizer)):
        raise ValueError(no_rate(optimizer, owner))


def _groups(optimizer: Any) -> list[dict[str, Any]]:
    return list(getattr(optimizer, "param_groups", ()))


def _key(group: dict[str, Any]) -> int:
    """What tells a group from others, also where a wrapper holds the same weights in a group of its own."""
    return id(group["params"][0]) if group["params"] else -1


def _is_scaled(group: dict[str, Any], rate: Any, around: list[tuple[dict[str, Any], Any, Any]]) -> bool:
    """Whether a step around this one has scaled this learning rate, or the one that it is a copy of."""
    for other, unscaled, scaled in around:
        if group is other:
            return True
        if scaled != unscaled and rate == scaled and {*map(id, group["params"])} & {*map(id, other["params"])}:
            return True
    return False
