"""How long a training step of each convolutional recipe takes with channels_last, with bfloat16, and with both.

    python benchmarks/memory_format.py --steps 7 --threads 1

Forward, backward and optimizer step on random CIFAR images. The four settings take turns, so that what else the machine
does meets all of them; ratios of medians, against float32 in torch's own memory format. bfloat16 is `torch.autocast`,
as `--trainer.precision bf16-mixed` has it: weights stay in float32.
"""

from __future__ import annotations

import statistics

import torch
from measuring import command, interleaved, machine, say, table, training_step

from lightning_gap.recipes.catalogue import load_recipe

RECIPES = ("c1", "c2", "resnet44", "wrn16-4")
SETTINGS = {  # channels_last, bfloat16
    "float32": (False, False),
    "channels_last": (True, False),
    "bf16-mixed": (False, True),
    "both": (True, True),
}


def main(steps: int = 7, threads: int = 1, batch_size: int = 256) -> None:
    """Print a line for each recipe.

    Args:
        steps: Timed steps of each setting, after one that is not.
        threads: CPU threads.
        batch_size: Samples of a step.
    """
    torch.set_num_threads(threads)
    rows = []
    for name in RECIPES:
        variants = {}
        for setting, (channels_last, bfloat16) in SETTINGS.items():
            torch.manual_seed(0)
            recipe = load_recipe(name)(channels_last=channels_last)
            variants[setting] = training_step(recipe, (3, 32, 32), batch_size, bfloat16=bfloat16)
        times, _ = interleaved(variants, steps + 1)
        base, *others = (statistics.median(taken[1:]) for taken in times.values())
        rows.append((name, f"{1e3 * base:.0f}", *(f"{other / base:.2f}" for other in others)))
        say(*rows[-1])
    print(f"{machine()}; batches of {batch_size}, medians of {steps} steps\n")
    print(table(f"recipe | float32, ms a step | {' | '.join(list(SETTINGS)[1:])}", rows))


if __name__ == "__main__":
    command(main)
