"""Leave what a pass writes on a module as it was: buffers, and metrics of torchmetrics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric


@contextmanager
def same_buffers(module: nn.Module) -> Iterator[None]:
    """Put all buffers back at the end, those too that a layer has put another tensor in the place of."""
    places = [(part, name, buffer) for part in module.modules() for name, buffer in part.named_buffers(recurse=False)]
    saved = [buffer.clone() if _can_be_written(buffer) else None for *_, buffer in places]
    try:
        yield
    finally:
        with torch.no_grad():
            for (part, name, buffer), value in zip(places, saved, strict=True):
                if getattr(part, name, None) is not buffer:
                    setattr(part, name, buffer)
                if value is not None:
                    buffer.copy_(value)


@contextmanager
def same_metrics(module: nn.Module) -> Iterator[None]:
    """Put the states of the module's metrics back at the end."""
    saved = [(part, _state(part)) for part in module.modules() if isinstance(part, Metric)]
    try:
        yield
    finally:
        for metric, state in saved:
            vars(metric).update(state)


def _state(metric: Metric) -> dict[str, Any]:
    """Its attributes, with copies of the tensors and lists in which it adds up."""
    return {**vars(metric), **{name: _copied(value) for name, value in metric.metric_state.items()}}


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else list(value)


def _can_be_written(buffer: Tensor) -> bool:
    """Whether each element has a place of its own: not in what `expand` makes, which torch does not write to."""
    if buffer.layout != torch.strided:
        return True
    return not any(stride == 0 and size > 1 for stride, size in zip(buffer.stride(), buffer.shape, strict=True))
