"""What the numbers of a table were found with, in one paragraph."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from inspect import signature
from typing import Any

import torch
from lightning.pytorch import Callback

from ..hyperparameters import steps_by_epoch
from ..recipe import Recipe
from .plan import Plan

_TOLD = (  # elsewhere in the table or its notes
    *("batch_norm", "evaluation_chunk", "sharpness_samples", "epochs", "small_batch_size", "large_batch_size"),
    *("ghost_batch_size", "warmup_epochs", "gradient_clip", "validation_size"),
)
_STATISTICS = {
    "running": "with running BatchNorm statistics",
    "recomputed": "with BatchNorm statistics recomputed over the training samples",
    "batch": "with the BatchNorm statistics of each chunk",
}


def table_notes(plan: Plan) -> str:
    """Data, hyperparameters, what each regime changes, seeds, and how it was measured."""
    settings, hyperparameters = plan.settings, plan.settings.hyperparameters
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        recipes = {name: plan.recipe(name, 0) for name in settings.regimes}
    first = recipes[settings.regimes[0]]
    data = plan.data(first, settings.seed)
    held_out = f"{len(data.validation):,} validation (drawn with seed 0)" if len(data.validation) else "no validation"
    used = {**hyperparameters, "channels_last": first.channels_last}  # which narrow layers turn off
    given = {name: value for name, value in used.items() if value and value != "none" and name not in _TOLD}
    regimes = "".join(f"{name}: {told}; " for name, found in recipes.items() if (told := _changes(found)))
    seeds = ", ".join(str(settings.seed + trial) for trial in range(settings.trials))
    several = f", mean ± sample standard deviation over {settings.trials} trials" if settings.trials > 1 else ""
    compared = (
        "Gap to small in percentage points, positive where small is better, its 95 % interval paired by trial (t)"
        ", and the share of large's gap that is brought back. "
    )
    processes = f", {plan.processes} processes" if plan.processes > 1 else ""
    workers = f", {settings.workers} runs side by side" if settings.workers > 1 else ""
    threads = torch.get_num_threads()
    return (
        f"{settings.recipe} on {settings.data}: {len(data.train):,} training, {held_out} and {len(data.test):,} test "
        f"samples. {data.note + ' ' if data.note else ''}{hyperparameters['epochs']} epochs; {_listed(given)}; "
        f"{regimes}{_listed(settings.trainer, 'Trainer: ')}seeds {seeds}, every regime of a trial from the same "
        f"initial weights{several}. Batch sizes, epochs, steps and the learning rate are those seen in the run. "
        f"Accuracies of the final weights, {_STATISTICS[first.batch_norm]} unless a regime says otherwise. "
        f"{compared if 'small' in recipes and len(recipes) > 1 else ''}"
        f"Sharpness in percent: Metric 2.1 in the full space, corner ascent of at most 7 evaluations, "
        f"{min(len(data.train), first.sharpness_samples):,} training samples as they are, dropout off, running "
        f"statistics, or (batch BN) the statistics of each chunk of up to {first.evaluation_chunk:,} samples. "
        f"Seconds of training, monitors included, on {plan.device.type}, {threads} thread{'s' * (threads > 1)}"
        f"{processes}{workers}. {versions()}."
    )


def versions() -> str:
    """The versions that a number depends on."""
    names = ("lightning-gap", "torch", "lightning")
    return ", ".join([*(f"{name} {version(name)}" for name in names), f"Python {platform.python_version()}"])


def _changes(recipe: Recipe) -> str:
    """The attributes that a regime changed, and its callbacks with their arguments."""
    steps = steps_by_epoch(recipe.hparams.get("learning_rate_steps"))
    before = {**recipe.hparams, "gradient_clip": None, "learning_rate_steps": steps}
    now = {name: getattr(recipe, name) for name in Recipe.__annotations__ if name in before}
    changed = {name: value for name, value in now.items() if value != before[name] and name != "channels_last"}
    return ", ".join([*_pairs(changed), *map(_described, recipe.configure_callbacks())])


def _described(callback: Callback) -> str:
    """Its class and the arguments that are not their defaults."""
    parameters = signature(type(callback)).parameters
    given = {name: getattr(callback, name) for name in parameters if hasattr(callback, name)}
    others = {name: value for name, value in given.items() if value != parameters[name].default}
    return f"{type(callback).__name__}({', '.join(_pairs(others))})"


def _listed(values: Mapping[str, Any], title: str = "") -> str:
    if not values:
        return ""
    return f"{title}{', '.join(_pairs(values))}{'; ' if title else ''}"


def _pairs(values: Mapping[str, Any]) -> Sequence[str]:
    return [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()]
