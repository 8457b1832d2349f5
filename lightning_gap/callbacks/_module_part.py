"""The part of a module whose outputs a callback looks at, by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from ..functional._validation import refusal
from ..trainer.processes import wraps_module


def checked_name(outputs: object) -> str | None:
    """The argument ``outputs``: the name of a part, or ``None`` for the module itself."""
    if outputs is not None and not isinstance(outputs, str):
        raise ValueError(refusal("outputs", "must be the name of a part of the module", outputs))
    return outputs


def module_part(module: LightningModule, outputs: str | None) -> nn.Module:
    """The part of this name.

    Raises:
        ValueError: If there is none.
    """
    try:
        return module if outputs is None else module.get_submodule(outputs)
    except AttributeError as error:
        names = ", ".join(name for name, _ in module.named_children())
        raise ValueError(f"outputs={outputs!r} is no part of {type(module).__name__}; its parts are {names}") from error


def name_of_part(module: LightningModule, outputs: str | None) -> str:
    """What errors call it."""
    return type(module).__name__ if outputs is None else f"{type(module).__name__}.{outputs}"


def watch_outputs(
    trainer: Trainer, module: LightningModule, outputs: str | None, see: Callable[[Any], None]
) -> Callable[[], None]:
    """Let ``see`` have what the part of this name gives at each call.

    A strategy that wraps the module, DDP for instance, runs `training_step` inside a call of the module itself: what
    that one gives is the loss.

    Returns:
        What ends it.
    """
    part = module_part(module, outputs)
    inside_a_step = part is module and wraps_module(trainer)
    calls = _Calls(see, 2 if inside_a_step else 0)
    handles = [part.register_forward_hook(calls.see)]
    if inside_a_step:
        handles.insert(0, part.register_forward_pre_hook(calls.begin))
        handles.append(part.register_forward_hook(calls.end, always_call=True))

    def end() -> None:
        for handle in handles:
            handle.remove()

    return end


class _Calls:
    """The calls of a module, of which so many must be under way, one inside the other, for one to be seen.

    A copy sees nothing: a module that is copied or saved during a fit takes its hooks along.
    """

    def __init__(self, see: Callable[[Any], None] | None = None, at_least: int = 0) -> None:
        self._see, self._at_least, self._under_way = see, at_least, 0

    def __reduce__(self) -> Any:
        return _Calls, ()

    def begin(self, *_: Any) -> None:
        self._under_way += 1

    def see(self, _: nn.Module, __: Any, found: Any) -> None:
        if self._see is not None and self._under_way >= self._at_least:
            self._see(found)

    def end(self, *_: Any) -> None:
        self._under_way -= 1
