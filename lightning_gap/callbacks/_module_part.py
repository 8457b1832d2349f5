"""The part of a module whose outputs a callback looks at, by its name."""

from __future__ import annotations

from lightning.pytorch import LightningModule
from torch import nn

from ..functional._validation import refusal


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
