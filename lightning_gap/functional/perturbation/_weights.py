"""Weights and what belongs to them, checked against each other, measured together, and put back to the last bit."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from .._loss_surface import _refuse_reentrant_checkpoints
from .._uninterrupted import uninterrupted_exit
from .._validation import each, function, instance

T = TypeVar("T")


def checked_weights(weights: Iterable[Tensor]) -> list[Tensor]:
    """The weights as a list, or the error that says which of them cannot be perturbed.

    Raises:
        ValueError: If there is none, or one is not floating point, or is sharded or lazy.
    """
    listed = checked_tensors("weights", weights)
    for i, weight in enumerate(listed):
        if is_lazy(weight):
            raise ValueError(f"weights[{i}] is lazy and has no value yet; run one batch through the model first")
        if hasattr(weight, "device_mesh"):
            raise ValueError(f"weights[{i}] is sharded over processes; pass weights that each process holds whole")
        if not weight.is_floating_point():
            raise ValueError(f"weights[{i}] is {weight.dtype}; pass floating-point weights only")
    if not listed:
        raise ValueError("weights is empty; pass the model's trainable parameters, for instance")
    return listed


def checked_gradients(gradients: Iterable[Tensor | None], weights: Sequence[Tensor]) -> list[Tensor | None]:
    """One gradient for each weight, in its shape and without a graph; None stays None.

    Raises:
        ValueError: If they do not pair up with the weights, or one is sparse.
    """
    listed = each("gradients", _several("gradients", gradients), _tensor_or_none)
    _check_shapes("gradients", listed, weights)
    for i, gradient in enumerate(listed):
        if gradient is not None and gradient.layout != torch.strided:
            raise ValueError(f"gradients[{i}] is sparse; make the embedding that it is of with sparse=False")
    return [None if gradient is None else gradient.detach() for gradient in listed]


def matched(name: str, values: Iterable[Tensor], weights: Sequence[Tensor]) -> list[Tensor]:
    """One tensor for each weight, in its shape and without a graph.

    Raises:
        ValueError: If they do not pair up with the weights.
    """
    listed = checked_tensors(name, values)
    _check_shapes(name, listed, weights)
    return [value.detach() for value in listed]


def checked_tensors(name: str, values: Iterable[Tensor]) -> list[Tensor]:
    """The tensors of an argument, as a list."""
    return each(name, _several(name, values), lambda name, value: instance(name, value, Tensor))


def loss_and_gradients(loss_fn: Callable[[], Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor | None]]:
    """The loss, detached, and its gradients; None for weights that are frozen or unused. ``.grad`` is not touched."""
    loss = checked_loss(loss_fn)
    gradients = differentiated(loss, weights)
    return loss.detach(), gradients


def checked_loss(loss_fn: Callable[[], Tensor]) -> Tensor:
    """What ``loss_fn`` returns, if that can be differentiated."""
    loss = function("loss_fn", loss_fn, "no arguments")()
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"loss_fn must return a scalar tensor, got {got}")
    if not loss.requires_grad:
        raise ValueError(
            "loss_fn returned a loss without a graph; compute it with gradients enabled, and detach nothing"
        )
    _refuse_reentrant_checkpoints(loss)
    return loss


def differentiated(value: Tensor, weights: Sequence[Tensor], *, create_graph: bool = False) -> list[Tensor | None]:
    """Gradients of a scalar; None for weights that are frozen or that it does not use."""
    trained = [weight for weight in weights if weight.requires_grad]
    if not trained:
        raise ValueError("weights are all frozen; pass at least one that requires grad")
    slopes = torch.autograd.grad(value, trained, create_graph=create_graph, allow_unused=True)
    if all(slope is None for slope in slopes):
        raise ValueError("weights play no part in the loss; pass those of the model that it evaluates")
    ordered = iter(slopes)
    return [next(ordered) if weight.requires_grad else None for weight in weights]


def global_norm(tensors: Iterable[Tensor], order: float = 2.0) -> Tensor:
    """Norm over the entries of all tensors together, as a tensor without axes on the device of the first.

    Squares are summed in float64, in float32 where the device has no float64. NaN if an entry is NaN.
    """
    norms = [
        torch.linalg.vector_norm(tensor.detach(), order, dtype=_wide(tensor)) for tensor in tensors if tensor.numel()
    ]
    if not norms:
        return torch.zeros(())
    whole: Tensor = torch.linalg.vector_norm(torch.stack([norm.to(norms[0]) for norm in norms]), order)
    return whole


@uninterrupted_exit
def unchanged(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Put the values of the tensors back after the block, bit for bit, in the storage that they are in."""
    originals = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    finally:
        write(tensors, originals)


class BeforeSteps:
    """Weights and their optimizer as they are now, to go back to after steps that have failed halfway.

    It holds one more copy of the weights, and one of the optimizer's state.

    Attributes:
        values: The copies of the weights.
    """

    def __init__(self, weights: Sequence[Tensor], optimizer: Optimizer) -> None:
        self.values = [weight.detach().clone() for weight in weights]
        self._weights, self._optimizer = list(weights), optimizer
        self._state = _copied(dict(optimizer.state))
        self._settings = [
            _copied({name: value for name, value in group.items() if name != "params"})
            for group in optimizer.param_groups
        ]

    def put_back(self) -> None:
        """Let weights and optimizer be as they were, bit for bit; once."""
        write(self._weights, self.values)
        self._optimizer.state.clear()
        self._optimizer.state.update(self._state)
        for group, settings in zip(self._optimizer.param_groups, self._settings, strict=True):
            group.update(settings)  # some optimizers count their steps there


@uninterrupted_exit
def back_on_error(before: BeforeSteps) -> Iterator[None]:
    """Put weights and optimizer back where the block fails, or is interrupted; Ctrl-C waits until that is done."""
    try:
        yield
    except BaseException:
        before.put_back()
        raise


def _copied(value: Any) -> Any:
    """A deep copy whose keys, weights among them, are the same objects."""
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def write(tensors: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    """Set the tensors to the values.

    Through an alias and not under `torch.no_grad`: a signal could come between its two halves.
    """
    for tensor, value in zip(tensors, values, strict=True):
        tensor.detach().copy_(value)
    torch.clear_autocast_cache()  # a loss under autocast would go on with casts of the weights from before


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _several(name: str, values: T) -> T:
    if isinstance(values, Tensor):  # a series too, of its rows
        raise ValueError(f"{name} must be a list or tuple of tensors, got a tensor; put it in a list")
    return values


def _tensor_or_none(name: str, value: object) -> Tensor | None:
    return None if value is None else instance(name, value, Tensor)


def _check_shapes(name: str, values: Sequence[Tensor | None], weights: Sequence[Tensor]) -> None:
    if len(values) != len(weights):
        raise ValueError(f"{name} must be as many as weights, {len(weights)}, got {len(values)}")
    for i, (value, weight) in enumerate(zip(values, weights, strict=True)):
        if value is not None and value.shape != weight.shape:
            raise ValueError(
                f"{name}[{i}] must have the shape of weights[{i}], {tuple(weight.shape)}, got {tuple(value.shape)}"
            )
