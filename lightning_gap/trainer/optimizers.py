"""The optimizers and schedulers of a Trainer, and the weights that they train."""

from __future__ import annotations

import math
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR


def trained_weights(trainer: Trainer, module: LightningModule) -> dict[str, Tensor]:
    """The weights that require grad and that an optimizer of the Trainer holds, by name.

    A backbone of which only the head is given to the optimizer is not trained, and nothing clears its gradients. All
    weights that require grad where the Trainer has no optimizer: the module steps its own by hand.

    Raises:
        ValueError: If the optimizers hold none of the module's weights, but copies of them.
    """
    weights: dict[str, Tensor] = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    held = weights_of(*trainer.optimizers)
    trained = {name: weight for name, weight in weights.items() if id(weight) in held}
    if held and weights and not trained:
        names = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers)
        raise ValueError(
            f"{names} holds none of the weights of {type(module).__name__} that require grad, so that it is not known "
            "which of them are trained; give the optimizer the module's own parameters"
        )
    return trained if held else weights


def has_optimizer(trainer: Trainer) -> bool:
    """Whether something trains: for a `configure_optimizers` that gives none, Lightning has one without weights."""
    return any(groups_of(optimizer) for optimizer in trainer.optimizers)


def groups_of(optimizer: Any) -> list[dict[str, Any]]:
    """The parameter groups of an optimizer, or of a wrapper that may have none."""
    return list(getattr(optimizer, "param_groups", ()))


def weights_of(*optimizers: Any) -> dict[int, Tensor]:
    """The weights that optimizers hold by their id, each once."""
    return {id(weight): weight for each in optimizers for group in groups_of(each) for weight in group["params"]}


def largest_learning_rate(trainer: Trainer) -> float:
    """The largest learning rate of all parameter groups, unscaled, between the steps, where callbacks leave it alone.

    NaN where there is none: optimizers that find their own step size hold none or None, and a Trainer may have no
    optimizer.
    """
    groups = (group for optimizer in trainer.optimizers for group in optimizer.param_groups)
    return max((float(group["lr"]) for group in groups if group.get("lr") is not None), default=math.nan)


def schedulers_that_warm_up(trainer: Trainer) -> list[str]:
    """Names of the schedulers that raise the learning rate at the beginning."""
    found, waiting = [], [config.scheduler for config in trainer.lr_scheduler_configs]
    while waiting:
        scheduler = waiting.pop()
        waiting += getattr(scheduler, "_schedulers", [])  # of SequentialLR and ChainedScheduler
        if isinstance(scheduler, OneCycleLR) or getattr(scheduler, "start_factor", 1.0) < 1.0:
            found.append(type(scheduler).__name__)
    return found


def step_schedulers_with_a_length(trainer: Trainer) -> list[tuple[str, int, int]]:
    """Schedulers that step with the optimizer and know how often: name, that number, and steps from one to the next."""
    configs = [config for config in trainer.lr_scheduler_configs if config.interval == "step"]
    lengths = [(type(c.scheduler).__name__, getattr(c.scheduler, "total_steps", None), c.frequency) for c in configs]
    return [(name, length, frequency) for name, length, frequency in lengths if isinstance(length, int)]


def loss_scale(trainer: Trainer) -> float:
    """What a gradient scaler multiplies losses and gradients by; 1 without one."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())
