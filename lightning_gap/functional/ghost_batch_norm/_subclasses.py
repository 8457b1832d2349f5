"""Ghost twins of subclasses of BatchNorm, made when one is met; the subclass stays in their ancestry.

There are two ways. A *joined* twin puts our arithmetic where the subclass finds BatchNorm's, in ``super().forward``. A
*sliced* twin runs the forward pass of the subclass, whatever it does, on one ghost after the other: slower, and right
wherever samples are independent of one another but for the normalisation. `ghost_probe` finds out what suits a layer.
"""

from __future__ import annotations

import copyreg
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .layers import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    _BlockwiseGhosts,
    _GhostBatchNorm,
    uncounted,
)
from .normalisation import is_eager
from .runs import Runs

Way = Literal["joined", "sliced"]

GHOST_OF: dict[type, type] = {
    nn.BatchNorm1d: GhostBatchNorm1d,
    nn.BatchNorm2d: GhostBatchNorm2d,
    nn.BatchNorm3d: GhostBatchNorm3d,
}


class _SlicedGhosts(_GhostBatchNorm):
    """Runs the forward pass of the class that follows it in the ancestry on each ghost."""

    def forward(self, input: Tensor, *others: Any, **named: Any) -> Tensor:
        if (node := self._as_node(input, *others, **named)) is not None:
            return node  # type: ignore[no-any-return]
        runs = self._ghosts_of(input)
        forward = super().forward
        if runs is None:
            return forward(input, *others, **named)
        if any(isinstance(other, Tensor) for other in (*others, *named.values())):
            raise TypeError(f"{type(self).__name__} takes one tensor, which it cuts into ghosts; got several")
        parts = _parts(input, runs)
        if self.running_stats == "sequential" or not self.training:
            return torch.cat([forward(part, *others, **named) for part in parts])
        mean = _MeanOfBuffers(self)
        outputs = []
        try:
            for part in parts:
                mean.lend()
                outputs.append(forward(part, *others, **named))
                mean.add(len(part) / len(input))
        finally:
            mean.put_back()
        mean.write()
        return torch.cat(outputs)


class _MeanOfBuffers:
    """The mean over ghosts of what each makes of the old buffers, weighed by samples; also of the layers inside.

    As an update of running statistics is linear in what is new, this is one update with the mean of the ghosts'
    statistics. Of buffers that are no floating-point numbers, such as counters, the last ghost's update stays. Each
    ghost gets copies, because autograd keeps the buffers of a forward pass and refuses later writes.
    """

    def __init__(self, layer: _BatchNorm) -> None:
        everywhere = [
            (part._buffers, name, buffer) for part in layer.modules() for name, buffer in part._buffers.items()
        ]
        self._places = [(buffers, name, buffer) for buffers, name, buffer in everywhere if buffer is not None]
        self._results = [torch.zeros_like(buffer) for _, _, buffer in self._places]

    def lend(self) -> None:
        """Give the layer copies of the old buffers, for one ghost."""
        with torch.no_grad():  # not as decorators: torch 2.8 cannot compile decorated methods
            for buffers, name, buffer in self._places:
                buffers[name] = buffer.clone()

    def add(self, share: float) -> None:
        """Take what one ghost has made of the copies."""
        with torch.no_grad():
            for (buffers, name, _), result in zip(self._places, self._results, strict=True):
                made = cast("Tensor", buffers[name])
                if result.is_floating_point():
                    result.add_(made, alpha=share)
                else:
                    result.copy_(made)

    def put_back(self) -> None:
        """Give the layer its own buffers again."""
        for buffers, name, buffer in self._places:
            buffers[name] = buffer

    def write(self) -> None:
        """One update, counted once."""
        with torch.no_grad():
            for (_, _, buffer), result in zip(self._places, self._results, strict=True):
                _write(buffer, result)


def _write(buffer: Tensor, value: Tensor) -> None:
    (uncounted(buffer) if is_eager(buffer) else buffer).copy_(value)


def _parts(input: Tensor, runs: Runs) -> list[Tensor]:
    """One view of each ghost; not by `split`, whose views may not be written to by an activation in place."""
    parts, start = [], 0
    for count, size in runs:
        for _ in range(count):
            parts.append(input.narrow(0, start, size))
            start += size
    return parts


_new_object = vars(copyreg)["__newobj__"]
"""What `object.__reduce_ex__` makes objects with."""

_TWINS: dict[tuple[type[nn.Module], Way], type[nn.Module]] = {}


def twin_of(plain: type[nn.Module], way: Way) -> type[nn.Module]:
    """The ghost twin of a subclass of BatchNorm; one and the same whenever it is asked for.

    Raises:
        TypeError: If no class can have both for parents.
    """
    if (plain, way) not in _TWINS:
        _TWINS[plain, way] = _new_twin(plain, way)
    return _TWINS[plain, way]


def _new_twin(plain: type[nn.Module], way: Way) -> type[nn.Module]:
    ours: type = next((ghost for kind, ghost in GHOST_OF.items() if issubclass(plain, kind)), _BlockwiseGhosts)
    bases = (plain, ours) if way == "joined" else (_SlicedGhosts, plain)

    def reduce(self: nn.Module, protocol: int) -> Any:
        made = super(twin, self).__reduce_ex__(protocol)
        if made[0] is _new_object and made[1] == (twin,):
            return _rebuild, (plain, way), *made[2:]  # pickle looks classes up by name, which a twin does not have
        return made

    def forward(self: _GhostBatchNorm, *inputs: Any, **named: Any) -> Any:
        node = self._as_node(*inputs, **named)
        return super(twin, self).forward(*inputs, **named) if node is None else node  # type: ignore[misc]

    def refuse_to_be_scripted(self: nn.Module) -> None:
        raise RuntimeError(
            f"{type(self).__name__} cannot be scripted: call restore_batch_norm(model) first for the "
            f"{plain.__name__} that it was, which GhostBatchNormSwap has done when fit ends"
        )

    members: dict[str, Any] = {"__module__": __name__, "plain_class": plain, "__reduce_ex__": reduce}
    if overrides_forward(plain):
        members["__prepare_scriptable__"] = refuse_to_be_scripted
        members["forward"] = forward
    twin: type[nn.Module] = type(f"Ghost{plain.__name__}", bases, members)
    return twin


def overrides_forward(plain: type[nn.Module]) -> bool:
    """Whether a subclass of BatchNorm has a forward pass of its own."""
    return plain.forward is not _BatchNorm.forward


def _rebuild(plain: type[nn.Module], way: Way) -> nn.Module:
    twin = twin_of(plain, way)
    return twin.__new__(twin)
