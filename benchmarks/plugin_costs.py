"""What the training plugins cost beside plain steps: time and memory of C1 in its Trainer, on random CIFAR images.

    python benchmarks/plugin_costs.py --rounds 9 --threads 1

Fits take turns, one of each variant in a round; a ratio is taken within a round, and the median over rounds printed.
What costs something in every step is compared by the seconds of some steps of a fit, after a few that are not timed;
what costs something in a part of a run alone by the seconds of a whole fit. Memory is counted in a fit of its own: the
most bytes of tensors that live at a time, as torch's profiler sees them allocated and freed, over two steps that begin
after the optimizer has its state.
"""

from __future__ import annotations

import logging
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from measuring import PLAIN, command, interleaved, keep_freed_memory, machine, ratio, say, seconds_in_trainer, table
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
RUN = 32  # steps of a whole run
Plugin = Callable[[], Callback]
Asked = float | None
STEPWISE: dict[str, tuple[Plugin, Asked]] = {  # with the ratio that was asked for
    "SharpnessAwareMinimization": (SharpnessAwareMinimization, 2.1),
    "SharpnessAwareMinimization, adaptive": (partial(SharpnessAwareMinimization, adaptive=True), 2.15),
    f"ConservativeTraining, {INNER} inner steps": (partial(ConservativeTraining, inner_steps=INNER), INNER + 0.15),
    "GradientPenalty": (partial(GradientPenalty, 0.1), 2.2),
    "AdversarialTraining, 1 step": (partial(AdversarialTraining, 0.03), None),
    "MultiplicativeNoise": (partial(MultiplicativeNoise, 1.0, outputs="network"), None),
}
RUNWISE: dict[str, tuple[Plugin, Asked]] = {
    "SharpnessAwareMinimization, start=7/8": (partial(SharpnessAwareMinimization, start=7 / 8), 1.2),
    f"RecomputeBatchNorm at the end, {RUN} batches": (partial(RecomputeBatchNorm, "end"), None),
}
PLAIN_NAME = "plain"


class Peak(Callback):
    """The most bytes that live at a time in two steps, over what lives before them."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
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


def recipe_and_data(channels: int, batch_size: int, steps: int) -> tuple[C1, InMemoryLoader]:
    """The same weights and images each time."""
    torch.manual_seed(0)
    recipe = C1(channels=channels)
    images = torch.rand(batch_size * 4, 3, 32, 32).repeat(-(-steps // 4), 1, 1, 1)[: batch_size * steps]
    return recipe, InMemoryLoader((images, torch.arange(len(images)) % 10), batch_size=batch_size)


def main(
    rounds: int = 9,
    steps: int = 8,
    channels: int = 16,
    batch_size: int = 250,
    threads: int | None = None,
    keep_memory: bool = False,
    plain_only: bool = False,
) -> None:
    """Print three tables.

    Args:
        rounds: How often each variant takes its turn.
        steps: Timed steps of a fit.
        channels: Of both convolutions of C1.
        batch_size: Images of a step.
        threads: CPU threads; torch's own number by default.
        keep_memory: Begin again with a glibc that keeps freed memory, which saves page faults.
        plain_only: Time the plain step alone.
    """
    if keep_memory:
        keep_freed_memory()
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads or torch.get_num_threads())

    def some_steps(plugin: Plugin | None) -> float:
        recipe, data = recipe_and_data(channels, batch_size, steps + 3)
        return seconds_in_trainer(recipe, data, steps, *([plugin()] if plugin else []), device="cpu")

    def whole_run(plugin: Plugin | None) -> float:
        recipe, data = recipe_and_data(channels, batch_size, RUN)
        trainer = Trainer(accelerator="cpu", devices=1, max_epochs=1, callbacks=[plugin()] if plugin else [], **PLAIN)
        began = time.perf_counter()
        trainer.fit(recipe, data)
        return time.perf_counter() - began

    def peak(plugin: Plugin | None) -> int:
        recipe, data = recipe_and_data(channels, batch_size, 4)
        measured = Peak()
        callbacks = [measured, *([plugin()] if plugin else [])]
        Trainer(accelerator="cpu", devices=1, max_epochs=1, callbacks=callbacks, **PLAIN).fit(recipe, data)
        return measured.bytes

    print(f"{machine(packages=('lightning',))}; batches of {batch_size}, {rounds} rounds\n")
    chosen: list[tuple[Any, dict[str, tuple[Plugin, Asked]]]] = [(some_steps, STEPWISE), (whole_run, RUNWISE)]
    for measure, variants in chosen[:1] if plain_only else chosen:
        seconds: dict[str, list[float]] = {name: [] for name in (PLAIN_NAME, *variants)}
        plugins: dict[str, Plugin | None] = {PLAIN_NAME: None}
        if not plain_only:
            plugins |= {name: plugin for name, (plugin, _) in variants.items()}
        for turn in range(rounds):
            _, results = interleaved({name: partial(measure, plugin) for name, plugin in plugins.items()}, 1)
            for name, found in results.items():
                seconds[name].append(found)
            say(turn, *(f"{found / results[PLAIN_NAME]:.3f}" for found in results.values()))
        each = steps if variants is STEPWISE else 1
        rows = []
        for name, plugin in plugins.items():
            own, base = seconds[name], seconds[PLAIN_NAME]
            shares = sorted(a / b for a, b in zip(own, base, strict=True))
            asked = variants[name][1] if plugin else None
            middle = f"{1e3 * statistics.median(own) / each:.0f}"
            rows.append((name, middle, f"**{ratio(own, base):.3f}**", f"{shares[0]:.3f} to {shares[-1]:.3f}", asked))
        unit = "ms a step" if variants is STEPWISE else f"ms a run of {RUN} steps"
        print(table(f"plugin | {unit} | to plain | of the rounds | asked for at most", rows) + "\n")
    if plain_only:
        return
    recipe, _ = recipe_and_data(channels, batch_size, 1)
    weights = sum(weight.nbytes for weight in recipe.parameters())
    plain = peak(None)
    rows = [("plain", f"{plain / 1e6:.2f}", None, None)]
    for name, (plugin, _) in STEPWISE.items():
        found = peak(plugin)
        rows.append((name, f"{found / 1e6:.2f}", f"{(found - plain) / 1e6:+.2f}", f"{(found - plain) / weights:+.2f}"))
    print(table(f"plugin | peak, MB | to plain, MB | in copies of the weights ({weights / 1e6:.2f} MB)", rows))


if __name__ == "__main__":
    command(main)
