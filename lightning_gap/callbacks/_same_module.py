"""What a training step leaves on a module beside its trained weights: taken down, and put back."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ..trainer.closures import times_written

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class ModuleState:
    """Buffers and attributes of a module and its parts, as they are now; metrics of torchmetrics are such parts.

    Of lists, dicts, sets, deques and tensors among the attributes the content is kept, of random generators the state;
    what other objects hold is not.
    """

    def __init__(self, module: nn.Module) -> None:
        parts = list(module.modules())
        self._attributes = [(part, own) for part in parts if (own := _own_attributes(part))]
        self._buffers = [(part, *named) for part in parts for named in part.named_buffers(recurse=False)]
        self._contents: list[Callable[[], object]] = [
            *(put_back for part, own in self._attributes for put_back in _contents(part, own)),
            *(partial(_write, buffer, buffer.clone()) for *_, buffer in self._buffers if _can_be_written(buffer)),
        ]

    def put_back(self) -> None:
        """Let everything be as it was, in the objects that it was in."""
        for part, own in self._attributes:
            for name in _own_attributes(part).keys() - own.keys():
                vars(part).pop(name)
            vars(part).update(own)
        for part, name, buffer in self._buffers:
            if getattr(part, name, None) is not buffer:
                setattr(part, name, buffer)
        for put_back in self._contents:
            put_back()


class Unwritten:
    """Weights that are not trained: nothing puts them back, so that a training step must not write to them.

    Args:
        module: Whose they are.
        trained: The weights that it may write to.
        by_value: Whether their values are compared too: what is written through ``.data`` leaves no other trace.
    """

    def __init__(self, module: nn.Module, trained: Iterable[Tensor], *, by_value: bool) -> None:
        moving, self._by_value = {id(weight) for weight in trained}, by_value
        frozen = [(name, weight) for name, weight in module.named_parameters() if id(weight) not in moving]
        self._before = [(name, weight, self._fingerprint(weight)) for name, weight in frozen]

    def refuse_if_written_to(self) -> None:
        """Refuse a training step that has written to one of them.

        Raises:
            ValueError: Names it.
        """
        for name, weight, before in self._before:
            if self._fingerprint(weight) != before:
                raise ValueError(
                    f"training_step writes to {name}, which is not trained, and would do so in each further pass over "
                    "the batch; do it in on_train_batch_end"
                )

    def _fingerprint(self, weight: Tensor) -> tuple[int, int, float]:
        return times_written(weight), _place(weight), _sum(weight) if self._by_value else 0.0


def _own_attributes(part: nn.Module) -> dict[str, Any]:
    """Those that not every module has."""
    return {name: value for name, value in vars(part).items() if name not in _OF_EVERY_MODULE}


def _contents(part: nn.Module, attributes: dict[str, Any]) -> Iterator[Callable[[], object]]:
    """What puts back the content of those attributes that have one."""
    for name, value in attributes.items():
        if isinstance(value, list | deque):
            yield partial(_fill, value, list(value))
        elif isinstance(value, dict):
            yield partial(_fill, value, dict(value))
        elif isinstance(value, set):
            yield partial(_fill, value, set(value))
        elif isinstance(value, torch.Generator):
            yield partial(value.set_state, value.get_state())
        elif isinstance(value, Tensor) and not value.is_inference() and _can_be_written(value):
            if not value.requires_grad:
                yield partial(_write, value, value.clone())
            elif isinstance(part, Metric):  # a state with a graph
                yield partial(vars(part).__setitem__, name, value.clone())


def _fill(container: Any, items: Any) -> None:
    container.clear()
    (container.update if isinstance(container, dict | set) else container.extend)(items)


def _write(tensor: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        tensor.copy_(value)


def _place(tensor: Tensor) -> int:
    try:
        return int(tensor.data_ptr())
    except RuntimeError:  # of a kind without storage
        return 0


def _sum(tensor: Tensor) -> float:
    try:
        found = float(tensor.detach().sum(dtype=torch.float64))
    except (RuntimeError, TypeError):  # of a kind that cannot be added up
        return 0.0
    return found if math.isfinite(found) else 0.0


def _can_be_written(buffer: Tensor) -> bool:
    """Whether each element has a place of its own: not in what `expand` makes, which torch does not write to."""
    if buffer.layout != torch.strided:
        return True
    return not any(stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True))
