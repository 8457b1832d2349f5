"""What the numbers of a table were found with, in one paragraph."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from inspect import signature
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.nn.modules.batchnorm import _BatchNorm

from ..hyperparameters import steps_by_epoch
from ..recipe import Recipe
from .plan import Plan

_OF_REGIMES = {"ghost_batch_size", "warmup_epochs", "gradient_clip"}  # told where a regime uses them
_OF_REGIMES |= {"sam_rho", "conservative_strength", "adversarial_epsilon", "penalty_strength"}


def table_notes(plan: Plan) -> str:
    """Data, hyperparameters, what each regime changes, seeds, and how it was measured."""
    settings, threads = plan.settings, torch.get_num_threads()
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        recipes = {name: plan.recipe(name, 0) for name in settings.regimes}
    first = recipes[settings.regimes[0]]
    data = plan.data(first, settings.seed)
    held_out = f"{len(data.validation):,} validation (drawn with seed 0)" if len(data.validation) else "no validation"
    kind = plan.recipe_class  # what its signature does not name has the class's value
    normalises = any(isinstance(layer, _BatchNorm) for layer in first.modules())
    used = {
        "batch_norm": normalises and kind.batch_norm,
        "evaluation_chunk": kind.evaluation_chunk,
        **settings.hyperparameters,
    }
    used["channels_last"] = first.channels_last  # which narrow layers turn off
    given = {k: value for k, value in used.items() if value and value != "none" and k not in _OF_REGIMES}
    regimes = [f"{name}: {told}; " for name, found in recipes.items() if (told := _changes(found))]
    notes = [
        f"{settings.recipe} on {settings.data}: {len(data.train):,} training, {held_out} and {len(data.test):,} test "
        "samples.",
        data.note,
        f"{_listed(given)}; {''.join(regimes)}"
        + (f"Trainer: {_listed(settings.trainer)}; " * bool(settings.trainer))
        + f"seeds {', '.join(str(settings.seed + trial) for trial in range(settings.trials))}, every regime of a trial "
        "from the same initial weights.",
        "Mean ± sample standard deviation over the trials." * (settings.trials > 1),
        "Batch sizes, epochs, steps and the learning rate are those seen in the run. Accuracies of the final weights"
        + (", BatchNorm by the statistics that batch_norm names." if normalises else "."),
        "Gap to small in percentage points, positive where small is better, its 95 % interval paired by trial (t), and "
        "the share of large's gap that is brought back." * ("small" in recipes and len(recipes) > 1),
        "Sharpness in percent: Metric 2.1 in the full space, corner ascent of at most 7 evaluations, "
        f"{min(len(data.train), first.sharpness_samples):,} training samples as they are, dropout off"
        + (", running statistics, or (batch BN) those of each evaluation_chunk." if normalises else "."),
        f"Seconds of training, monitors included, on {plan.device.type}, {threads} thread{'s' * (threads > 1)}"
        + f", {plan.trainer.world_size} processes" * (plan.trainer.world_size > 1)
        + f", {settings.workers} runs side by side" * (settings.workers > 1)
        + ".",
        f"{versions()}.",
    ]
    return " ".join(filter(None, notes))


def versions() -> str:
    """The versions that a number depends on."""
    names = ("lightning-gap", "torch", "lightning")
    return ", ".join([*(f"{name} {version(name)}" for name in names), f"Python {platform.python_version()}"])


def _changes(recipe: Recipe) -> str:
    """The attributes that a regime changed, and its callbacks with their arguments."""
    steps = steps_by_epoch(recipe.hparams.get("learning_rate_steps"))
    before = {name: getattr(type(recipe), name, None) for name in Recipe.__annotations__}
    before |= {**recipe.hparams, "gradient_clip": None, "learning_rate_steps": steps}
    now = {name: getattr(recipe, name) for name in Recipe.__annotations__}
    changed = {name: value for name, value in now.items() if value != before[name] and name != "channels_last"}
    return ", ".join([_listed(changed)] * bool(changed) + [*map(_described, recipe.configure_callbacks())])


def _described(callback: Callback) -> str:
    """Its class and the arguments that are not their defaults."""
    parameters = signature(type(callback)).parameters
    given = {name: getattr(callback, name) for name in parameters if hasattr(callback, name)}
    others = {name: value for name, value in given.items() if value != parameters[name].default}
    return f"{type(callback).__name__}({_listed(others)})"


def _listed(values: Mapping[str, Any]) -> str:
    pairs = ((name, f"{value:g}" if isinstance(value, float) else value) for name, value in values.items())
    return ", ".join(f"{name} {value}" for name, value in pairs)
