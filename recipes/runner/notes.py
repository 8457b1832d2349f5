"""What the numbers of a table mean, in one paragraph."""

from __future__ import annotations

import platform
from importlib.metadata import version

import torch

from lightning_gap.recipes.networks import zero_last_gammas
from lightning_gap.recipes.plan import Plan
from lightning_gap.recipes.recipe import Numbers

_ZERO_GAMMAS = "residual blocks begin as the identity"


def terms(plan: Plan) -> str:
    """What the numbers of the table mean, in one paragraph."""
    settings, numbers = plan.settings, plan.numbers
    train_size = len(plan.data(plan.regime(settings.regimes[0]), settings.seed).train)
    seeds = ", ".join(str(settings.seed + trial) for trial in range(settings.trials))
    note = f" {plan.splits.note}" if plan.splits.note else ""
    options = "".join(f", {name}={value}" for name, value in settings.network.items())
    processes = f", {plan.processes} processes" if plan.processes > 1 else ""
    users = "".join(f"; Trainer's {name}={value!r}" for name, value in settings.trainer.items())
    starts = numbers.zero_last_gammas and _has_last_gammas(plan)
    return (
        f"{settings.recipe}{options} on {plan.data_name}: {_samples(plan, train_size)}.{note} "
        f"{'; '.join([_training(numbers) + (f', {_ZERO_GAMMAS}' if starts else ''), *_regimes(plan)])}{users}; "
        f"seeds {seeds}, every regime of a trial from the same initial weights; mean ± sample standard deviation over "
        f"{settings.trials} trial{'s' * (settings.trials > 1)}. Accuracies of the final weights, {_statistics(numbers)}"
        "; gap to small in percentage points, positive where small is better. Sharpness in percent: "
        f"Metric 2.1 in the full space, corner ascent of at most 7 evaluations, "
        f"{min(train_size, numbers.sharpness_samples):,} training samples as they are; dropout off, running "
        f"statistics, or (batch BN) the statistics of each chunk of up to {numbers.evaluation_chunk:,} samples. "
        f"Seconds of training, monitors included, on {plan.device.type}, {torch.get_num_threads()} "
        f"thread{'s' * (torch.get_num_threads() > 1)}{processes}. {versions()}."
    )


def _samples(plan: Plan, train_size: int) -> str:
    held_out, test = len(plan.splits.train) - train_size, f"{len(plan.splits.test):,} test samples"
    if not held_out:
        return f"{train_size:,} training and {test}, no validation samples"
    return f"{train_size:,} training, {held_out:,} validation (drawn with seed 0) and {test}"


def _training(numbers: Numbers) -> str:
    """Length, optimizer and data of a regime in words."""
    told = [f"{numbers.epochs} epochs, {numbers.optimizer} {numbers.learning_rate:g}"]
    steps = [(epoch, factor) for epoch, factor in sorted(numbers.learning_rate_steps.items()) if epoch < numbers.epochs]
    if steps:
        told.append(f"rate times {', '.join(f'{factor:g} from epoch {epoch}' for epoch, factor in steps)}")
    if numbers.momentum is not None:
        told.append(f"momentum {numbers.momentum:g}")
    if numbers.weight_decay:
        spared = "" if numbers.decay_all else " but for BatchNorm and biases"
        told.append(f"weight decay {numbers.weight_decay:g}{spared}")
    if numbers.augmentation != "none":
        told.append(f"augmentation {numbers.augmentation}")
    if numbers.standardise:
        told.append("channels standardised")
    return ", ".join(told)


def _statistics(numbers: Numbers) -> str:
    return {
        "running": "with running BatchNorm statistics",
        "recomputed": "with BatchNorm statistics recomputed over the training samples",
        "batch": f"with the BatchNorm statistics of each chunk of up to {numbers.evaluation_chunk:,} samples",
    }[numbers.batch_norm]


def _regimes(plan: Plan) -> list[str]:
    """What each regime does that not all do: its own words, and what depends on the user's Trainer and network."""
    users, found = plan.settings.trainer, []
    for name in plan.settings.regimes:
        regime = plan.regime(name)
        told = [regime.told] if regime.told else []
        if "gradient_clip_val" in regime.trainer.keys() - users.keys():
            kind = users.get("gradient_clip_algorithm") or "norm"
            told.append(f"gradients clipped to {kind} {regime.trainer['gradient_clip_val']:g}")
        if regime.numbers.zero_last_gammas and not plan.numbers.zero_last_gammas and _has_last_gammas(plan):
            told.append(_ZERO_GAMMAS)
        if told:
            found.append(f"{name}: {', '.join(told)}")
    return found


def _has_last_gammas(plan: Plan) -> bool:
    with torch.device("meta"):
        blocks: int = zero_last_gammas(plan.new_network(plan.settings.seed))
    return blocks > 0


def versions() -> str:
    """The versions that a number depends on."""
    names = ("lightning-gap", "torch", "lightning")
    return ", ".join([*(f"{name} {version(name)}" for name in names), f"Python {platform.python_version()}"])
