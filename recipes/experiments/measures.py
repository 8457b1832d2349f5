"""What experiments measure of finished runs, each in its own terms; all of it can be written as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lightning_gap import weight_distance
from lightning_gap.functional import (
    BatchNormMode,
    DatasetLoss,
    UndefinedCurvatureError,
    UndefinedSharpnessError,
    epsilon_name,
    hessian_eigenvalues,
    line_points,
    sharp_share,
    sharpness,
    sharpness_profile,
    subspace_sharpness,
)

from ..evaluation import Batch, as_the_weights_are, at_points, evaluate, evaluated_with, mean_loss, sharpness_in_percent
from ..recipe import Recipe
from ..runner.run_store import TrainedRun

EPSILONS = (1e-3, 5e-4)
MODES: tuple[BatchNormMode, ...] = ("batch", "running")  # the authors' networks always have the statistics of a batch


def full_sharpness(run: TrainedRun, *, method: Any, max_iterations: int = 10) -> dict[str, dict[str, float]]:
    """Metric 2.1 in the full space by BatchNorm mode and epsilon, in percent.

    Args:
        run: The run; its recipe's ``sharpness_samples`` in chunks of ``evaluation_chunk``.
        method: Maximiser.
        max_iterations: Of L-BFGS-B.
    """
    recipe = run.recipe()
    search = {"method": method, "max_iterations": max_iterations}
    return {mode: sharpness_in_percent(recipe, _samples(run, recipe), EPSILONS, mode, **search) for mode in MODES}


def random_subspace_sharpness(run: TrainedRun, *, method: Any, draws: int = 5) -> dict[str, dict[str, float]]:
    """The same in random subspaces of 100 dimensions, entries of unit variance: mean over draws."""
    recipe = run.recipe()

    def of(mode: BatchNormMode) -> dict[str, float]:
        loss, weights = _loss(run, recipe, mode), list(recipe.parameters())
        try:
            found = [subspace_sharpness(loss, weights, epsilon=e, draws=draws, method=method) for e in EPSILONS]
        except UndefinedSharpnessError:  # of a run that has diverged
            return {epsilon_name(e): math.nan for e in EPSILONS}
        return {epsilon_name(e): each.percent for e, each in zip(EPSILONS, found, strict=True)}

    return {mode: of(mode) for mode in MODES}


def other_sharpness(run: TrainedRun) -> dict[str, float]:
    """Two measures beside Metric 2.1, NaN of a run that has diverged.

    "adaptive": the rise in a box relative to the weights' size alone, at 1e-2, which rescaling does not change, in
    percent, BatchNorm by the statistics of each chunk; "eigenvalue": the Hessian's largest, running statistics.
    """
    recipe = run.recipe()
    weights = list(recipe.parameters())
    try:
        adaptive = sharpness(_loss(run, recipe, "batch"), weights, epsilon=1e-2, relative=True).percent
        largest = hessian_eigenvalues(_loss(run, recipe, "running"), weights, tolerance=0.01, ends="largest").largest
    except (UndefinedSharpnessError, UndefinedCurvatureError):
        return {"adaptive": math.nan, "eigenvalue": math.nan}
    return {"adaptive": adaptive, "eigenvalue": largest}


def share_of_sharp_directions(run: TrainedRun) -> dict[str, float]:
    """Mean and highest rise of the loss at the distance of the corners of Metric 2.1's box at 1e-3, and their ratio."""
    recipe = run.recipe()
    weights = list(recipe.parameters())
    radius = 1e-3 * math.sqrt(sum(float((w.detach().abs() + 1).square().sum()) for w in weights))
    try:
        found = sharp_share(_loss(run, recipe, "batch"), weights, radius=radius)
    except UndefinedSharpnessError:
        return dict.fromkeys(("share", "average_rise", "worst_rise", "weights"), math.nan)
    return {
        "share": found.share,
        "average_rise": found.average_rise,
        "worst_rise": found.worst_rise,
        "weights": found.weights,
    }


def by_epoch(run: TrainedRun, *, epochs: Sequence[int], most: int = 10_000) -> list[dict[str, float]]:
    """Loss and accuracy of both splits after epochs that were kept, BatchNorm as the recipe evaluates it.

    Args:
        run: The run.
        epochs: Kept ones.
        most: Most samples of each split.
    """
    rows = []
    for epoch in epochs:
        recipe = run.recipe(epoch)
        data, chunk = run.data(recipe), recipe.evaluation_chunk
        with evaluated_with(recipe.batch_norm, recipe, lambda: data.evaluation("train", chunk)):  # noqa: B023
            train = evaluate(recipe, data.evaluation("train", chunk, most))
            test = evaluate(recipe, data.evaluation("test", chunk, most))
        rows.append(
            {
                "epoch": epoch,
                "step": run.step(epoch),
                "train_loss": train[0],
                "train_accuracy": 100 * train[1],
                "test_loss": test[0],
                "test_accuracy": 100 * test[1],
            }
        )
    return rows


def sharpness_by_epoch(run: TrainedRun, *, epochs: Sequence[int], batch_norm: BatchNormMode) -> list[dict[str, float]]:
    """Cross-entropy and sharpness by corner ascent, on the same samples, after epochs that were kept."""
    rows = []
    for epoch in epochs:
        recipe = run.recipe(epoch)
        loss = _loss(run, recipe, batch_norm)
        row: dict[str, float] = {"epoch": epoch, "step": run.step(epoch)}
        try:
            found = sharpness_profile(loss, list(recipe.parameters()), EPSILONS)
        except UndefinedSharpnessError:
            rows.append(row | {"loss": math.nan} | {epsilon_name(e): math.nan for e in EPSILONS})
            continue
        rows.append(row | {"loss": found[0].loss} | {epsilon_name(s.epsilon): s.percent for s in found})
    return rows


def distance_by_epoch(run: TrainedRun, *, epochs: Sequence[int]) -> list[dict[str, float]]:
    """Euclidean distance of the weights from the initial ones after epochs that were kept; epoch 0 must be kept."""
    initial = list(run.recipe(0).parameters())
    return [
        {
            "epoch": epoch,
            "step": run.step(epoch),
            "distance": weight_distance(run.recipe(epoch).parameters(), initial),
        }
        for epoch in epochs
    ]


def along_a_path(
    one: TrainedRun, other: TrainedRun, *, path: Any, alphas: Sequence[float]
) -> dict[str, dict[str, list[float]]]:
    """Loss and accuracy of both splits between two solutions, BatchNorm by the statistics of each chunk.

    Args:
        one: At alpha 0.
        other: At alpha 1.
        path: As `line_points` has it.
        alphas: Where.
    """
    recipe = one.recipe()
    return at_points(recipe, one.data(recipe), line_points(one.state(), other.state(), alphas, path=path))


def _samples(run: TrainedRun, recipe: Recipe) -> list[Batch]:
    """Those that sharpness is measured on, in chunks."""
    chunks = run.data(recipe).evaluation("train", recipe.evaluation_chunk, recipe.sharpness_samples)
    return list(as_the_weights_are(recipe, chunks))


def _loss(run: TrainedRun, recipe: Recipe, mode: BatchNormMode) -> DatasetLoss:
    return DatasetLoss(recipe, mean_loss, _samples(run, recipe), batch_norm=mode)
