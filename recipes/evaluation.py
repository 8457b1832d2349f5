"""What a trained recipe is measured by: loss and accuracy of a split, and sharpness."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gap.functional import (
    BatchNormMode,
    DatasetLoss,
    UndefinedSharpnessError,
    batch_statistics,
    epsilon_name,
    recomputed_statistics,
    sharpness_profile,
)

Batch = tuple[Tensor, Tensor]


def evaluate(network: nn.Module, batches: Iterable[Batch]) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over ``batches``, in the mode the network is in, where its weights are."""
    loss, correct, samples = 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in as_the_weights_are(network, batches):
            scores = network(inputs)
            loss += float(cross_entropy(scores, targets, reduction="sum"))
            correct += int((scores.argmax(dim=1) == targets).sum())
            samples += len(targets)
    return loss / samples, correct / samples


def evaluated_with(
    mode: BatchNormMode, network: nn.Module, training: Callable[[], Iterable[Batch]]
) -> AbstractContextManager[None]:
    """Let BatchNorm normalise by running statistics, by those of each batch, or by those of all training samples."""
    if mode == "running":
        return nullcontext()
    if mode == "batch":
        return batch_statistics(network)
    return recomputed_statistics(network, lambda: evaluate(network, training()))


def sharpness_in_percent(
    network: nn.Module, batches: list[Batch], epsilon: tuple[float, ...], batch_norm: BatchNormMode
) -> dict[str, float]:
    """Metric 2.1 in the full space by the name of each epsilon; NaN where a run has diverged."""

    def mean_loss(network: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(network(batch[0]), batch[1])

    loss = DatasetLoss(network, mean_loss, batches, batch_norm=batch_norm)
    try:
        results = sharpness_profile(loss, network.parameters(), epsilon)
    except UndefinedSharpnessError:
        return {epsilon_name(e): math.nan for e in epsilon}
    return {epsilon_name(r.epsilon): r.percent for r in results}


def ready_to_measure(network: nn.Module, device: torch.device) -> None:
    """On the device, in evaluation mode, and no less precise than float32."""
    exact = all(weight.dtype == torch.float64 for weight in network.parameters())
    network.to(device, torch.float64 if exact else torch.float32).eval()


def as_the_weights_are(network: nn.Module, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches on the device of a network's weights, and as precise."""
    weight = next(network.parameters())
    for inputs, targets in batches:
        yield inputs.to(weight.device, weight.dtype), targets.to(weight.device)
