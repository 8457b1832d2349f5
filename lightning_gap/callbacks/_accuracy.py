"""The accuracy of a module on a batch, where it is proven that it classifies and what its scores are."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.nn.functional import cross_entropy, nll_loss

from ..trainer.state import is_of


@torch.no_grad()
def proven_accuracy(module: LightningModule, batch: Any, loss: float) -> float | None:
    """Share of the batch whose largest score is that of its class; ``None`` where nothing proves what the scores are.

    An integer beside an input may be a label that the model never predicts, and a matrix of outputs an embedding. It is
    proven where the loss of the batch is the cross-entropy of what `forward` gives, or its negative log-likelihood.

    Args:
        module: In evaluation mode.
        batch: A pair of inputs and integer targets (N,), as `training_step` takes it.
        loss: The module's mean loss on this batch.
    """
    if not (isinstance(batch, list | tuple) and len(batch) == 2 and all(isinstance(part, Tensor) for part in batch)):
        return None
    inputs, targets = batch
    integer = not (targets.is_floating_point() or targets.is_complex() or targets.dtype == torch.bool)
    if targets.ndim != 1 or not integer or len(targets) == 0 or not _takes_inputs_alone(module):
        return None
    try:
        scores: Any = module(inputs)
    except Exception:  # a `forward` of something else: a decoder, say
        return None
    if not isinstance(scores, Tensor) or scores.ndim != 2 or len(scores) != len(targets) or scores.shape[1] < 2:
        return None
    if not scores.is_floating_point() or int(targets.min()) < 0 or int(targets.max()) >= scores.shape[1]:
        return None
    if not _is_loss_of(scores.double(), targets.long(), loss):
        return None
    return float((scores.argmax(dim=1) == targets).float().mean())


def _is_loss_of(scores: Tensor, targets: Tensor, loss: float) -> bool:
    """Whether the loss is that of a classifier with these scores, to rounding."""
    losses = [float(function(scores, targets)) for function in (cross_entropy, nll_loss)]
    return any(math.isclose(loss, other, rel_tol=1e-4, abs_tol=1e-5) for other in losses)


def _takes_inputs_alone(module: LightningModule) -> bool:
    """Whether the module has a `forward` of its own that can be called with one argument."""
    forward = getattr(module.forward, "__func__", module.forward)
    if is_of(forward, ("torch", "lightning", "pytorch_lightning")):  # that only says there is none
        return False
    try:
        inspect.signature(module.forward).bind(None)
    except TypeError:
        return False
    return True
