"""What the numbers of an experiment were found with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..runner.measurement import Measurement
from ..runner.run_store import RunSpec
from .experiment import Experiment
from .scales import Choice

_TOLD = ("epochs", "small_batch_size", "large_batch_size", "optimizer", "learning_rate", "momentum", "weight_decay")
_MODES = {
    "batch": "by the statistics of each evaluation chunk, as the authors' networks have it",
    "running": "by its running statistics",
    "recomputed": "by its statistics over the training samples",
}


def terms_of(experiment: Experiment, choice: Choice) -> dict[str, str]:
    """By name: networks with their data, hyperparameters and seeds as the runs have them, and the experiment's own."""
    runs = list(_runs(experiment.needs(choice)))
    networks = dict.fromkeys((spec.network, spec.data) for spec in runs)
    terms = {
        f"{network} on {data}": _told([spec for spec in runs if (spec.network, spec.data) == (network, data)])
        for network, data in networks
    }
    modes = dict.fromkeys(spec.hyperparameters["batch_norm"] for spec in runs if "batch_norm" in spec.hyperparameters)
    if runs:
        normalised = ", BatchNorm " + " or ".join(_MODES[mode] for mode in modes) if modes else ""
        terms["accuracy"] = f"of the final weights, dropout off{normalised}"
    terms["spread"] = (
        "± sample standard deviation over seeds; [95 % interval] by Student's t, differences paired by seed"
    )
    return terms | dict(experiment.terms)


def _runs(needs: Iterable[RunSpec | Measurement]) -> Iterable[RunSpec]:
    for asked in needs:
        yield from asked.of if isinstance(asked, Measurement) else (asked,)


def _told(runs: list[RunSpec]) -> str:
    """Hyperparameters that matter in most runs, those that differ from the recipe's, and seeds."""
    changed = {name for spec in runs for name in spec.changed if name != "batch_norm"}
    names = [*_TOLD, *sorted(changed - set(_TOLD))]
    values = {name: _different(spec.hyperparameters.get(name) for spec in runs) for name in names}
    shown = [f"{name} {' or '.join(map(str, found))}" for name, found in values.items() if found]
    seeds = sorted({spec.seed for spec in runs})
    return f"{', '.join(shown)}; seeds {', '.join(map(str, seeds))}, each from the same initial weights in all regimes"


def _different(values: Iterable[Any]) -> list[Any]:
    """Each once, in the order in which they come; None and no decay are not told."""
    found = list[Any]()
    for value in values:
        if value not in (None, 0.0, *found):
            found.append(value)
    return found
