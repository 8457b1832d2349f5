"""What the numbers of an experiment were found with."""

from __future__ import annotations

from ..recipe import Recipe
from .experiment import Experiment
from .scales import Choice

_ALWAYS = ("epochs", "small_batch_size", "large_batch_size", "optimizer", "learning_rate")


def terms_of(experiment: Experiment, choice: Choice) -> dict[str, str]:
    """By name: networks with their data, batches and seeds, how sharpness is measured, and the experiment's own."""
    terms = {f"network {name}": _network(choice, name) for name in choice.networks}
    return {
        **terms,
        "accuracy": "of the final weights, dropout off, BatchNorm by the statistics of each evaluation chunk, as the "
        "authors' networks have it",
        "pairs": "every regime of a seed from the same initial weights, samples in the order of that seed",
        "spread": "± sample standard deviation over seeds; [95 % interval] by Student's t, differences paired by seed",
        **experiment.terms,
    }


def _network(choice: Choice, name: str) -> str:
    found, spec = choice.network(name), choice.run(name, "small", 0)
    values = spec.hyperparameters
    named = {key: values[key] for key in _ALWAYS} | dict(found.changed)
    shown = ", ".join(f"{key} {value}" for key, value in named.items())
    seeds = ", ".join(map(str, choice.seeds_of(name)))
    kind: type[Recipe] = found.recipe
    return f"{kind.__name__} on {found.data}: {shown}; seeds {seeds}"
