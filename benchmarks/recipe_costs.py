"""What a trial of each recipe costs: optimizer steps, and seconds on this machine, from a few steps of the small batch.

    python benchmarks/recipe_costs.py

Forward, backward and step on random inputs of the data set's shape; the seconds of an epoch are those of a sample times
the training samples. The large batch works on as many samples, so that its epoch takes about as long.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn.functional import cross_entropy

from lightning_gap.recipes.catalogue import bundled, load_recipe
from lightning_gap.recipes.recipe import Recipe
from lightning_gap.recipes.runner.notes import versions

# Training samples, shape of an input, classes.
SETS = {
    "digits": (1280, (1, 8, 8), 10),
    "mnist": (60_000, (1, 28, 28), 10),
    "cifar10": (50_000, (3, 32, 32), 10),
    "cifar100": (50_000, (3, 32, 32), 100),
    "timit": (721_329, (360,), 1973),
    "timit-stand-in": (24_000, (360,), 1973),
    "imagenet": (1_281_167, (3, 224, 224), 1000),
}
AT_ONCE = {"imagenet": 32}  # 256 images of this size do not fit into the memory of a small machine


def seconds_per_sample(recipe: Recipe, data: str, steps: int) -> float:
    """Median over steps, the first two left out."""
    _, shape, classes = SETS[data]
    size = AT_ONCE.get(data, recipe.small_batch_size)
    configured = recipe.configure_optimizers()
    optimizer = configured[0][0] if isinstance(configured, tuple) else configured
    inputs, targets = torch.rand(size, *shape), torch.arange(size) % classes
    times = []
    for _ in range(steps + 2):
        start = time.perf_counter()
        optimizer.zero_grad()
        cross_entropy(recipe(inputs), targets).backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:]) / size


def main() -> None:
    """Print a line for each recipe and data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    print(f"{versions()}; {given.threads} threads, median of {given.steps} steps\n")
    print("| recipe | data | epochs | steps small | steps large | seconds an epoch | hours a run |")
    print("|---|---|---|---|---|---|---|")
    for name in bundled():
        kind = load_recipe(name)
        for data in kind.data_sets:
            torch.manual_seed(0)
            recipe, samples = kind.on(data), SETS[data][0]
            epoch = seconds_per_sample(recipe, data, given.steps) * samples
            steps = [recipe.epochs * -(-samples // size) for size in (recipe.small_batch_size, recipe.large_batch_size)]
            hours = epoch * recipe.epochs / 3600
            print(
                f"| {name} | {data} | {recipe.epochs} | {steps[0]:,} | {steps[1]:,} | {epoch:.3g} | {hours:.3g} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
