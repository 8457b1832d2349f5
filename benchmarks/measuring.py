"""What the benchmarks measure with: turns, ratios, training steps, tables, and the machine that they were made on."""

from __future__ import annotations

import gc
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cross_entropy

from lightning_gap.recipes.recipe import Recipe

Cells = tuple[object, ...]
Result = TypeVar("Result")
KEEPS_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1000000000000", "MALLOC_TOP_PAD_": "1000000000"}
PLAIN: dict[str, Any] = {  # a Trainer that trains and does nothing else
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "limit_val_batches": 0,
}
WARMUP = 3  # steps that are not timed


def interleaved(
    variants: Mapping[str, Callable[[], Result]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> tuple[dict[str, list[float]], dict[str, Result]]:
    """Seconds of every round, and the last thing returned, by variant; each runs once in every round, in turn."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    results: dict[str, Result] = {}
    for _ in range(rounds):
        for name, variant in variants.items():
            results.pop(name, None)
            gc.collect()
            began = clock()
            results[name] = variant()
            times[name].append(clock() - began)
    return times, results


def ratio(own: Sequence[float], base: Sequence[float]) -> float:
    """Median over rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(own, base, strict=True))


def training_step(
    recipe: Recipe, shape: Sequence[int], batch_size: int, *, classes: int = 10, bfloat16: bool = False
) -> Callable[[], None]:
    """Forward, backward and step of the recipe's optimizer on one random batch of inputs of this shape."""
    configured = recipe.configure_optimizers()
    optimizer = configured[0][0] if isinstance(configured, tuple) else configured
    inputs, targets = torch.rand(batch_size, *shape), torch.arange(batch_size) % classes

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = cross_entropy(recipe(inputs), targets)
        loss.backward()
        optimizer.step()

    return step


class _Clock(Callback):
    """Seconds of the steps after the first few."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == WARMUP:
            self.began = now(pl_module.device, self._clock)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds = now(pl_module.device, self._clock) - self.began


def seconds_in_trainer(
    module: LightningModule,
    data: Any,
    steps: int,
    *callbacks: Callback,
    device: str,
    seconds: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds of some steps inside `fit`, after a few that are not timed."""
    quiet()
    clock, place = _Clock(seconds), "gpu" if device == "cuda" else device
    trainer = Trainer(accelerator=place, devices=1, max_steps=steps + WARMUP, callbacks=[*callbacks, clock], **PLAIN)
    trainer.fit(module, data)
    return clock.seconds


def now(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> float:
    """The time, in seconds, once the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock()


def quiet() -> None:
    """Let Lightning say nothing: what it advises is about real data."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")


def mean_loss(module: Callable[[Tensor], Tensor], batch: Sequence[Tensor]) -> Tensor:
    """Mean cross-entropy of a batch of inputs and targets."""
    return cross_entropy(module(batch[0]), batch[1])


def table(header: str, rows: Sequence[Cells]) -> str:
    """Markdown; floats to four digits, a dash for what is not known."""
    lines = [f"| {header} |", "|" + "---|" * (header.count("|") + 1)]
    return "\n".join([*lines, *(f"| {' | '.join(map(_shown, row))} |" for row in rows)])


def say(*cells: object) -> None:
    """Show that it goes on."""
    print("  ", *map(_shown, cells), file=sys.stderr, flush=True)


def _shown(cell: object) -> str:
    return "-" if cell is None or cell != cell else f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def machine(device: str = "cpu", packages: Sequence[str] = ()) -> str:
    """What the numbers were measured on, with the versions of these packages beside torch's."""
    if device.startswith("cuda"):
        place = f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}"
    else:
        info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        names = [line.split(":")[1].strip() for line in info if line.startswith("model name")]
        place = f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} thread(s)"
    return ", ".join([place, *(f"{name} {_version(name)}" for name in ("torch", *packages))])


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def keep_freed_memory() -> None:
    """Begin again with a glibc that keeps freed memory: it reads such settings when a process starts."""
    if not os.environ.keys() >= KEEPS_MEMORY.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEPS_MEMORY)


def command(main: Callable[..., None]) -> None:
    """The function as a command: required arguments by position, the others as options."""
    from jsonargparse import auto_cli

    auto_cli(main)
