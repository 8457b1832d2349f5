"""Multiply the learning rate around each optimizer step, so that schedulers and checkpoints never see it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from torch.optim import Optimizer


class ScaledRates:
    """The rates of one optimizer, multiplied before its step and put back after it.

    Torch's own hooks, not Lightning's: a scheduler steps right after the optimizer and must find the unscaled rate. So
    must the closure, in which Lightning runs `training_step`, and whoever sets the rate there. Callbacks that multiply
    the same optimizer's rates share one pair of hooks, since the hooks of two would put the rates back in the wrong
    order.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.used: list[float] = []  # by parameter group, in the last step
        self.corrects_momentum = False
        self._factors: dict[object, Callable[[], float]] = {}
        self._unscaled: list[Any] | None = None
        self._handles = [
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        ]

    def multiply(self, owner: object, factor: Callable[[], float]) -> None:
        """Multiply every rate by what ``factor`` says at each step, until ``owner`` stops."""
        self._factors[owner] = factor

    def stop(self, optimizer: Optimizer, owner: object) -> None:
        """Multiply no longer; rates that a step which raised has left scaled are put back."""
        self._factors.pop(owner, None)
        if not self._factors:
            self._after(optimizer)
            for handle in self._handles:
                handle.remove()
            _scaled.pop(optimizer, None)

    def _before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        closure = kwargs.get("closure") or next(iter(args[1:]), None)
        self._scale(optimizer)
        if closure is None:
            self._note(optimizer)
            return None

        def unscaled_closure() -> Any:
            self._after(optimizer)
            result = closure()
            self._scale(optimizer)
            self._note(optimizer)
            return result

        return args[:1], {**kwargs, "closure": unscaled_closure}

    def _scale(self, optimizer: Optimizer) -> None:
        factor = math.prod(factor() for factor in self._factors.values())
        self._unscaled = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * factor  # a new object: rates held as tensors are shared

    def _note(self, optimizer: Optimizer) -> None:
        """The rates are those of the update that comes now."""
        previous, self.used = self.used, [float(group["lr"]) for group in optimizer.param_groups]
        if self.corrects_momentum and len(previous) == len(self.used):
            self._correct_momentum(optimizer, previous)

    def _after(self, optimizer: Optimizer, *_: Any) -> None:
        if self._unscaled is not None:
            for group, rate in zip(optimizer.param_groups, self._unscaled, strict=True):
                group["lr"] = rate
            self._unscaled = None

    def _correct_momentum(self, optimizer: Optimizer, previous: list[float]) -> None:
        """Goyal et al. (2017), equation 10: a history that holds old rates is brought to the new one."""
        for group, old, new in zip(optimizer.param_groups, previous, self.used, strict=True):
            if old in (0.0, new):
                continue
            for parameter in group["params"]:
                history = optimizer.state[parameter].get("momentum_buffer") if parameter in optimizer.state else None
                if isinstance(history, Tensor):
                    history.mul_(new / old)


_scaled: WeakKeyDictionary[Optimizer, ScaledRates] = WeakKeyDictionary()


def used_rates(optimizer: Optimizer) -> list[float]:
    """The rates of the last step by parameter group; none where nothing multiplies them."""
    return _scaled[optimizer].used if optimizer in _scaled else []


def scaled_rates(optimizer: Optimizer) -> ScaledRates:
    """The one object that multiplies this optimizer's rates."""
    if optimizer not in _scaled:
        _scaled[optimizer] = ScaledRates(optimizer)
    return _scaled[optimizer]
