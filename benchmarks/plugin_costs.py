"""What the training plugins cost beside plain steps: time and memory of C1 in its Trainer, on random CIFAR images.

    python benchmarks/plugin_costs.py --threads 1

Each plugin trains in a process of its own, and the processes take turns of a few steps, of which the first, in cold
caches, is not counted. Counted is the time that the processor works for a process, so that what else the machine does
counts little. A ratio is taken within a turn, and the median over turns printed. `RecomputeBatchNorm`, which costs
nothing in a step, is compared by whole fits, in turns. The last row of the first table is the plain step where glibc
keeps freed memory. Memory is counted in a fit of its own: the most bytes of tensors that live at a time, as torch's
profiler sees them allocated and freed, over two steps that begin after the optimizer has its state.
"""

from __future__ import annotations

import gc
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any
from unittest.mock import patch

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from measuring import (
    KEEPS_MEMORY,
    PLAIN,
    Cells,
    command,
    machine,
    say,
    table,
)
from torch.profiler import ProfilerActivity, profile

from lightning_gap import (
    AdversarialTraining,
    ConservativeTraining,
    GradientPenalty,
    InMemoryLoader,
    MultiplicativeNoise,
    RecomputeBatchNorm,
    SharpnessAwareMinimization,
)
from lightning_gap.recipes import C1

INNER = 3  # steps of conservative training
LATE = 7 / 8
Plugin = Callable[[], Callback]
PLAIN_NAME, LATE_NAME = "plain", "SharpnessAwareMinimization, start=7/8, the whole run"
KEPT_NAME = "plain, freed memory kept"
PLUGINS: dict[str, Plugin | None] = {
    PLAIN_NAME: None,
    "SharpnessAwareMinimization": SharpnessAwareMinimization,
    "SharpnessAwareMinimization, adaptive": partial(SharpnessAwareMinimization, adaptive=True),
    LATE_NAME: partial(SharpnessAwareMinimization, start=LATE),
    f"ConservativeTraining, {INNER} inner steps": partial(ConservativeTraining, inner_steps=INNER),
    "GradientPenalty": partial(GradientPenalty, 0.1),
    "AdversarialTraining, 1 step": partial(AdversarialTraining, 0.03),
    "MultiplicativeNoise": partial(MultiplicativeNoise, 1.0, outputs="network"),
    KEPT_NAME: None,
}
ASKED = dict(zip(list(PLUGINS)[1:6], (2.1, 2.15, 1.2, INNER + 0.15, 2.2), strict=True))  # ratios, at most
TURN = 4  # steps
EPOCH = 16  # batches of an epoch, and of which RecomputeBatchNorm gathers statistics


class InTurn(Callback):
    """Begins a turn when told to, and tells how long its steps took."""

    def __init__(self, line: Connection) -> None:
        self._line = line

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx % TURN == 0:
            self._line.recv()
        if batch_idx % TURN == 1:
            self._began = time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % TURN == 0:
            self._line.send((time.process_time() - self._began) / (TURN - 1))


