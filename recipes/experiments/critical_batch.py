"""Three answers to how large the batch can be: branches, the gradient's noise, and the steps to a loss.

By branching (Merrill et al. 2025), by the noise scale (McCandlish et al. 2018), and by the knee of the steps that runs
with batches of all sizes take to one training loss.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lightning_gap.functional import learning_rate_scale

from ..advice import rule_for
from ..critical_batch.search import Found, Search, search
from ..reports.drawing import SERIES, blank, label, legend_below
from ..reports.parts import Chart, Numbers, Part, Table
from ..runner.measurement import Measurement
from ..runner.run_store import RunSpec, RunStore
from .experiment import Experiment, Findings
from .measures import by_epoch
from .scales import Choice

FACTORS = (1, 2, 4, 8, 16, 32)
AT = (0.1, 0.5)
_EPOCHS_OF_GPT = 4


def base(choice: Choice, network: str, seed: int) -> RunSpec:
    """The small batch's run; of the GPT, over four epochs, so that there are losses on the way."""
    spec = choice.run(network, "small", seed)
    if network != "gpt":
        return spec
    sequences = spec.hyperparameters["sequences"] // _EPOCHS_OF_GPT
    return choice.run(network, "small", seed, epochs=_EPOCHS_OF_GPT, sequences=sequences)


def sizes(spec: RunSpec) -> list[int]:
    """Batches of the knee: at least two steps an epoch."""
    first: int = spec.hyperparameters["small_batch_size"]
    most = spec.hyperparameters["large_batch_size"] if spec.network != "gpt" else spec.hyperparameters["sequences"] // 2
    return [first * factor for factor in FACTORS if first * factor <= max(most, 4 * first)]


def at_size(spec: RunSpec, size: int) -> Measurement:
    """Losses of every epoch of a run with another batch, its learning rate scaled as branches scale theirs."""
    asked = spec.hyperparameters
    rule = rule_for(asked["optimizer"])
    scaled = asked["learning_rate"] * learning_rate_scale(size, asked["small_batch_size"], rule=rule)
    epochs = tuple(range(1, spec.hyperparameters["epochs"] + 1))
    changed = {**spec.changed, "small_batch_size": size, "learning_rate": scaled}
    return Measurement(
        "by-epoch", (replace(spec, changed=changed, kept_epochs=epochs),), by_epoch, {"epochs": list(epochs)}
    )


def branches(choice: Choice, network: str, seed: int) -> Measurement:
    """Of one run."""
    options = {"network": network, "scale": choice.scale, "seed": seed}
    return Measurement("critical-batch", (), branched, options, cost=40.0)


def branched(data_dir: Path, *, network: str, scale: str, seed: int) -> dict[str, Any]:
    """What `lightning-gap critical-batch` finds, and what it costs in samples over those of a run."""
    spec = base(Choice(scale, ()), network, seed)
    with tempfile.TemporaryDirectory() as folder:
        plan = RunStore(Path(folder), data_dir).plan(spec)
        first = spec.hyperparameters["small_batch_size"]
        training = len(plan.data(plan.recipe("small", seed), seed).train)
        factors = [factor for factor in FACTORS if factor * first <= training]
        asked = Search.of(plan, at=AT, factors=factors, samples=None, tolerance=0.01)
        found = [told for told in search(plan, asked) if isinstance(told, Found)]
        return {
            "cost": asked.cost(plan.settings.trials),
            "forks": [
                {
                    "critical": one.critical * first,
                    "largest": factors[-1] * first,
                    "losses": {str(first * factor): statistics.fmean(loss) for factor, loss in one.losses.items()},
                    "simple": one.fork.noise.simple_scale,
                    "curvature": one.fork.noise.critical_batch,
                }
                for one in found
            ],
        }


class Knee(NamedTuple):
    """Fewest steps, and the batch at which a run takes twice as many."""

    fewest: float
    batch: float


