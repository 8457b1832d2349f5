"""The cases on which `plugin_peers.py` compares ways to sharpness-aware training, and what is trained there."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn

BATCH, FEATURES, CLASSES = 8, 8, 3  # samples of a micro-batch of a process
STEPS, EPOCHS = 3, 2  # steps of an epoch
GHOST = 4
CLIP = 0.3
RHO = {False: 0.3, True: 1.0}  # SAM and ASAM: so large that what is left out shows
Batch = tuple[Tensor, Tensor]
Precision = Literal["float64", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class Cell:
    """A case of the matrix.

    Attributes:
        adaptive: ASAM, otherwise SAM.
        accumulate: Micro-batches of a step.
        precision: With 16-mixed, the first step overflows.
        processes: How many.
        ghosts: Whether BatchNorm normalises ghosts.
        clip: None, or by what the last gradient is clipped.
        resumed: Whether the second epoch is another Trainer's, from the checkpoint of the first.
        dropout: Share of the hidden units.
        learning_rate: Of SGD with momentum and weight decay.
        apart: Whether each process is to be perturbed by its own gradient, as in Foret et al.'s code.
    """

    adaptive: bool
    accumulate: int
    precision: Precision
    processes: int
    ghosts: bool
    clip: Literal["norm", "value"] | None
    resumed: bool
    dropout: float = 0.0
    learning_rate: float = 0.1
    apart: bool = False

    def batches(self, rank: int) -> list[Batch]:
        """Those of a process, the same in each epoch."""
        generator = torch.Generator().manual_seed(100 + rank)
        dtype = torch.float64 if self.precision == "float64" else torch.float32
        centres = torch.randn(CLASSES, FEATURES, generator=torch.Generator().manual_seed(7))
        found = []
        for _ in range(STEPS * self.accumulate):
            targets = torch.randint(CLASSES, (BATCH,), generator=generator)
            inputs = centres[targets] + torch.randn(BATCH, FEATURES, generator=generator)
            found.append((inputs.to(dtype), targets))
        return found

    def network(self) -> nn.Sequential:
        """The same at each call."""
        torch.manual_seed(0)
        layers = [nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(self.dropout)]
        network = nn.Sequential(*layers, nn.Linear(16, CLASSES))
        return network.double() if self.precision == "float64" else network

    def scaler(self) -> torch.amp.GradScaler:
        """Begins where the gradients of float16 overflow, and finds a scale that holds after one step."""
        return torch.amp.GradScaler("cpu", init_scale=2.0**26, backoff_factor=2.0**-16, enabled=self.has_scaler)

    @property
    def has_scaler(self) -> bool:
        """Whether losses are scaled."""
        return self.precision == "16-mixed"

    @property
    def clip_value(self) -> float:
        """Smaller for single entries than for the norm of all."""
        return CLIP if self.clip == "norm" else CLIP / 10

    @property
    def sgd(self) -> dict[str, float]:
        """Arguments of the optimizer."""
        return {"lr": self.learning_rate, "momentum": 0.9, "weight_decay": 0.01}


AXES: dict[str, tuple[Any, ...]] = {
    "adaptive": (False, True),
    "accumulate": (1, 4),
    "precision": ("float64", "bf16-mixed", "16-mixed"),
    "processes": (1, 2),
    "ghosts": (False, True),
    "clip": (None, "norm"),
    "resumed": (False, True),
}
NAMES = {
    "adaptive": {False: "SAM", True: "ASAM"},
    "accumulate": {1: "accumulation 1", 4: "accumulation 4"},
    "precision": {"16-mixed": "16-mixed, an overflow"},
    "processes": {1: "1 process", 2: "2 processes"},
    "ghosts": {False: "BatchNorm", True: "ghosts"},
    "clip": {None: "no clipping", "norm": "clipping by norm"},
    "resumed": {False: "in one go", True: "resumed"},
}
MATRIX = [Cell(**dict(zip(AXES, values, strict=True))) for values in product(*AXES.values())]
PLAINEST = Cell(False, 1, "float64", 1, False, None, False)
BESIDE = {  # what the matrix has no axis for
    "dropout: the same masks in both passes": replace(PLAINEST, dropout=0.3),
    "dropout, accumulation 4": replace(PLAINEST, dropout=0.3, accumulate=4),
    "clipping by value, of the last gradient alone": replace(PLAINEST, clip="value"),
    "learning rate 0: every bit of the weights comes back": replace(PLAINEST, learning_rate=0.0),
    "2 processes, each to be perturbed by its own gradient": replace(PLAINEST, processes=2, apart=True),
}
