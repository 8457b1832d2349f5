"""Turn the BatchNorm layers of a model into ghost layers, and back, in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from .ghost_batch_norm import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    RunningStats,
    _GhostBatchNorm,
    checked_running_stats,
)
from .ghosts import Leftover, checked_ghost_batch_size, checked_leftover

_GHOST_OF: dict[type, type] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
    nn.BatchNorm3d: GhostBatchNorm3d,
}
_PLAIN_OF = {ghost: plain for plain, ghost in _GHOST_OF.items()}
_SETTINGS = ("ghost_batch_size", "leftover", "running_stats")


@dataclass(frozen=True)
class SwapReport:
    """What `swap_batch_norm` did.

    Attributes:
        converted: Names of the layers that were BatchNorm and are ghost layers now.
        changed: Name and former settings of the layers that were ghost layers before and took the new settings; the
            settings are arguments of `swap_batch_norm`.
        skipped: Name and reason of each batch-norm layer that was left alone.
    """

    converted: tuple[str, ...]
    changed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)


def swap_batch_norm(
    module: nn.Module,
    ghost_batch_size: int,
    *,
    leftover: Leftover = "merge",
    running_stats: RunningStats = "sequential",
) -> SwapReport:
    """Turn every BatchNorm layer inside ``module`` into its ghost twin, in place.

    A layer changes its class and gains its settings as attributes. Parameters, buffers, hooks, parametrizations and
    `state_dict` keys stay the very same objects, so optimizers and checkpoints need not know. Swapping again changes
    the settings.

    Args:
        module: Any module; may itself be a BatchNorm layer.
        ghost_batch_size: Samples per ghost.
        leftover: See `GhostBatchNorm2d`.
        running_stats: See `GhostBatchNorm2d`.

    Returns:
        The converted and changed layers, and those left alone with the reason: `SyncBatchNorm`, lazy and scripted
        layers, and subclasses, whose own behaviour a swap could lose.

    Raises:
        TypeError: If ``ghost_batch_size`` is not an integer.
        ValueError: If ``ghost_batch_size`` is below 1, or ``leftover`` or ``running_stats`` is unknown.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
        >>> swap_batch_norm(model, 32).converted
        ('1',)
    """
    settings = {
        "ghost_batch_size": checked_ghost_batch_size(ghost_batch_size),
        "leftover": checked_leftover(leftover),
        "running_stats": checked_running_stats(running_stats),
    }
    converted: list[str] = []
    changed: dict[str, dict[str, Any]] = {}
    skipped: dict[str, str] = {}
    for name, layer in module.named_modules():
        if isinstance(layer, _GhostBatchNorm):
            changed[name] = {setting: getattr(layer, setting) for setting in _SETTINGS}
        elif _change_class(layer, _GHOST_OF):
            converted.append(name)
        else:
            if reason := _why_skipped(layer):
                skipped[name] = reason
            continue
        for setting, value in settings.items():
            setattr(layer, setting, value)
    return SwapReport(tuple(converted), changed, skipped)


def restore_batch_norm(module: nn.Module) -> tuple[str, ...]:
    """Turn every ghost layer inside ``module`` back into the BatchNorm it was, in place; the exact reverse of a swap.

    Args:
        module: Any module; may itself be a ghost layer.

    Returns:
        The names of the restored layers.
    """
    restored: list[str] = []
    for name, layer in module.named_modules():
        if _change_class(layer, _PLAIN_OF):
            for setting in _SETTINGS:
                delattr(layer, setting)
            restored.append(name)
    return tuple(restored)


def _change_class(layer: nn.Module, twins: Mapping[type, type]) -> bool:
    """Give ``layer`` the twin of its class, if there is one."""
    kind = type(layer)
    if kind in twins:
        layer.__class__ = twins[kind]
    elif parametrize.is_parametrized(layer) and kind.__bases__[0] in twins:
        # torch has put a class of its own between, which holds nothing but the parametrized properties.
        twin = twins[kind.__bases__[0]]
        members = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
        layer.__class__ = type(f"Parametrized{twin.__name__}", (twin,), members)
    else:
        return False
    return True


def _why_skipped(layer: nn.Module) -> str | None:
    """Why a swap leaves this layer alone, or ``None`` where it is no batch norm at all."""
    if isinstance(layer, torch.jit.ScriptModule):
        scripted = layer.original_name in {plain.__name__ for plain in _GHOST_OF}
        return "scripted layer, whose code is fixed; swap before torch.jit.script" if scripted else None
    if not isinstance(layer, _BatchNorm):
        return None
    if isinstance(layer, nn.SyncBatchNorm):
        return "SyncBatchNorm shares statistics across processes, the opposite of ghost batches"
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return "lazy layer without a size yet; run one batch through the model first"
    return f"{type(layer).__name__} is a subclass, whose own behaviour a swap could lose"
