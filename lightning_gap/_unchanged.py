"""Put the attributes of objects back after something was tried out on them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def unchanged(*owners: Any) -> Iterator[None]:
    """Put the attributes of these objects back: lists and dicts among them, and the state of random generators."""
    attributes = [vars(owner) for owner in owners if hasattr(owner, "__dict__")]
    before = [dict(live) for live in attributes]
    values = [value for kept in before for value in kept.values()]
    contents = [(value, value.copy()) for value in values if type(value) in (list, dict, set)]
    generators = [(value, _generator_state(value)) for value in values]
    try:
        yield
    finally:
        for live, kept in zip(attributes, before, strict=True):
            live.clear()
            live.update(kept)
        for value, content in contents:
            value.clear()
            value.extend(content) if isinstance(value, list) else value.update(content)
        for value, state in generators:
            if state is not None:
                _set_generator_state(value, state)


def _generator_state(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    of_numpy = type(value).__module__.startswith("numpy.random")
    return getattr(getattr(value, "bit_generator", None), "state", None) if of_numpy else None


def _set_generator_state(value: Any, state: Any) -> None:
    if isinstance(value, torch.Generator):
        value.set_state(state)
    elif isinstance(value, random.Random):
        value.setstate(state)
    else:
        value.bit_generator.state = state
