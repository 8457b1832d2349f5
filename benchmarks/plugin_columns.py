"""The ways to sharpness-aware training in Lightning that `plugin_peers.py` runs, each as its documentation has it.

Those of others are written anew from what they say publicly. Where two readings are possible the more careful one is
taken, and where a known repair exists it has a column of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule
from plugin_cells import BATCH, RHO, Cell
from plugin_loops import Adaptive, Departure
from pytorch_optimizer import SAM
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gap import SharpnessAwareMinimization

Closure = Callable[[], Any]
ALL_WEIGHTS = Adaptive()


class Plain(LightningModule):
    """A user's module; its optimizer is SGD."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell, self.network = cell, cell.network()

    def loss(self, batch: Any) -> Tensor:
        return cross_entropy(self.network(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), **self.cell.sgd)


class TwoStepOptimizer(torch.optim.Optimizer):
    """Built like davda54/sam: wraps an optimizer, shares its groups but not its state, and wants a gradient first."""

    def __init__(self, weights: Any, inner: type[torch.optim.Optimizer], *, rho: float, adaptive: bool, **options: Any):
        super().__init__(weights, {"rho": rho, "adaptive": adaptive, **options})
        self.inner = inner(self.param_groups, **options)
        self.param_groups = self.inner.param_groups

    def first_step(self) -> None:
        """To the weights nearby where the loss is highest, by the gradient at hand, which then is no more."""
        along = [weight.grad * (weight.abs() if group["adaptive"] else 1) for group, weight in self._moving()]
        length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(part) for part in along])) + 1e-12
        with torch.no_grad():
            for group, weight in self._moving():
                self.state[weight]["before"] = weight.clone()
                weight += group["rho"] / length * weight.grad * (weight.square() if group["adaptive"] else 1)
        self.zero_grad()

    def second_step(self) -> None:
        """Back to the weights, and a step of the wrapped optimizer by the gradient at hand."""
        with torch.no_grad():
            for _, weight in self._moving():
                weight.copy_(self.state[weight]["before"])
        self.inner.step()

    def step(self, closure: Closure | None = None) -> None:  # type: ignore[override]
        """Both; the caller has taken the first pass, ``closure`` takes the second."""
        assert closure is not None, "a closure is required, but none was provided"
        self.first_step()
        with torch.enable_grad():
            closure()
        self.second_step()

    def load_state_dict(self, state_dict: Any) -> None:
        super().load_state_dict(state_dict)
        self.inner.param_groups = self.param_groups

    def _moving(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        return ((group, w) for group in self.param_groups for w in group["params"] if w.grad is not None)


class ClosureFirst(TwoStepOptimizer):
    """With the repair proposed in davda54/sam#91: `step` takes the first pass, too."""

    def step(self, closure: Closure | None = None) -> None:  # type: ignore[override]
        assert closure is not None, "a closure is required, but none was provided"
        with torch.enable_grad():
            closure()
        super().step(closure)


class WithTwoSteps(Plain):
    """Automatic optimization with such an optimizer."""

    kind: type[TwoStepOptimizer] = TwoStepOptimizer

    def configure_optimizers(self) -> torch.optim.Optimizer:
        adaptive = self.cell.adaptive
        return self.kind(self.parameters(), torch.optim.SGD, rho=RHO[adaptive], adaptive=adaptive, **self.cell.sgd)


class WithClosureFirst(WithTwoSteps):
    """The same, repaired."""

    kind = ClosureFirst


class WithPytorchOptimizer(Plain):
    """Automatic optimization with `pytorch_optimizer.SAM`, to which Lightning hands its closure."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        adaptive = self.cell.adaptive
        return SAM(self.parameters(), torch.optim.SGD, rho=RHO[adaptive], adaptive=adaptive, **self.cell.sgd)


class PassBeforeStep(WithPytorchOptimizer):
    """The first pass taken in Lightning's hook, so that the optimizer finds the gradient that its docs ask for."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer_closure()
        optimizer.step(closure=optimizer_closure)


class Manual(WithTwoSteps):
    """Manual optimization.

    `training_step` as in the README of davda54/sam for Lightning, with its tips for BatchNorm and, where asked for, for
    several processes; accumulation and clipping as on the page on manual optimization of Lightning's documentation.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__(cell)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        alone: Any = self.trainer.strategy.block_backward_sync() if self.cell.apart else nullcontext()
        with alone:
            self.manual_backward(self.loss(batch) / self.cell.accumulate)
        if (batch_idx + 1) % self.cell.accumulate:
            return
        optimizer.first_step()
        with running_statistics_kept(self.network):
            self.manual_backward(self.loss(batch))
        if self.cell.clip is not None:
            self.clip_gradients(optimizer, self.cell.clip_value, self.cell.clip)
        optimizer.second_step()
        optimizer.zero_grad()


@contextmanager
def running_statistics_kept(network: nn.Module) -> Iterator[None]:
    """By a momentum of zero, as davda54/sam does it."""
    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm1d)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    yield
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


@dataclass(frozen=True)
class Column:
    """One way.

    Attributes:
        name: In the tables.
        is_: What it is.
        module: Makes the user's module.
        asam: What it means by ASAM.
        plugin: Callback for it.
        suspects: What it may do otherwise; losing momentum, clipping early and drawing masks anew are tried with each.
    """

    name: str
    is_: str
    module: Callable[[Cell], Plain]
    asam: Adaptive = ALL_WEIGHTS
    plugin: Callable[[Cell], Callback] | None = None
    suspects: tuple[Departure, ...] = ()

    @property
    def automatic(self) -> bool:
        """Whether the Trainer accumulates and clips."""
        return self.module is not Manual


def _ours(cell: Cell) -> Callback:
    return SharpnessAwareMinimization(
        RHO[cell.adaptive], adaptive=cell.adaptive, m=BATCH * cell.accumulate if cell.apart else None
    )


_NO_FIRST = (
    Departure(first="earlier", second="divided"),
    Departure(first="last_step"),
    Departure(first="none"),
)
COLUMNS = (
    Column("ours", "`SharpnessAwareMinimization` among the callbacks", Plain, Adaptive(0.01, biases=False), _ours),
    Column(
        "davda54-style",
        "an optimizer built like davda54/sam in automatic optimization: `step(closure)` wants the first gradient taken",
        WithTwoSteps,
        suspects=_NO_FIRST,
    ),
    Column(
        "davda54-style, closure first",
        "the same with the repair of davda54/sam#91: `step` calls the closure twice",
        WithClosureFirst,
        suspects=(Departure(second="divided"),),
    ),
    Column(
        "pytorch_optimizer",
        "`pytorch_optimizer.SAM` in automatic optimization; its docs, too, want a gradient before `step(closure)`",
        WithPytorchOptimizer,
        suspects=_NO_FIRST,
    ),
    Column(
        "pytorch_optimizer, pass before step",
        "the same where the module's `optimizer_step` takes the first pass",
        PassBeforeStep,
        suspects=(Departure(second="divided"),),
    ),
    Column(
        "manual optimization",
        "`first_step`, `second_step` as in davda54/sam's README for Lightning, with its tip for BatchNorm (momentum 0 "
        "in the second pass); accumulation and clipping as in Lightning's docs",
        Manual,
        suspects=(Departure(second="last"),),
    ),
)
