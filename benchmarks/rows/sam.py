"""A step of sharpness-aware minimization, ours beside pytorch_optimizer's, two closures by hand and a plain step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from measuring import mean_loss
from plugin_columns import TwoStepOptimizer
from pytorch_optimizer import SAM
from torch import Tensor

from lightning_gap.functional import sharpness_aware_gradient
from lightning_gap.recipes.networks import F1
from rows.row import Row, in_turns

RHO, SGD = 0.05, {"lr": 0.05, "momentum": 0.9}
STEPS = 2


def rows(rounds: int, *, quick: bool) -> Iterator[Row]:  # noqa: ARG001
    """Steps of F1 on a batch of 256 random images in plain loops, by SGD with momentum."""
    batch = torch.rand(256, 784), torch.arange(256) % 10
    ways = {
        "sharpness_aware_gradient": _ours,
        "pytorch_optimizer.SAM": _pytorch_optimizer,
        "two closures, as davda54/sam": _two_closures,
        "a plain step": _plain,
    }

    def trained(way: Callable[[Any, Any], Callable[[], object]]) -> Callable[[], Tensor]:
        torch.manual_seed(0)
        network = F1().train()
        step = way(network, batch)
        first: list[Tensor] = []  # rounding tells runs apart that go on

        def steps() -> Tensor:
            for _ in range(STEPS):
                step()
            if not first:
                first.append(torch.nn.utils.parameters_to_vector(network.parameters()).detach())
            return first[0]

        return steps

    return in_turns({name: trained(way) for name, way in ways.items()}, rounds, found=_found)


def _ours(network: F1, batch: Any) -> Callable[[], object]:
    weights = list(network.parameters())
    optimizer = torch.optim.SGD(weights, **SGD)

    def step() -> None:
        _, gradients = sharpness_aware_gradient(
            lambda: mean_loss(network, batch), weights, rho=RHO, buffers=network.buffers()
        )
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        optimizer.step()

    return step


def _pytorch_optimizer(network: F1, batch: Any) -> Callable[[], object]:
    return _with_closure(network, batch, SAM(network.parameters(), torch.optim.SGD, rho=RHO, **SGD))


def _two_closures(network: F1, batch: Any) -> Callable[[], object]:
    weights = list(network.parameters())
    return _with_closure(network, batch, TwoStepOptimizer(weights, torch.optim.SGD, rho=RHO, adaptive=False, **SGD))


def _with_closure(network: F1, batch: Any, optimizer: Any) -> Callable[[], object]:
    """Both want the first gradient taken, and take the second by a closure."""

    def closure() -> Tensor:
        loss = mean_loss(network, batch)
        loss.backward()
        return loss

    def step() -> None:
        closure()
        optimizer.step(closure)
        optimizer.zero_grad()

    return step


def _plain(network: F1, batch: Any) -> Callable[[], object]:
    optimizer = torch.optim.SGD(network.parameters(), **SGD)

    def step() -> None:
        optimizer.zero_grad()
        mean_loss(network, batch).backward()
        optimizer.step()

    return step


def _found(ours: Tensor, theirs: Tensor) -> str:
    largest = float((ours - theirs).norm() / ours.norm())
    return f"same weights to {largest:.0e}" if largest < 1e-3 else "another method"
