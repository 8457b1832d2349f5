"""How long a training step of each convolutional recipe takes with channels_last, with bfloat16, and with both.

    python benchmarks/memory_format.py --steps 7 --threads 1

Forward, backward and optimizer step on random CIFAR images. The four settings take turns, so that what else the machine
does meets all of them; ratios of medians, against float32 in torch's own memory format. bfloat16 is `torch.autocast`,
as `--trainer.precision bf16-mixed` has it: weights stay in float32.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

from lightning_gap.recipes.catalogue import load_recipe
from lightning_gap.recipes.recipe import Recipe
from lightning_gap.recipes.runner.notes import versions

RECIPES = ("c1", "c2", "resnet44", "wrn16-4")
SETTINGS = {  # channels_last, bfloat16
    "float32": (False, False),
    "channels_last": (True, False),
    "bf16-mixed": (False, True),
    "both": (True, True),
}


def step_of(recipe: Recipe, batch_size: int, *, bfloat16: bool) -> Callable[[], None]:
    """A training step on random images."""
    configured = recipe.configure_optimizers()
    optimizer = configured[0][0] if isinstance(configured, tuple) else configured
    inputs, targets = torch.rand(batch_size, 3, 32, 32), torch.arange(batch_size) % 10

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = cross_entropy(recipe(inputs), targets)
        loss.backward()
        optimizer.step()

    return step


def seconds(name: str, batch_size: int, steps: int) -> dict[str, float]:
    """Median seconds of a step by setting, the first step left out."""
    made = {}
    for setting, (channels_last, bfloat16) in SETTINGS.items():
        torch.manual_seed(0)
        made[setting] = step_of(load_recipe(name)(channels_last=channels_last), batch_size, bfloat16=bfloat16)
    times: dict[str, list[float]] = {setting: [] for setting in made}
    for _ in range(steps + 1):
        for setting, step in made.items():
            start = time.perf_counter()
            step()
            times[setting].append(time.perf_counter() - start)
    return {setting: statistics.median(taken[1:]) for setting, taken in times.items()}


def main() -> None:
    """Print a line for each recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch_size", type=int, default=256)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{versions()}; {given.threads} thread(s), batches of {given.batch_size}, medians of {given.steps} steps\n")
    print(
        f"| recipe | float32, ms a step | {' | '.join(list(SETTINGS)[1:])} |\n|---|---|{'---|' * (len(SETTINGS) - 1)}"
    )
    for name in RECIPES:
        found = seconds(name, given.batch_size, given.steps)
        ratios = " | ".join(f"{found[setting] / found['float32']:.2f}" for setting in list(SETTINGS)[1:])
        print(f"| {name} | {1e3 * found['float32']:.0f} | {ratios} |", flush=True)


if __name__ == "__main__":
    main()
