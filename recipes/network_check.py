"""Try a recipe's network on two samples of the data before anything is trained or written."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


def check_network(build: Callable[[], nn.Module], batch: tuple[Tensor, Tensor], *, classes: int) -> nn.Module:
    """Build it, take one step's forward and backward pass, and give it back, on no device.

    On no device this costs nothing; what then fails is tried for real, for a network may read its values.

    Args:
        build: Builds the network where `torch.device` says.
        batch: Inputs (n, ...) and targets (n,) of the data.
        classes: Of the data.

    Raises:
        ValueError: If it cannot be built, takes no such inputs, gives no scores (n, classes), or none of its weights
            is trained; says which.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                network = _built(build)
        except Exception as error:
            raise ValueError(f"cannot be built: {_told(error)}") from error
        inputs, targets = batch
        try:
            _step(network, inputs.to("meta"), targets.to("meta"), classes)
        except Exception:  # perhaps for want of a device
            _step(_built(build), inputs, targets, classes)
        return network


def _built(build: Callable[[], nn.Module]) -> nn.Module:
    network = build()
    if not isinstance(network, nn.Module):
        raise TypeError(f"it must be a torch.nn.Module, got {network!r}")
    return network


def _step(network: nn.Module, inputs: Tensor, targets: Tensor, classes: int) -> None:
    shape = tuple(inputs.shape)
    if not any(weight.requires_grad for weight in network.parameters()):
        raise ValueError("it has no weights to train")
    try:
        scores = network.train()(inputs)
    except Exception as error:
        raise ValueError(f"it does not take inputs of shape {shape}: {_told(error)}") from error
    if not isinstance(scores, Tensor):
        raise ValueError(f"it must give class scores, a tensor, got a {type(scores).__name__}")
    if tuple(scores.shape) != (len(inputs), classes):
        raise ValueError(
            f"it must give scores of shape {(len(inputs), classes)}, one for each of {classes} classes, for inputs of "
            f"shape {shape}, got {tuple(scores.shape)}"
        )
    if not scores.is_floating_point() or not scores.requires_grad:
        raise ValueError(f"its scores must depend on weights that are trained, got {scores.dtype} without a gradient")
    try:
        cross_entropy(scores, targets).backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ValueError(f"its backward pass fails: {_told(error)}") from error
    network.zero_grad()


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