class Peak(Callback):
    """The most bytes that live at a time in two steps, over what lives before them."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        gc.collect()
        if batch_idx == 2:
            pl_module.zero_grad()  # what was allocated before is not seen to be freed
            self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._profile.__enter__()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if args[-1] == 3:
            self._profile.__exit__(None, None, None)
            found: Any = self._profile.profiler
            events = [event for event in found.kineto_results.events() if event.name() == "[memory]"]
            events.sort(key=lambda event: event.start_ns())
            self.bytes = max(accumulate(event.nbytes() for event in events))


def fit(plugin: Plugin | None, case: Case, batches: int, *callbacks: Callback) -> float:
    """Seconds of an epoch, with the same weights and images each time."""
    torch.manual_seed(0)
    recipe = C1(channels=case.channels)
    images = torch.rand(case.batch_size, 3, 32, 32).repeat(batches, 1, 1, 1)
    data = InMemoryLoader((images, torch.arange(len(images)) % 10), batch_size=case.batch_size)
    both = [*callbacks, *([plugin()] if plugin else [])]
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=1, callbacks=both, **PLAIN)
    began = time.process_time()
    trainer.fit(recipe, data)
    return time.process_time() - began


@dataclass(frozen=True)
class Case:
    """What is trained."""

    channels: int
    batch_size: int
    threads: int


def _quiet(case: Case) -> None:
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(case.threads)


def _one_of_many(name: str, case: Case, turns: int, line: Connection) -> None:
    _quiet(case)
    fit(PLUGINS[name], case, turns * TURN, InTurn(line))


def in_turns(names: Sequence[str], case: Case, turns: int) -> dict[str, list[float]]:
    """Seconds of a step in each turn of each plugin."""
    context = get_context("spawn")
    lines: dict[str, Connection] = {}
    for name in names:
        lines[name], far = context.Pipe()
        settings = KEEPS_MEMORY if name == KEPT_NAME else {}
        with patch.dict(os.environ, settings):  # glibc reads them when a process starts
            context.Process(target=_one_of_many, args=(name, case, turns, far), daemon=True).start()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns):
        for name in list(names)[:: 1 if turn % 2 else -1]:  # none always comes first
            lines[name].send(None)
            seconds[name].append(lines[name].recv())
        say(turn, *(f"{found[-1] / seconds[PLAIN_NAME][-1]:.3f}" for found in seconds.values()))
    return seconds


def rows_of(seconds: dict[str, list[float]]) -> Iterator[Cells]:
    """A row for each plugin; the late start's ratio is the mean of both parts of its run."""
    plain = seconds[PLAIN_NAME]
    begins = round(LATE * len(plain))
    for name, own in seconds.items():
        shares = [a / b for a, b in zip(own, plain, strict=True)]
        whole = statistics.median(shares[1:])
        if name == LATE_NAME:
            whole = LATE * statistics.median(shares[1:begins]) + (1 - LATE) * statistics.median(shares[begins:])
        quartiles = statistics.quantiles(shares[1:], n=4)
        middle = f"{1e3 * statistics.median(own[1:]):.0f}"
        yield name, middle, f"**{whole:.3f}**", f"{quartiles[0]:.3f} to {quartiles[2]:.3f}", ASKED.get(name)


def recomputing(case: Case, rounds: int) -> float:
    """Seconds of `RecomputeBatchNorm` for a batch, in plain steps: from whole fits without and with it."""
    plugins = {PLAIN_NAME: None, "with": partial(RecomputeBatchNorm, "end", EPOCH)}
    _, *turns = (
        {name: fit(plugin, case, EPOCH) for name, plugin in plugins.items()} for _ in range(rounds + 1)
    )  # without the first, in which much is done once
    return statistics.median(turn["with"] / turn[PLAIN_NAME] for turn in turns) - 1


def memory(case: Case) -> Iterator[Cells]:
    """A row for each plugin."""
    weights = sum(weight.nbytes for weight in C1(channels=case.channels).parameters())
    plain = 0
    for name, plugin in PLUGINS.items():
        if name not in (LATE_NAME, KEPT_NAME):
            peaks = [Peak() for _ in range(3)]
            for peak in peaks:
                fit(plugin, case, 4, peak)
            found = statistics.median(peak.bytes for peak in peaks)  # the profiler misses an allocation now and then
            plain = found if plugin is None else plain
            more = found - plain
            yield name, f"{found / 1e6:.2f}", f"{more / 1e6:+.2f}", f"{more / weights:+.2f}"


def main(
    turns: int = 16,
    rounds: int = 5,
    channels: int = 16,
    batch_size: int = 250,
    threads: int | None = None,
) -> None:
    """Print two tables and the cost of `RecomputeBatchNorm`.

    Args:
        turns: Of each plugin, a multiple of 8; the first is not counted.
        rounds: Fits without and with `RecomputeBatchNorm`.
        channels: Of both convolutions of C1.
        batch_size: Images of a step.
        threads: CPU threads; torch's own number by default.
    """
    case = Case(channels, batch_size, threads or torch.get_num_threads())
    _quiet(case)
    place = machine(packages=("lightning",))
    print(f"{place}; C1 with {channels} channels, batches of {batch_size}, {turns} turns of {TURN} steps\n")
    rows = list(rows_of(in_turns(list(PLUGINS), case, turns)))
    print(table("plugin | ms of CPU a step | to plain | quartiles | asked for at most", rows), flush=True)
    print(f"\nRecomputeBatchNorm: {recomputing(case, rounds):.3f} of a plain step for each batch\n", flush=True)
    print(table("plugin | peak, MB | to plain, MB | in copies of the weights", list(memory(case))))


if __name__ == "__main__":
    command(main)
