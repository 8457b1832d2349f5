"""Ghost layers know what they were, and so do their copies: to turn all of them back, wherever they are kept.

A module that is copied while its layers are ghosts, for an average of its weights or as a teacher, holds ghosts, too. A
mark on each layer goes along with every copy, so that all that are alive can be found and turned back. What goes into a
checkpoint beside the state is turned back in a copy.
"""

from __future__ import annotations

import copy
import gc
import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from .layers import MARK, _GhostBatchNorm
from .swap import restore_layer, swap_batch_norm


def new_swap() -> str:
    """A name for one swap that no other has, in any process; no random generator of the run is asked."""
    return uuid.uuid4().hex


def mark(layer: nn.Module, swap: str, former: Mapping[str, Any] | None) -> None:
    """Note on a ghost layer which swap made it, and its former settings; ``None`` if it was no ghost layer.

    A note of an earlier swap, on a layer that was saved before it could be turned back, holds the older truth.
    """
    _, former = vars(layer).get(MARK, (swap, former))
    vars(layer)[MARK] = (swap, former)  # past a __setattr__ of the layer's own


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
    del vars(layer)[MARK]
    swap_batch_norm(layer, **former)
    return True


def without_ghosts(thing: Any, copies: dict[int, Any] | None = None) -> Any:
    """What a file should hold of a dict, list or tuple of anything: copies without marked layers for the networks.

    Args:
        thing: Anything. Modules are looked for in dicts, lists and tuples, inside each other to any depth.
        copies: Copies made so far by `id`, as of `copy.deepcopy`; what is shared stays shared.

    Returns:
        ``thing`` itself where it holds no marked layer. A copy of a module has the very same tensors, so that a file
        holds them once.
    """
    copies = {} if copies is None else copies
    if id(thing) in copies:
        return copies[id(thing)]
    made: Any = thing
    if isinstance(thing, nn.Module):
        if not any(MARK in vars(layer) for layer in thing.modules()):
            return thing
        copies.update({id(tensor): tensor for tensor in (*thing.parameters(), *thing.buffers())})
        made = copy.deepcopy(thing, copies)
        for layer in made.modules():
            take_back(layer)
    elif isinstance(thing, dict | list | tuple):
        copies[id(thing)] = thing  # if it holds itself
        keys, values = (list(thing), list(thing.values())) if isinstance(thing, dict) else ([], list(thing))
        changed = [without_ghosts(value, copies) for value in values]
        if any(new is not old for new, old in zip(changed, values, strict=True)):
            if isinstance(thing, dict):
                made = copy.copy(thing)
                made.update(zip(keys, changed, strict=True))
            else:
                made = type(thing)._make(changed) if hasattr(thing, "_make") else type(thing)(changed)
        copies[id(thing)] = made
    return made
