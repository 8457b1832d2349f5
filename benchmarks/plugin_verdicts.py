"""Train one way to sharpness-aware training on one case, and say what is wrong with what comes out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from measuring import PLAIN
from plugin_cells import BATCH, EPOCHS, GHOST, STEPS, Batch, Cell
from plugin_columns import Column
from plugin_loops import Adaptive, Departure, Loop, distance
from torch import Tensor

from lightning_gap import GhostBatchNormSwap

TOLERANCE = {"float64": 1e-6, "bf16-mixed": 1e-2, "16-mixed": 1e-2}
FOLDER = "PEERS_FOLDER"  # the variable that says where checkpoints are, the same for all processes


@dataclass(frozen=True)
class Verdict:
    """What a fit has come to, beside the right loop.

    Attributes:
        error: Its first line, where the fit has ended by one.
        weights: What is wrong with them, "" where nothing is.
        statistics: What is wrong with BatchNorm's running mean and variance.
        steps: `global_step` at the end.
        distance: From the right weights, as a share of the way trained; NaN where they are not finite.
    """

    error: str = ""
    weights: str = ""
    statistics: str = ""
    steps: int = -1
    distance: float = float("nan")

    @property
    def counts(self) -> str:
        """What is wrong with `global_step`."""
        return "" if self.steps == STEPS * EPOCHS else f"`global_step` is {self.steps} after {STEPS * EPOCHS} steps"

    @property
    def faults(self) -> list[str]:
        """All that is wrong."""
        return [self.error] if self.error else [each for each in (self.weights, self.statistics, self.counts) if each]


def judged(column: Column, cell: Cell) -> Verdict:
    """Train a column on a cell, and say what came out."""
    try:
        module, trainer = fitted(column, cell)
    except Exception as error:  # whatever a peer does is a finding
        lines = str(error).strip().splitlines() or [""]
        return Verdict(f"{type(error).__name__}: {lines[0]}")
    found = module.network

    def apart(loop: Loop) -> tuple[float, float]:
        start = cell.network()
        weights = distance(list(found.parameters()), loop.weights, list(start.parameters()))
        return weights, distance(_statistics(found), _statistics(loop.network), _statistics(start))

    tolerance = TOLERANCE[cell.precision]
    right = Departure(first="process") if cell.apart else Departure()
    weights, statistics = apart(oracle(cell, column.asam, right))
    wrong_weights = wrong_statistics = ""
    if weights != weights:
        scaled = apart(oracle(cell, column.asam, right.but(unscaled=False)))[0]
        wrong_weights = "NaN in the weights" + (": stepped by the scaled gradient" if scaled != scaled else "")
    elif weights > (tolerance if cell.learning_rate else 0.0):
        explained = (
            str(each) or "perturbed by the gradient of all processes"
            for each in _suspected(column, cell)
            if apart(oracle(cell, column.asam, each))[0] <= tolerance
        )
        wrong_weights = next(explained, "weights off")
    if not statistics <= tolerance:
        twice = apart(oracle(cell, column.asam, right.but(statistics_twice=True)))[1] <= tolerance
        what = "off with the weights" if wrong_weights else "moved twice" if twice else "off"
        wrong_statistics = f"running statistics {what}"
    return Verdict("", wrong_weights, wrong_statistics, trainer.global_step, weights)


def _suspected(column: Column, cell: Cell) -> list[Departure]:
    """The fewest mistakes first."""
    flags = {
        "loses_momentum": cell.resumed,
        "clips_first": cell.clip == "value",
        "fresh_masks": cell.dropout > 0,
    }
    tried = [
        base.but(**dict(zip(flags, values, strict=True)))
        for base in (Departure(), *column.suspects)
        for values in product(*((False, True) if possible else (False,) for possible in flags.values()))
    ]
    return sorted(dict.fromkeys(tried), key=lambda departure: str(departure).count(";") + bool(str(departure)))


@cache
def oracle(cell: Cell, asam: Adaptive, departure: Departure) -> Loop:
    """The loop by hand, once."""
    if not cell.adaptive and asam != Adaptive():
        return oracle(cell, Adaptive(), departure)
    with torch.random.fork_rng(devices=[]):
        return Loop(cell, asam, departure).run()


class Batches:
    """A loader of ready batches, that draws no random numbers."""

    batch_size = BATCH

    def __init__(self, batches: list[Batch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def fitted(column: Column, cell: Cell) -> tuple[Any, Trainer]:
    """The module after its fit, and the Trainer."""
    data = Batches(cell.batches(int(os.environ.get("RANK", 0))))

    def fit(epochs: int, checkpoint: str | None = None) -> tuple[LightningModule, Trainer]:
        module = column.module(cell)
        trainer = Trainer(max_epochs=epochs, **_options(column, cell))
        torch.manual_seed(5)
        trainer.fit(module, data, ckpt_path=checkpoint)
        return module, trainer

    if not cell.resumed:
        return fit(EPOCHS)
    folder = os.environ.get(FOLDER) or tempfile.mkdtemp()
    checkpoint = str(Path(folder, "half.ckpt"))
    fit(1)[1].save_checkpoint(checkpoint)
    return fit(EPOCHS, checkpoint)


def _options(column: Column, cell: Cell) -> dict[str, Any]:
    options: dict[str, Any] = PLAIN | {
        "accelerator": "cpu",
        "devices": cell.processes,
        "use_distributed_sampler": False,
    }
    options["strategy"] = "ddp" if cell.processes > 1 else "auto"
    options["callbacks"] = [column.plugin(cell)] * (column.plugin is not None) if column.plugin else []
    if cell.ghosts:
        options["callbacks"].append(GhostBatchNormSwap(GHOST))
    if cell.has_scaler:
        options["plugins"] = [MixedPrecision("16-mixed", "cpu", cell.scaler())]
    else:
        options["precision"] = {"float64": "64-true"}.get(cell.precision, cell.precision)
    if column.automatic:
        options["accumulate_grad_batches"] = cell.accumulate
        if cell.clip is not None:
            options |= {"gradient_clip_val": cell.clip_value, "gradient_clip_algorithm": cell.clip}
    return options


def _statistics(network: torch.nn.Module) -> list[Tensor]:
    return [buffer for name, buffer in network.named_buffers() if "running" in name]
