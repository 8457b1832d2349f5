"""Keskar et al. (2017), Figure 4: test accuracy and sharpness against the batch size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lightning_gap.functional import epsilon_name

from ..reports.drawing import SERIES, blank, label, legend_below, line_with_band
from ..reports.parts import Chart, Numbers, Part, Remark, Table
from ..runner.run_store import RunSpec
from .experiment import Experiment, Findings
from .measures import EPSILONS
from .scales import Choice

SIZES: dict[str, dict[str, tuple[int, ...]]] = {  # the paper does not list its own
    "tiny": {"c1": (50, 250), "f2": (256, 2400)},
    "small": {"c1": (64, 125, 250, 500, 1000, 2000, 4000), "f2": (256, 600, 1200, 2400, 4800, 9600)},
    "paper": {"c1": (128, 256, 512, 1024, 2048, 5000), "f2": (256, 4096, 16_384, 36_000, 72_000, 144_000)},
}
_THRESHOLD = {"c1": "500", "f2": "15,000"}  # above which the paper's accuracy falls


def run(choice: Choice, network: str, size: int, seed: int) -> RunSpec:
    """With this batch and nothing else changed."""
    return choice.run(network, "small", seed, small_batch_size=size)


def needs(choice: Choice) -> Iterator[RunSpec]:
    for network in choice.networks:
        for seed in choice.seeds_of(network, most=3):
            for size in SIZES[choice.scale][network]:
                yield run(choice, network, size, seed)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    for network in choice.networks:
        sizes, seeds = SIZES[choice.scale][network], choice.seeds_of(network, most=3)
        results = {size: [found[run(choice, network, size, seed)] for seed in seeds] for size in sizes}
        loss = {
            size: tuple(
                100 * (first.test_accuracy - own.test_accuracy)
                for first, own in zip(results[sizes[0]], results[size], strict=True)
            )
            for size in sizes
        }
        rows: list[Sequence[str | Numbers]] = [
            (
                f"{size:,}",
                Numbers(tuple(100 * own.test_accuracy for own in results[size])),
                Numbers(loss[size], differences=True),
                *(Numbers(tuple(own.sharpness_batch[epsilon_name(e)] for own in results[size]), 1) for e in EPSILONS),
            )
            for size in sizes
        ]
        head = ["batch size", "test accuracy %", f"below batch {sizes[0]}, points"]
        head += [f"sharpness %, {epsilon_name(e)}" for e in EPSILONS]
        yield Table(f"{network.upper()}: batch sizes", head, rows, "Epochs, learning rate and all else the same.")
        figure, (accuracy, sharpness) = blank(5.2, rows=2)
        values = [[100 * results[size][i].test_accuracy for size in sizes] for i in range(len(seeds))]
        line_with_band(accuracy, sizes, values, name="test accuracy", like=SERIES[0])
        for epsilon, like in zip(EPSILONS, SERIES[1:], strict=False):
            name = epsilon_name(epsilon)
            values = [[results[size][i].sharpness_batch[name] for size in sizes] for i in range(len(seeds))]
            line_with_band(sharpness, sizes, values, name=f"sharpness {name}", like=like)
        label(accuracy, "", "test accuracy (%)", log="x")
        label(sharpness, "batch size", "sharpness (%)", log="xy")
        legend_below(figure, sharpness)
        yield Chart(
            f"{network.upper()}: accuracy and sharpness against batch size",
            figure,
            "Test accuracy and sharpness at two epsilons against the batch size.",
            "Band: 95 % interval over the seeds.",
        )
        falls = [size for size in sizes if Numbers(loss[size], differences=True).found.sign > 0]
        worse = next((size for size in sizes if all(s in falls for s in sizes[sizes.index(size) :])), None)
        told = "at no size" if worse is None else f"from batch {worse:,} on"
        yield Remark(
            f"{network.upper()}: accuracy is below that of batch {sizes[0]}, its interval above zero there and at all "
            f"larger sizes, {told}. In the paper it falls past about {_THRESHOLD[network]} of the whole training set."
        )


EXPERIMENT = Experiment(
    "Keskar et al. (2017), Figure 4: the batch size from which accuracy falls", ("f2", "c1"), needs, show
)
