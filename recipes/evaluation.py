"""What a recipe is measured by: while it trains, when it is trained, and on the line between two that are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gap import GeneralizationGapMonitor, SharpnessMonitor, WeightDistanceMonitor, weight_distance
from lightning_gap.functional import (
    BatchNormMode,
    DatasetLoss,
    UndefinedSharpnessError,
    WeightPoints,
    batch_statistics,
    epsilon_name,
    evaluate_points,
    recomputed_statistics,
    sharpness_profile,
)

from .datasets import ClassificationData
from .recipe import Recipe

Batch = tuple[Tensor, Tensor]


def monitors(recipe: Recipe, epsilon: tuple[float, ...], every_n_epochs: int) -> list[Callback]:
    """What is measured while a recipe trains: sharpness, distance from the initial weights, and the gap."""
    samples = min(768, recipe.sharpness_samples)
    found: list[Callback] = [
        SharpnessMonitor(epsilon, every_n_epochs=every_n_epochs, samples=samples, max_time_share=None),
        WeightDistanceMonitor(every_n_epochs=every_n_epochs),
    ]
    if recipe.validation_size:
        found.append(GeneralizationGapMonitor(every_n_epochs=every_n_epochs, max_time_share=None))
    return found


def measure(
    recipe: Recipe, data: ClassificationData[Any], initial: Iterable[Tensor], epsilon: tuple[float, ...]
) -> dict[str, Any]:
    """What a trained recipe's weights come to, by the names of `RunResult`.

    Args:
        recipe: Where its weights are, `ready_to_measure`.
        data: Its data.
        initial: The parameters that it was trained from.
        epsilon: Half-widths of the sharpness box.
    """
    chunk, device = recipe.evaluation_chunk, next(recipe.parameters()).device
    with evaluated_with(recipe.batch_norm, recipe, lambda: data.evaluation("train", chunk)):
        train_loss, train_accuracy = evaluate(recipe, data.evaluation("train", chunk))
        test_loss, test_accuracy = evaluate(recipe, data.evaluation("test", chunk))
    batches = list(as_the_weights_are(recipe, data.evaluation("train", chunk, recipe.sharpness_samples)))
    return {
        "train_loss": train_loss,
        "train_accuracy": train_accuracy,
        "test_loss": test_loss,
        "test_accuracy": test_accuracy,
        "sharpness": sharpness_in_percent(recipe, batches, epsilon, "running"),
        "sharpness_batch": sharpness_in_percent(recipe, batches, epsilon, "batch"),
        "distance": weight_distance(recipe.parameters(), [start.to(device) for start in initial]),
    }


def at_points(recipe: Recipe, data: ClassificationData[Any], points: WeightPoints) -> dict[str, dict[str, list[float]]]:
    """Loss and accuracy of both splits at points of weight space, BatchNorm by the statistics of each chunk.

    Args:
        recipe: `ready_to_measure`; it keeps its weights.
        data: Its data, of which each split gives ``recipe.sharpness_samples`` at most.
        points: Where.
    """
    chunk, most = recipe.evaluation_chunk, recipe.sharpness_samples
    splits = {name: list(as_the_weights_are(recipe, data.evaluation(name, chunk, most))) for name in ("train", "test")}
    found = evaluate_points(recipe.network, points, _loss_and_accuracy, splits, batch_norm="batch")
    return {split: dict(values) for split, values in found.values.items()}


def _loss_and_accuracy(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    scores = network(batch[0])
    right = (scores.argmax(dim=1) == batch[1]).to(scores).mean()
    return {"loss": cross_entropy(scores, batch[1]), "accuracy": right}


def evaluate(network: nn.Module, batches: Iterable[Batch]) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over all targets, in the mode the network is in, where its weights are."""
    loss, correct, samples = 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in as_the_weights_are(network, batches):
            scores = network(inputs)
            loss += float(cross_entropy(scores, targets, reduction="sum"))
            correct += int((scores.argmax(dim=1) == targets).sum())
            samples += targets.numel()
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


def mean_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Mean cross-entropy of a batch."""
    return cross_entropy(network(batch[0]), batch[1])


def sharpness_in_percent(
    network: nn.Module, batches: list[Batch], epsilon: tuple[float, ...], batch_norm: BatchNormMode, **search: Any
) -> dict[str, float]:
    """Metric 2.1 in the full space by the name of each epsilon; NaN where a run has diverged.

    Args:
        network: The network.
        batches: To measure on.
        epsilon: Half-widths of the box.
        batch_norm: Statistics of BatchNorm.
        search: Further arguments of `sharpness_profile`.
    """
    loss = DatasetLoss(network, mean_loss, batches, batch_norm=batch_norm)
    try:
        results = sharpness_profile(loss, network.parameters(), epsilon, **search)
    except UndefinedSharpnessError:
        return {epsilon_name(e): math.nan for e in epsilon}
    return {epsilon_name(r.epsilon): r.percent for r in results}


def ready_to_measure(network: nn.Module, device: torch.device) -> None:
    """On the device, in evaluation mode, and no less precise than float32."""
    exact = all(weight.dtype == torch.float64 for weight in network.parameters())
    network.to(device, torch.float64 if exact else torch.float32).eval()


def as_the_weights_are(network: nn.Module, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches on the device of a network's weights, and as precise; whole numbers stay what they are."""
    weight = next(network.parameters())
    for inputs, targets in batches:
        precise = weight.dtype if inputs.is_floating_point() else inputs.dtype
        yield inputs.to(weight.device, precise), targets.to(weight.device)
