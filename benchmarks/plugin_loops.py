"""Sharpness-aware training written out in plain torch, and what goes wrong in it: what `plugin_peers.py` compares with.

Every gradient is taken here by hand, batch after batch of process after process: no Lightning, no optimizer but SGD. A
`Departure` is a mistake that is known from public code, made on purpose; weights that equal those of a departure, and
not those of the right loop, tell what a peer does.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from plugin_cells import EPOCHS, GHOST, RHO, STEPS, Batch, Cell
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gap.functional import swap_batch_norm


@dataclass(frozen=True)
class Departure:
    """What a loop does otherwise; by default nothing.

    Attributes:
        first: Whose gradient perturbs: that of the whole step; of each process alone; of the ``earlier`` micro-batches,
            those before the last, of each process alone; the one of the ``last_step``; or none.
        second: Of which micro-batches the second gradient is: all; the last; or the last, divided by their number.
        fresh_masks: Dropout draws new masks in the second pass.
        clips_first: The gradient that perturbs is clipped, too.
        loses_momentum: On resume.
        unscaled: False where the optimizer steps by the scaled gradient, and none is skipped.
        statistics_twice: Running statistics move in both passes.
    """

    first: Literal["whole", "process", "earlier", "last_step", "none"] = "whole"
    second: Literal["all", "last", "divided"] = "all"
    fresh_masks: bool = False
    clips_first: bool = False
    loses_momentum: bool = False
    unscaled: bool = True
    statistics_twice: bool = False

    def but(self, **changes: object) -> Departure:
        """With more."""
        return replace(self, **changes)  # type: ignore[arg-type]

    def __str__(self) -> str:
        told = {
            "first": {
                "process": "perturbed by each process's own gradient",
                "earlier": "perturbed by the earlier micro-batches alone, each process by its own",
                "last_step": "perturbed by the last step's gradient",
                "none": "no perturbation",
            },
            "second": {
                "last": "second gradient of the last micro-batch alone",
                "divided": "second gradient of the last micro-batch alone, divided by their number",
            },
        }
        flags = {
            "fresh_masks": "other dropout masks in the second pass",
            "clips_first": "clipped before the perturbation, too",
            "loses_momentum": "momentum lost on resume",
            "statistics_twice": "running statistics moved twice",
        }
        said = [names[getattr(self, part)] for part, names in told.items() if getattr(self, part) in names]
        said += [name for flag, name in flags.items() if getattr(self, flag)]
        return "; ".join(said + ([] if self.unscaled else ["stepped by the scaled gradient"]))


@dataclass(frozen=True)
class Adaptive:
    """ASAM's scale of a weight: ``|w| + eta`` for all, or all but biases. Published code differs in both."""

    eta: float = 0.0
    biases: bool = True


