"""What a trial of each recipe costs: optimizer steps, and seconds on this machine, from a few steps of the small batch.

    python benchmarks/recipe_costs.py

Forward, backward and step on random inputs of the data set's shape; the seconds of an epoch are those of a sample times
the training samples. The large batch works on as many samples, so that its epoch takes about as long.
"""

from __future__ import annotations

import statistics

import torch
from measuring import command, interleaved, machine, say, table, training_step

from lightning_gap.recipes.catalogue import bundled, load_recipe

# Training samples, shape of an input, classes.
SETS: dict[str, tuple[int, tuple[int, ...], int]] = {
    "digits": (1280, (1, 8, 8), 10),
    "mnist": (60_000, (1, 28, 28), 10),
    "cifar10": (50_000, (3, 32, 32), 10),
    "cifar100": (50_000, (3, 32, 32), 100),
    "timit": (721_329, (360,), 1973),
    "timit-stand-in": (24_000, (360,), 1973),
    "imagenet": (1_281_167, (3, 224, 224), 1000),
}
AT_ONCE = {"imagenet": 32}  # 256 images of this size do not fit into the memory of a small machine


def main(steps: int = 7, threads: int | None = None) -> None:
    """Print a line for each recipe and data set.

    Args:
        steps: Timed steps, after two that are not.
        threads: CPU threads; torch's own number by default.
    """
    torch.set_num_threads(threads or torch.get_num_threads())
    rows = []
    for name in bundled():
        kind = load_recipe(name)
        for data in kind.data_sets:
            torch.manual_seed(0)
            recipe, (samples, shape, classes) = kind.on(data), SETS[data]
            size = AT_ONCE.get(data, recipe.small_batch_size)
            times, _ = interleaved({"step": training_step(recipe, shape, size, classes=classes)}, steps + 2)
            epoch = statistics.median(times["step"][2:]) * samples / size
            taken = (recipe.epochs * -(-samples // size) for size in (recipe.small_batch_size, recipe.large_batch_size))
            hours = epoch * recipe.epochs / 3600
            rows.append((name, data, recipe.epochs, *map("{:,}".format, taken), f"{epoch:.3g}", f"{hours:.3g}"))
            say(*rows[-1])
    print(f"{machine()}, median of {steps} steps\n")
    print(table("recipe | data | epochs | steps small | steps large | seconds an epoch | hours a run", rows))


if __name__ == "__main__":
    command(main)
