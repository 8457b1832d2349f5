"""Ghost layers know what they were, and so do their copies: to turn all of them back, wherever they are kept.

A module that is copied while its layers are ghosts, for an average of its weights or as a teacher, holds ghosts, too. A
mark on each layer goes along with every copy, so that all that are alive can be found and turned back.
"""

from __future__ import annotations

import gc
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from .ghost_batch_norm import MARK, _GhostBatchNorm
from .ghost_swap import restore_layer, swap_batch_norm


def new_swap() -> str:
    """A name for one swap that no other has, in any process; no random generator of the run is asked."""
    return uuid.uuid4().hex


def mark(layer: nn.Module, swap: str, former: Mapping[str, Any] | None) -> None:
    """Note on a ghost layer which swap made it, and its former settings; ``None`` if it was no ghost layer.

    A note of an earlier swap, on a layer that was saved before it could be turned back, holds the older truth.
    """
    _, former = vars(layer).get(MARK, (swap, former))
    setattr(layer, MARK, (swap, former))


def marked(swap: str) -> Iterator[_GhostBatchNorm]:
    """Every living layer that the swap made, and every copy of one."""
    for thing in gc.get_objects():
        if issubclass(type(thing), _GhostBatchNorm) and vars(thing).get(MARK, (None,))[0] == swap:
            yield thing


def take_back(layer: nn.Module) -> bool:
    """Give a marked layer back what it was; whether it was possible."""
    if MARK not in vars(layer):
        return True  # turned back already
    _, former = vars(layer)[MARK]
    if former is None:
        return restore_layer(layer)
    delattr(layer, MARK)
    swap_batch_norm(layer, **former)
    return True
