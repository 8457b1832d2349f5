"""Several points of weight space at once: one network on a stack of parameters and buffers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.modules.batchnorm import _BatchNorm

from .._uninterrupted import uninterrupted, uninterrupted_exit
from ..batch_statistics import batch_statistics
from ..dataset_loss import BatchNormMode
from ._places import Places
from ._splits import Measure, Split, means, named_means

_PREFIX = "module."


class Together:
    """Evaluates a stack of points with `torch.func.vmap`.

    Args:
        module: In evaluation mode.
        places: What its tensors are at the points.
        measure: A function of (module, batch).
        batch_norm: The statistics.

    Attributes:
        bytes_each: What one more point adds to the stack, in bytes.
    """

    def __init__(self, module: nn.Module, places: Places, measure: Measure, batch_norm: BatchNormMode) -> None:
        self._places, self._mode = places, batch_norm
        self._measured = _Measured(module, measure)
        self._layers = [part for part in module.modules() if isinstance(part, _BatchNorm)]
        # Statistics that a pass writes to differ from point to point, also where the points do not move them.
        statistics = {id(b) for layer in self._layers for b in (layer.running_mean, layer.running_var)}
        written = batch_norm != "running"
        self._stacked = {
            name: places.moves(name) or (written and id(tensor) in statistics) for name, tensor in places.own.items()
        }
        self.bytes_each = sum(
            tensor.numel() * tensor.element_size() for name, tensor in places.own.items() if self._stacked[name]
        )
        self._stacks: dict[str, Tensor] = {}

    def at(self, chunk: range, splits: Mapping[str, Split], statistics: Split) -> list[dict[str, dict[str, float]]]:
        """By split and name, the means at each of these points."""
        module = self._measured.module
        state = self._state(chunk)
        if self._mode == "recomputed":
            self._recompute(state, statistics)
        with batch_statistics(module) if self._mode == "batch" else nullcontext():
            found = {name: means(lambda batch: self._run(state, batch), split) for name, split in splits.items()}
        return [
            {split: {name: float(value[i]) for name, value in by_name.items()} for split, by_name in found.items()}
            for i in range(len(chunk))
        ]

    def _state(self, chunk: range) -> dict[str, Tensor]:
        """The tensors at these points, along a new first axis where they differ; memory is used again."""
        state = {}
        for name, own in self._places.own.items():
            if not self._stacked[name]:
                state[_PREFIX + name] = torch.empty_like(own.detach())
                self._places.write(chunk[0], name, state[_PREFIX + name])
                continue
            if name not in self._stacks:
                self._stacks[name] = own.detach().new_empty((len(chunk), *own.shape))
            stack = self._stacks[name][: len(chunk)]
            self._places.write_all(chunk, name, stack)
            state[_PREFIX + name] = stack
        return state

    def _run(self, state: dict[str, Tensor], batch: Any) -> dict[str, Tensor]:
        dims = {name: 0 if self._stacked[name[len(_PREFIX) :]] else None for name in state}

        def at_one(one: dict[str, Tensor]) -> dict[str, Tensor]:
            return named_means(functional_call(self._measured, one, (batch,)))

        # A Ctrl-C inside vmap's own end would leave torch in it for good: from then on it would refuse random numbers.
        found: dict[str, Tensor] = uninterrupted(lambda: vmap(at_one, in_dims=(dims,), randomness="error")(state))
        return found

    def _recompute(self, state: dict[str, Tensor], statistics: Split) -> None:
        """Running statistics at each point: the plain mean of those of the batches, as in `recomputed_statistics`."""
        own = self._places.own
        for layer in self._layers:
            for buffer, fresh in ((layer.running_mean, 0), (layer.running_var, 1), (layer.num_batches_tracked, 0)):
                for name in [name for name, tensor in own.items() if tensor is buffer]:
                    state[_PREFIX + name].fill_(fresh)
        with batch_statistics(self._measured.module), _plain_means(self._layers):
            for batch in statistics.batches:
                self._run(state, batch)


class _Measured(nn.Module):
    """A measurement as a module, so that `functional_call` reaches all of the network inside it."""

    def __init__(self, module: nn.Module, measure: Measure) -> None:
        super().__init__()
        self.module = module
        self._measure = measure

    def forward(self, batch: Any) -> Any:
        return self._measure(self.module, batch)


@uninterrupted_exit
def _plain_means(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Let the momentum of the n-th call be 1/n: with None a layer would ask how many there were, which vmap forbids."""
    momenta = [layer.momentum for layer in layers]
    calls = dict.fromkeys(layers, 0)

    def count(layer: nn.Module, _: object) -> None:
        assert isinstance(layer, _BatchNorm)
        calls[layer] += 1
        layer.momentum = 1 / calls[layer]

    hooks = [layer.register_forward_pre_hook(count) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@uninterrupted_exit
def largest_output(module: nn.Module) -> Iterator[dict[str, int]]:
    """The bytes of the largest tensor that a part of the module gives inside the block."""
    largest: dict[str, int] = {}

    def note(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            largest["bytes"] = max(largest.get("bytes", 0), output.numel() * output.element_size())

    hooks = [part.register_forward_hook(note) for part in module.modules()]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()
