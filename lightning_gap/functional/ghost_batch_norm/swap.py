"""Turn the BatchNorm layers of a model into ghost layers, and back, in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from .._validation import instance
from ._probe import find_twin
from ._subclasses import GHOST_OF
from .layers import MARK, RunningStats, _GhostBatchNorm, checked_running_stats
from .runs import Leftover, checked_ghost_batch_size, checked_leftover

_PLAIN_OF = {ghost: plain for plain, ghost in GHOST_OF.items()}
_SETTINGS = ("ghost_batch_size", "leftover", "running_stats")


@dataclass(frozen=True)
class SwapReport:
    """What `swap_batch_norm` did.

    Attributes:
        converted: Names of the layers that were BatchNorm and are ghost layers now.
        changed: Name and former settings of the layers that were ghost layers before and took the new settings; the
            settings are arguments of `swap_batch_norm`.
        skipped: Name and reason of each batch-norm layer that was left alone.

    Example:
        >>> report = swap_batch_norm(nn.Sequential(nn.BatchNorm1d(4), nn.SyncBatchNorm(4)), 32)
        >>> len(report.converted), list(report.skipped)
        (1, ['1'])
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

    A subclass of BatchNorm becomes a subclass of both. If it overrides forward, a trial on a copy must show that on
    ghosts it does what it does on slices of the batch; where it does not call ``super().forward``, its forward pass
    runs once for each ghost.

    Args:
        module: Any module; may itself be a BatchNorm layer.
        ghost_batch_size: Samples per ghost.
        leftover: See `GhostBatchNorm2d`.
        running_stats: See `GhostBatchNorm2d`.

    Returns:
        The converted and changed layers, and those left alone with the reason. `SyncBatchNorm`, lazy, scripted and
        quantised layers, layers that take no settings, and subclasses whose own behaviour a swap could lose are left
        alone.

    Raises:
        ValueError: If ``ghost_batch_size`` is no whole number of at least 1, or ``leftover`` or ``running_stats`` is
            unknown.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 4.

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
    for name, layer in instance("module", module, nn.Module).named_modules():
        if isinstance(layer, _GhostBatchNorm):
            former = settings_of(layer)
            if refusal := _set_settings(layer, settings):
                skipped[name] = refusal
            else:
                changed[name] = former
        elif reason := _why_skipped(layer):
            skipped[name] = reason
        elif isinstance(layer, _BatchNorm):
            plain = _own_class(layer)
            twin = GHOST_OF.get(plain) or find_twin(layer, plain, _set_class)
            if isinstance(twin, str):
                skipped[name] = twin
            elif refusal := _convert(layer, twin, settings):
                skipped[name] = refusal
            else:
                converted.append(name)
    return SwapReport(tuple(converted), changed, skipped)


def restore_batch_norm(module: nn.Module) -> tuple[str, ...]:
    """Turn every ghost layer inside ``module`` back into the BatchNorm it was, in place; the exact reverse of a swap.

    Args:
        module: Any module; may itself be a ghost layer. Copies of a swapped module, and those loaded from a file, too.

    Returns:
        The names of the restored layers.

    Raises:
        ValueError: If ``module`` is no module.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
        >>> _ = swap_batch_norm(model, 32)
        >>> restore_batch_norm(model), type(model[1]).__name__
        (('1',), 'BatchNorm1d')
    """
    restored: list[str] = []
    for name, layer in instance("module", module, nn.Module).named_modules():
        if isinstance(layer, _GhostBatchNorm) and restore_layer(layer):
            restored.append(name)
    return tuple(restored)


def restore_layer(layer: nn.Module) -> bool:
    """Turn one ghost layer back, not those inside it; whether it was possible."""
    own = _own_class(layer)
    plain = _PLAIN_OF.get(own) or vars(own).get("plain_class")
    if plain is None:
        return False
    _set_class(layer, plain)
    for setting in (*_SETTINGS, MARK):
        vars(layer).pop(setting, None)
    return True


def settings_of(layer: _GhostBatchNorm) -> dict[str, Any]:
    """What `swap_batch_norm` takes beside the module."""
    return {setting: getattr(layer, setting) for setting in _SETTINGS}


def _own_class(layer: nn.Module) -> type[nn.Module]:
    """The class of a layer, without the one that torch puts between for its parametrized properties."""
    return type(layer).__bases__[0] if parametrize.is_parametrized(layer) else type(layer)


def _convert(layer: nn.Module, twin: type[nn.Module], settings: Mapping[str, Any]) -> str | None:
    """Turn one layer into its twin, or leave it as it was and say why."""
    kind = type(layer)
    try:
        _set_class(layer, twin)
    except TypeError as error:  # of classes whose instances are laid out in another way
        return f"{kind.__name__} takes no other class: {error}"
    refusal = _set_settings(layer, settings)
    if refusal is not None:
        object.__setattr__(layer, "__class__", kind)
    return refusal


def _set_settings(layer: nn.Module, settings: Mapping[str, Any]) -> str | None:
    """Set all of them, or leave the layer as it was and say why; a class may have its own idea of attributes."""
    former = {setting: vars(layer)[setting] for setting in settings if setting in vars(layer)}
    try:
        for setting, value in settings.items():
            setattr(layer, setting, value)
            if getattr(layer, setting) != value:
                raise AttributeError(f"it gives back {getattr(layer, setting)!r}")
    except Exception as error:
        for name in settings:
            vars(layer).pop(name, None)
        vars(layer).update(former)
        return f"{type(layer).__name__} takes no attribute {setting}: {type(error).__name__}: {error}"
    return None


def _set_class(layer: nn.Module, twin: type[nn.Module]) -> None:
    if parametrize.is_parametrized(layer):
        members = {name: value for name, value in vars(type(layer)).items() if name not in ("__dict__", "__weakref__")}
        twin = type(f"Parametrized{twin.__name__}", (twin,), members)
    object.__setattr__(layer, "__class__", twin)  # past a __setattr__ of the layer's own


def _why_skipped(layer: nn.Module) -> str | None:
    """Why a swap leaves this layer alone whatever a trial might show."""
    if isinstance(layer, torch.jit.ScriptModule):
        scripted = layer.original_name in {plain.__name__ for plain in GHOST_OF}
        return (
            "scripted layer, whose code is fixed; train the model itself and script it after fit" if scripted else None
        )
    if not isinstance(layer, _BatchNorm):
        return None
    if isinstance(layer, nn.SyncBatchNorm):
        return "SyncBatchNorm shares statistics across processes, the opposite of ghost batches"
    if isinstance(layer, nn.modules.lazy.LazyModuleMixin):
        return "lazy layer without a size yet; run one batch through the model first"
    if any(kind.__module__.startswith("torch.ao.nn.quantized") for kind in type(layer).__mro__):
        return "quantised layer, which only evaluates"
    if "forward" in vars(layer):
        return "its forward is replaced on the layer itself, which a swap of its class would not reach"
    if own := [setting for setting in _SETTINGS if hasattr(layer, setting)]:
        return f"it has an attribute {own[0]} of its own, which a ghost layer needs for its settings"
    return None
