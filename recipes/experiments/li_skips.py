"""Li et al. (2018), Figure 5: depth roughens the loss landscape where there are no skip connections.

Residual networks of three depths on CIFAR-10, with their skip connections and without; the loss on the plane of two
filter-normalised random directions through each solution.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from torch import Tensor
from torch.nn.functional import relu
from torchvision.models.resnet import BasicBlock

from lightning_gap.functional import evaluate_points, filter_normalized_direction, surface_points
from lightning_gap.logging import surface_figure

from ..evaluation import as_the_weights_are, mean_loss
from ..networks import ResNet44
from ..recipe import Recipe
from ..regimes import small
from ..reports.parts import Chart, Numbers, Part, Table
from ..runner.measurement import Measurement
from ..runner.run_store import RunSpec, TrainedRun
from .experiment import Experiment, Findings
from .scales import Choice

STEPS = {"tiny": 5, "small": 17, "paper": 51}  # of the grid, each way
BLOCKS = {"tiny": (1,), "small": (1, 3, 9), "paper": (3, 9, 18)}  # of each stage: 6 blocks + 2 layers
_SMALL = {"width": 8, "epochs": 20, "validation_size": 40_000}
CHANGED: dict[str, dict[str, Any]] = {
    "tiny": {"width": 4, "epochs": 1, "validation_size": 49_000, "sharpness_samples": 100},
    "small": _SMALL,
    "paper": {"width": 16, "epochs": 300},
}


class _WithoutSkip(BasicBlock):
    """A basic block that does not add its input."""

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.bn2(self.conv2(relu(self.bn1(self.conv1(x)))))
        return relu(scores)


class SkipNet(Recipe):
    """A residual network in He et al.'s layout, or the same without skip connections."""

    regimes: ClassVar = {"small": small}
    data_sets: ClassVar = {"cifar10": {}}

    def __init__(
        self,
        regime: str = "small",
        *,
        epochs: int = 20,
        small_batch_size: int = 128,
        large_batch_size: int = 1000,
        optimizer: str = "sgd",
        learning_rate: float = 0.05,
        momentum: float | None = 0.9,
        weight_decay: float = 5e-4,
        standardise: bool = True,
        validation_size: int = 0,
        evaluation_chunk: int = 1000,
        sharpness_samples: int = 1000,
        width: int = 16,
        blocks: int = 3,
        skips: bool = True,
    ) -> None:
        network = ResNet44(10, width=width, blocks=blocks)
        if not skips:
            for block in [module for module in network.modules() if isinstance(module, BasicBlock)]:
                block.__class__, block.downsample = _WithoutSkip, None
        super().__init__(network, regime)


def surface(run: TrainedRun, *, steps: int) -> dict[str, Any]:
    """Training loss on a square grid from -1 to 1 in two filter-normalised directions, running statistics.

    Args:
        run: The run; its ``sharpness_samples``.
        steps: Of the grid, an odd number.
    """
    recipe = run.recipe()
    samples = run.data(recipe).evaluation("train", recipe.evaluation_chunk, recipe.sharpness_samples)
    at = [-1 + 2 * i / (steps - 1) for i in range(steps)]
    directions = [filter_normalized_direction(recipe.network, seed=seed) for seed in (0, 1)]
    points = surface_points(recipe.network.state_dict(), directions, [at, at])
    found = evaluate_points(
        recipe.network, points, mean_loss, {"train": list(as_the_weights_are(recipe, samples))}, batch_norm="running"
    )
    losses = found.values["train"]["loss"]
    return {"at": at, "losses": [losses[i * steps : (i + 1) * steps] for i in range(steps)]}


def rise_at(found: dict[str, Any], radius: float) -> float:
    """Mean loss on the ring at this distance from the solution, above that at the solution; a grid step wide."""
    at, losses = found["at"], found["losses"]
    step, middle = at[1] - at[0], len(at) // 2
    ring = [
        losses[i][j]
        for i in range(len(at))
        for j in range(len(at))
        if abs(math.hypot(at[i], at[j]) - radius) <= step / 2
    ]
    return statistics.fmean(ring) - float(losses[middle][middle])


def minima(found: dict[str, Any]) -> int:
    """Grid points inside that are lower than all their eight neighbours."""
    losses, inside = found["losses"], range(1, len(found["at"]) - 1)
    beside = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    return sum(all(losses[i][j] < losses[i + a][j + b] for a, b in beside) for i in inside for j in inside)


def asked(choice: Choice, blocks: int, seed: int, *, skips: bool) -> Measurement:
    """Of one network."""
    changed = {**CHANGED[choice.scale], "blocks": blocks, "skips": skips}
    run = RunSpec(SkipNet, "small", "cifar10", seed, changed, {"check_val_every_n_epoch": changed["epochs"]})
    return Measurement("surface", (run,), surface, {"steps": STEPS[choice.scale]}, cost=10)


def needs(choice: Choice) -> Iterator[Measurement]:
    for seed in choice.seeds_or(2):
        for blocks in BLOCKS[choice.scale]:
            for skips in (True, False):
                yield asked(choice, blocks, seed, skips=skips)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    rows = list[Sequence[str | Numbers]]()
    for blocks in BLOCKS[choice.scale]:
        for skips in (True, False):
            name = f"{6 * blocks + 2} layers, {'with' if skips else 'without'} skips"
            measured = [asked(choice, blocks, seed, skips=skips) for seed in choice.seeds_or(2)]
            surfaces = [found[each] for each in measured]
            runs = [found[each.of[0]] for each in measured]
            rows.append(
                (
                    name,
                    Numbers(tuple(100 * run.test_accuracy for run in runs)),
                    Numbers(tuple(run.train_loss for run in runs), 3),
                    *(Numbers(tuple(rise_at(own, radius) for own in surfaces)) for radius in (0.25, 0.5, 1.0)),
                    Numbers(tuple(float(minima(own)) for own in surfaces), 1),
                )
            )
            first = surfaces[0]
            yield Chart(
                name,
                surface_figure(
                    (first["at"], first["at"]),
                    first["losses"],
                    labels=("first direction", "second direction"),
                    title=name,
                ),
                "Contour lines of the training loss around the solution.",
                f"Seed {choice.seeds_or(2)[0]}.",
            )
    head = ["network", "test accuracy %", "training loss", "mean rise at 0.25", "at 0.5", "at 1", "minima on the grid"]
    note = "Rises of the training loss on rings around the solution, in units of the filters' norms."
    yield Table("Depth and skip connections", head, rows, note)


EXPERIMENT = Experiment(
    "Li et al. (2018), Figure 5: depth and skip connections in the landscape",
    (),
    needs,
    show,
    {
        "directions": "two random ones, filter-normalised, biases and BatchNorm's weights not moved",
        "BatchNorm": "running statistics of the solution, as in the authors' code",
    },
)