@dataclass
class Loop:
    """A whole run; `network` holds what it has come to."""

    cell: Cell
    asam: Adaptive
    departure: Departure = field(default_factory=Departure)

    def run(self) -> Loop:
        """Train."""
        cell = self.cell
        self.network = cell.network().train()
        if cell.ghosts:
            swap_batch_norm(self.network, GHOST)
        self.weights = list(self.network.parameters())
        self.scaler = cell.scaler()
        optimizer = torch.optim.SGD(self.weights, **cell.sgd)
        data = [cell.batches(rank) for rank in range(cell.processes)]
        torch.manual_seed(5)
        for epoch in range(EPOCHS):
            if epoch and cell.resumed:
                self._forget(optimizer)
            for step in range(STEPS):
                window = slice(step * cell.accumulate, (step + 1) * cell.accumulate)
                self._step(optimizer, [batches[window] for batches in data])
        return self

    def _forget(self, optimizer: torch.optim.Optimizer) -> None:
        if self.departure.loses_momentum:
            optimizer.state.clear()
        optimizer.zero_grad()

    def _step(self, optimizer: torch.optim.Optimizer, batches: list[list[Batch]]) -> None:
        departure, before = self.departure, [weight.grad for weight in self.weights]
        optimizer.zero_grad()
        states = self._pass(batches)
        if departure.clips_first:
            self._clip(1 / self.scaler.get_scale())
        whole = [_of(weight) for weight in self.weights]
        if departure.first == "last_step":
            moves = [self._direction(before)] * len(batches)
        elif departure.first == "whole":
            moves = [self._direction(whole)] * len(batches)
        else:
            moves = [self._direction(self._alone(own, states)) for own in batches]
        kept = [weight.detach().clone() for weight in self.weights]
        optimizer.zero_grad()
        for rank, own in enumerate(batches):
            with torch.no_grad():
                for weight, move in zip(self.weights, moves[rank], strict=True):
                    weight.add_(move)
            share = self.cell.accumulate if departure.second == "last" else 1
            taken = own if departure.second == "all" else own[-1:]
            self._pass([taken], states[-len(taken) :], share=share / self.cell.processes, rank=rank, second=True)
            with torch.no_grad():
                for weight, value in zip(self.weights, kept, strict=True):
                    weight.copy_(value)
        if not departure.unscaled:
            self._clip()
            optimizer.step()
            return
        if self.scaler.is_enabled():
            self.scaler.unscale_(optimizer)
        self._clip()
        self.scaler.step(optimizer)
        self.scaler.update()

    def _pass(
        self,
        batches: list[list[Batch]],
        states: list[Tensor] | None = None,
        *,
        share: float | None = None,
        rank: int = 0,
        second: bool = False,
    ) -> list[Tensor]:
        """Add up gradients; statistics are those of the first process, of whose buffers all begin each pass."""
        share = 1 / len(batches) if share is None else share
        drawn = []
        for process, own in enumerate(batches):
            keeps = rank + process == 0 and (not second or self.departure.statistics_twice)
            buffers = [buffer.clone() for buffer in self.network.buffers()]
            for place, (inputs, targets) in enumerate(own):
                if states is not None and not self.departure.fresh_masks:
                    torch.set_rng_state(states[place])
                drawn.append(torch.get_rng_state())
                low = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.cell.precision)
                with torch.autocast("cpu", low or torch.bfloat16, enabled=low is not None):
                    loss = cross_entropy(self.network(inputs), targets)
                self.scaler.scale(loss * (share / self.cell.accumulate)).backward()
            if not keeps:
                for buffer, value in zip(self.network.buffers(), buffers, strict=True):
                    buffer.copy_(value)
        return drawn

    def _alone(self, own: list[Batch], states: list[Tensor]) -> list[Tensor | None]:
        """The gradient by which a process perturbs by itself."""
        taken = {"process": own, "earlier": own[:-1], "none": []}[self.departure.first]
        for weight in self.weights:
            weight.grad = None
        buffers = [buffer.clone() for buffer in self.network.buffers()]
        with torch.random.fork_rng(devices=[]):
            self._pass([taken], states, second=True)
        for buffer, value in zip(self.network.buffers(), buffers, strict=True):
            buffer.copy_(value)
        return [weight.grad for weight in self.weights]

    def _direction(self, gradients: list[Tensor | None]) -> list[Tensor]:
        scales = [
            torch.ones_like(weight)
            if not self.cell.adaptive or (weight.ndim == 1 and name.endswith("bias") and not self.asam.biases)
            else weight.detach().abs() + self.asam.eta
            for name, weight in self.network.named_parameters()
        ]
        slopes = [torch.zeros_like(s) if g is None else g.detach() for s, g in zip(scales, gradients, strict=True)]
        length = sum(float((s * g).double().square().sum()) for s, g in zip(scales, slopes, strict=True)) ** 0.5
        if not 0 < length < float("inf"):
            return [torch.zeros_like(s) for s in scales]
        return [RHO[self.cell.adaptive] * s * s * g / length for s, g in zip(scales, slopes, strict=True)]

    def _clip(self, factor: float = 1.0) -> None:
        if self.cell.clip == "norm":
            nn.utils.clip_grad_norm_(self.weights, self.cell.clip_value / factor)
        elif self.cell.clip == "value":
            nn.utils.clip_grad_value_(self.weights, self.cell.clip_value / factor)


def _of(weight: Tensor) -> Tensor | None:
    return None if weight.grad is None else weight.grad.clone()


def distance(found: list[Tensor], wanted: list[Tensor], start: list[Tensor]) -> float:
    """How far apart two runs end, as a share of the way that the second went from the start; NaN where one is."""
    apart = sum(
        float((a.detach().double() - b.detach().double()).square().sum()) for a, b in zip(found, wanted, strict=True)
    )
    way = sum(
        float((a.detach().double() - b.detach().double()).square().sum()) for a, b in zip(wanted, start, strict=True)
    )
    return (apart / way) ** 0.5 if way else apart**0.5
