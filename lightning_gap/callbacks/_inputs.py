"""The inputs inside a batch, and the same batch with others."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def inputs_of(batch: Any, place: int | str) -> Tensor:
    """The inputs in a batch.

    Raises:
        ValueError: If there is no floating-point tensor at this place.
    """
    if isinstance(batch, Tensor) and place == 0:
        found: Any = batch
    elif isinstance(place, str) and not isinstance(batch, Mapping):
        found = getattr(batch, place, None)
    elif isinstance(batch, Mapping | list | tuple):
        try:
            found = batch[place]  # type: ignore[index]
        except (LookupError, TypeError) as error:
            raise ValueError(
                f"inputs={place!r} is no place in a batch, a {type(batch).__name__}; give their index or key"
            ) from error
    else:
        found = None
    if not isinstance(found, Tensor) or not found.is_floating_point():
        what = f"{found.dtype} tensor" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(
            f"inputs={place!r} of a batch, a {type(batch).__name__}, is a {what}, not a floating-point tensor; say "
            "where the inputs are, and attack embeddings in place of tokens"
        )
    return found


def with_other_inputs(batch: Any, place: int | str, inputs: Tensor) -> Any:
    """A batch of the same kind with other inputs; the batch itself stays as it is.

    Raises:
        ValueError: If a batch of this kind cannot be made again.
    """
    if isinstance(batch, Tensor):
        return inputs
    if isinstance(batch, tuple) and hasattr(batch, "_replace"):
        named: Any = batch
        return named._replace(**{named._fields[place] if isinstance(place, int) else place: inputs})
    if type(batch) in (list, tuple):
        return type(batch)(inputs if index == place else part for index, part in enumerate(batch))
    if type(batch) is dict:
        return {**batch, place: inputs}
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        other = copy.copy(batch)  # not dataclasses.replace, which would run __post_init__ on what it has made already
        object.__setattr__(other, str(place), inputs)  # a frozen one too
        return other
    raise ValueError(
        f"a batch of type {type(batch).__name__} cannot be made again with other inputs; let the loader give a tuple, "
        "a list, a dict or a dataclass"
    )
