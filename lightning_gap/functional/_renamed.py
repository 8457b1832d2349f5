"""Names of earlier versions, which still work and say what they are called now; gone in 0.2."""

from __future__ import annotations

import warnings
from importlib import import_module

_NEW_NAMES = {"Split": "MicroBatching", "Stage": "EpochBatch", "stage_at": "epoch_batch_at"}


def __getattr__(name: str) -> object:
    """The object that ``name`` is called by now, with a DeprecationWarning; what a module calls for a missing name."""
    package = __name__.rpartition(".")[0]
    if name not in _NEW_NAMES:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    new = _NEW_NAMES[name]
    warnings.warn(f"{package}.{name} is called {new} now; use that name", DeprecationWarning, stacklevel=2)
    return getattr(import_module(package), new)
