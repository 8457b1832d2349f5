"""Try a recipe on two samples of the data before anything is trained or written."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .recipe import Batch, Recipe


def check_network(build: Callable[[], Recipe], batch: Batch, *, classes: int) -> None:
    """Build it and take one step's forward and backward pass, on no device.

    On no device this costs nothing; what then fails is tried for real, for a network may read its values.

    Args:
        build: Builds the recipe where `torch.device` says.
        batch: Inputs (n, ...) and targets (n,) of the data.
        classes: Of the data.

    Raises:
        ValueError: If it cannot be built, takes no such inputs, gives no scores (n, classes), or none of its weights
            is trained; says which.
    """
    inputs, targets = batch
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            recipe = built(build)
        try:
            _step(recipe, inputs.to("meta"), targets.to("meta"), classes)
        except Exception:  # perhaps for want of a device
            _step(built(build), inputs, targets, classes)


def built(build: Callable[[], Recipe]) -> Recipe:
    """The recipe; what its constructor refuses is told as it is, what fails inside with its kind.

    Raises:
        ValueError: If it cannot be built.
    """
    try:
        return build()
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"it cannot be built: {_text(error)}") from error


def _step(recipe: Recipe, inputs: Tensor, targets: Tensor, classes: int) -> None:
    shape = tuple(inputs.shape)
    if not any(weight.requires_grad for weight in recipe.parameters()):
        raise ValueError("its network has no weights to train")
    try:
        scores = recipe.train()(inputs)
    except Exception as error:
        raise ValueError(f"its network does not take inputs of shape {shape}: {_text(error)}") from error
    if not isinstance(scores, Tensor):
        raise ValueError(f"its network must give class scores, a tensor, got a {type(scores).__name__}")
    if tuple(scores.shape) != (len(inputs), classes):
        raise ValueError(
            f"its network must give scores of shape {(len(inputs), classes)}, one for each of {classes} classes, for "
            f"inputs of shape {shape}, got {tuple(scores.shape)}; does it have --classes {classes}?"
        )
    if not scores.is_floating_point() or not scores.requires_grad:
        raise ValueError(f"its scores must depend on weights that are trained, got {scores.dtype} without a gradient")
    try:
        cross_entropy(scores, targets).backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ValueError(f"its backward pass fails: {_text(error)}") from error


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
