"""How many samples a batch holds, as far as the batch itself can tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

_MOST_FIELDS = 4  # of a batch that is a plain list or tuple; a longer one holds samples, not fields


def guess_samples(batch: Any) -> int | None:
    """The first axis of every tensor in a batch, where all agree on it; ``None`` where it could be something else.

    It could be something else where the first axes differ (the nodes of graphs, time first), where there is a list of
    tensors inside the batch or as the batch (images of different size, one tensor each), and where there is no tensor.

    Args:
        batch: Tensors or arrays, or a mapping, data class, list or tuple of them, mappings inside each other.

    Example:
        >>> import torch
        >>> guess_samples([torch.zeros(8, 3), torch.zeros(8)])
        8
        >>> guess_samples({"nodes": torch.zeros(20, 3), "graphs": torch.zeros(8)}) is None
        True
    """
    return _only(_first_axes(batch, outermost=True))


def shared_first_axis(batch: Any) -> int | None:
    """The same where lists in the batch are known to hold fields, as those of torch's own collate function do."""
    return _only(_first_axes(batch, outermost=True, of_fields=True))


def _only(sizes: Iterator[int | None]) -> int | None:
    different = set(sizes)
    return different.pop() if len(different) == 1 else None


def _first_axes(part: Any, *, outermost: bool = False, of_fields: bool = False) -> Iterator[int | None]:
    """The first axis of each array in ``part``, or ``None`` once for what hides how many samples there are."""
    inside: Iterable[Any] = ()  # the parts of this part
    if isinstance(part, PackedSequence):
        yield int(part.batch_sizes[0])  # sequences that have a first element: all of them
    elif isinstance(part, Tensor) and part.is_nested:
        yield int(part.size(0))  # its other axes are ragged, so that it has no shape
    elif _is_array(part):
        if len(part.shape):
            yield int(part.shape[0])
    elif isinstance(part, Mapping):
        inside = part.values()
    elif is_dataclass(part) and not isinstance(part, type):
        inside = [getattr(part, field.name) for field in fields(part)]
    elif isinstance(part, list | tuple):
        if of_fields or hasattr(part, "_fields") or not _may_be_samples(part, outermost):
            inside = part
        else:
            yield None
    elif hasattr(part, "__dict__") and not isinstance(part, type):
        yield None  # an object of another library: what its tensors are is not known
    for value in inside:
        yield from _first_axes(value, of_fields=of_fields)


def _may_be_samples(parts: list[Any] | tuple[Any, ...], outermost: bool) -> bool:
    """Whether a list may hold one tensor for each sample and not one for each field."""
    arrays = [part for part in parts if _is_array(part)]
    if not arrays:
        return False
    like_images = len(arrays) > 1 and all(len(array.shape) == 3 for array in arrays)
    return not outermost or like_images or len(parts) > _MOST_FIELDS


def _is_array(part: Any) -> bool:
    """Whether it is a tensor, or an array of a library that functions here do not import."""
    return isinstance(part, Tensor) or (hasattr(part, "shape") and hasattr(part, "dtype") and not callable(part))