def knee(steps: Mapping[int, float]) -> Knee:
    """Least squares of ``steps = fewest * (1 + batch / size)``, of relative errors.

    Args:
        steps: To one loss, by batch size.

    Reference:
        McCandlish et al. (2018), equation 2.11.
    """
    at = np.array(list(steps), dtype=float)
    taken = np.array(list(steps.values()))
    slope, fewest = np.polyfit(1 / at, taken, 1, w=1 / taken)  # relative errors alike
    return Knee(float(fewest), float(slope / fewest) if fewest > 0 else math.inf)


def steps_to(rows: Sequence[Mapping[str, float]], target: float) -> float:
    """Steps at which the training loss passes a target, between epochs by its logarithm; NaN if it never does."""
    before_step, before_loss = 0.0, math.nan
    for row in rows:
        step, loss = row["step"], row["train_loss"]
        if loss <= target:
            if math.isnan(before_loss) or loss == before_loss:
                return float(step)
            share = math.log(before_loss / target) / math.log(before_loss / loss)
            return before_step + share * (step - before_step)
        before_step, before_loss = step, loss
    return math.nan


def needs(choice: Choice) -> Iterator[Measurement]:
    for network in choice.networks:
        for seed in choice.seeds_or(1)[:1]:
            yield branches(choice, network, seed)
            spec = base(choice, network, seed)
            for size in sizes(spec):
                yield at_size(spec, size)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    rows = list[Sequence[str | Numbers]]()
    for network in choice.networks:
        seed = choice.seeds_or(1)[0]
        spec, forks = base(choice, network, seed), found[branches(choice, network, seed)]
        curves = {size: found[at_size(spec, size)] for size in sizes(spec)}
        target = max(min(row["train_loss"] for row in own) for own in curves.values())
        taken = {size: steps_to(own, target) for size, own in curves.items()}
        fitted = knee(taken)
        for share, fork in zip(AT, forks["forks"], strict=True):
            most = "at least " * (fork["critical"] == fork["largest"])
            rows.append(
                (
                    f"{network.upper()}, {100 * share:.0f} % of the run",
                    f"{most}{fork['critical']:,}",
                    _two_digits(fork["simple"]),
                    _two_digits(fork["curvature"]),
                    _two_digits(fitted.batch),
                    f"{100 * forks['cost']:.0f}",
                )
            )
        yield _chart(network, taken, fitted, target)
    head = ["network, where", "critical batch by branches", "noise scale", "weighed by curvature"]
    head += ["knee of the steps to a loss", "samples of all branches, % of a run"]
    note = "Samples. The knee is of the whole run; one seed."
    yield Table("How large can the batch be?", head, rows, note)


def _two_digits(value: float) -> str:
    return f"{float(f'{value:.2g}'):,.0f}" if math.isfinite(value) else "unknown"


def _chart(network: str, taken: Mapping[int, float], fitted: Knee, target: float) -> Chart:
    figure, (axes,) = blank(4.2)
    ours, theory = SERIES[0], SERIES[1]
    axes.plot(list(taken), list(taken.values()), ours.marker, color=ours.color, label="measured")
    at = np.geomspace(min(taken), max(taken), 50)
    axes.plot(at, fitted.fewest * (1 + fitted.batch / at), theory.line, color=theory.color, label="fit")
    label(axes, "batch size", "optimizer steps to the loss", log="xy")
    legend_below(figure, axes)
    return Chart(
        f"{network.upper()}: steps to a loss",
        figure,
        "Optimizer steps that runs with batches of all sizes take to one training loss: they fall, then level off.",
        f"Training loss {target:.3g}; the fit is steps = {fitted.fewest:.0f} (1 + {fitted.batch:.0f} / batch).",
    )


EXPERIMENT = Experiment(
    "How large can the batch be? Branches, noise scale and the knee",
    ("f1", "c1", "gpt"),
    needs,
    show,
    {"branches": "at 10 and 50 % of the run, each a tenth of its samples, tolerance 0.01 nats, one trial"},
)
