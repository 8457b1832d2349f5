"""Keskar et al. (2017), Figure 5: the large batch from weights that the small batch found after some epochs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import ClassVar

from lightning.pytorch import Callback

from lightning_gap import PiggybackWarmStart
from lightning_gap.functional import epsilon_name

from ..c1 import C1
from ..f2 import F2
from ..recipe import Recipe
from ..reports.drawing import SERIES, blank, label, legend_below, line_with_band, look
from ..reports.parts import Chart, Numbers, Part, Table
from ..runner.measurement import Measurement
from ..runner.run_store import RunSpec
from .experiment import Experiment, Findings
from .measures import EPSILONS, by_epoch
from .scales import Choice

_MOST = 100  # warm-start epochs there are regimes for, as in the paper


def after(epochs: int, recipe: Recipe) -> list[Callback]:
    """Some epochs of the small batch, then as many of the large one as the recipe has, with a fresh optimizer."""
    recipe.batch_size = recipe.small_batch_size
    recipe.epochs += epochs
    return [PiggybackWarmStart(epochs, recipe.large_batch_size, optimizer_state="reset")]


_REGIMES = {f"after-{epochs}": partial(after, epochs) for epochs in range(1, _MOST + 1)}


class WarmC1(C1):
    """C1 with this experiment's regimes."""

    regimes: ClassVar = {**C1.regimes, **_REGIMES}


class WarmF2(F2):
    """F2 with this experiment's regimes."""

    regimes: ClassVar = {**F2.regimes, **_REGIMES}


_WARM: dict[str, type[Recipe]] = {"c1": WarmC1, "f2": WarmF2}


@cache
def starts(epochs: int) -> tuple[int, ...]:
    """Epochs of the small batch after which the large one begins: more of the early ones, and the last."""
    return tuple(sorted({max(1, round(epochs * share)) for share in (0.05, 0.1, 0.2, 0.35, 0.6, 1.0)}))


def warm(choice: Choice, network: str, epochs: int, seed: int) -> RunSpec:
    """The large batch after some epochs of the small one."""
    plain = choice.run(network, f"after-{epochs}", seed)
    return RunSpec(_WARM[network], plain.regime, plain.data, seed, plain.changed, plain.trainer)


def curve(choice: Choice, network: str, seed: int) -> Measurement:
    """The small batch alone at the same epochs."""
    kept = starts(choice.epochs(network))
    run = choice.run(network, "small", seed, kept=kept)
    return Measurement("by-epoch", (run,), by_epoch, {"epochs": list(kept)})


def needs(choice: Choice) -> Iterator[RunSpec | Measurement]:
    for network in choice.networks:
        for seed in choice.seeds_of(network, most=3):
            yield curve(choice, network, seed)
            yield choice.run(network, "large", seed)
            for epochs in starts(choice.epochs(network)):
                yield warm(choice, network, epochs, seed)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    for network in choice.networks:
        seeds, first = choice.seeds_of(network, most=3), starts(choice.epochs(network))
        small = [[row["test_accuracy"] for row in found[curve(choice, network, seed)]] for seed in seeds]
        large = [found[choice.run(network, "large", seed)] for seed in seeds]
        results = [[found[warm(choice, network, epochs, seed)] for epochs in first] for seed in seeds]
        accuracy = [[100 * own.test_accuracy for own in runs] for runs in results]
        figure, (above, below) = blank(5.2, rows=2)
        line_with_band(above, first, small, name="small batch alone", like=look("small"))
        line_with_band(above, first, accuracy, name="large batch from there", like=look("piggyback"))
        for epsilon, like in zip(EPSILONS, SERIES, strict=False):
            name = epsilon_name(epsilon)
            values = [[own.sharpness_batch[name] for own in runs] for runs in results]
            line_with_band(below, first, values, name=f"sharpness {name}", like=like)
        label(above, "", "test accuracy (%)")
        label(below, "epochs of the small batch before", "sharpness (%)", log="y")
        legend_below(figure, above, below, columns=2)
        yield Chart(
            f"{network.upper()}: warm starts",
            figure,
            "Test accuracy of the small batch and of the large batch begun from it; below, the latter's sharpness.",
            "Band: 95 % interval over the seeds.",
        )
        rows = [
            (
                f"{epochs}",
                Numbers(_column(small, i)),
                Numbers(_column(accuracy, i)),
                Numbers(
                    tuple(warm[i] - 100 * cold.test_accuracy for warm, cold in zip(accuracy, large, strict=True)),
                    differences=True,
                ),
                Numbers(tuple(runs[i].sharpness_batch["1e-3"] for runs in results), 1),
            )
            for i, epochs in enumerate(first)
        ]
        head = ["epochs of the small batch", "its test accuracy %", "of the large batch from there %"]
        head += ["above the large batch from the start, points", "sharpness %, 1e-3"]
        yield Table(f"{network.upper()}: warm starts by epoch", head, rows, "A fresh optimizer after the switch.")


def _column(curves: Sequence[Sequence[float]], i: int) -> tuple[float, ...]:
    return tuple(curve[i] for curve in curves)


EXPERIMENT = Experiment("Keskar et al. (2017), Figure 5: warm starts", ("f2", "c1"), needs, show)
