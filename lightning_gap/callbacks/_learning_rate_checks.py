"""Whether the arguments of a learning-rate scaling fit the loader, the run and the optimizer."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from ..trainer.batches import changes_batches, stated_micro_batch_size
from ..trainer.optimizers import groups_of, schedulers_that_warm_up
from ..trainer.progress import is_trial, optimizer_steps_per_epoch


def check_micro_batch_size(trainer: Trainer, given: int) -> None:
    """Raise if the loader states another size than the user; a warning where a sample may be several to the module."""
    stated = stated_micro_batch_size(trainer)
    if stated in (None, given):
        return
    text = (
        f"micro_batch_size={given} is not what {type(trainer.train_dataloader).__name__} states, {stated} samples per "
        "batch and process"
    )
    if stated == 1 or changes_batches(trainer):  # ready batches; a collate function may make several of one
        rank_zero_warn(f"{text}; it is taken, in case a sample of the loader is several to the module")
    else:
        raise ValueError(f"{text}; leave micro_batch_size out, or give the loader batches of {given}")


def check_warmup(trainer: Trainer, *, epochs: float, steps: int | None) -> None:
    """Raise if a warmup in epochs has no length in steps; warn of one that is too long, or not the only one."""
    if steps is None and optimizer_steps_per_epoch(trainer) is None:
        raise ValueError(
            f"warmup_epochs={epochs} has no length in steps: the train loader has no len(); give it one, set "
            "Trainer(limit_train_batches=<int>), or use warmup_steps=... or warmup_epochs=0"
        )
    name, limit, length = (
        ("epochs", trainer.max_epochs, epochs) if steps is None else ("steps", trainer.max_steps, steps)
    )
    if not is_trial(trainer) and limit is not None and 0 <= limit < length:
        rank_zero_warn(
            f"warmup_{name}={length} is longer than the run, max_{name}={limit}, so that the scaled learning rate is "
            f"never reached; use at most {limit}"
        )
    for scheduler in schedulers_that_warm_up(trainer):
        rank_zero_warn(
            f"{scheduler} warms up too, and the learning rate is the product of both warmups; use warmup_epochs=0 if "
            "one is enough"
        )


def check_optimizer(optimizer: Any, *, momentum_correction: bool) -> None:
    """Raise if the optimizer has no learning rate to scale, or no momentum buffer that holds it."""
    name = type(optimizer).__name__
    check_rates(optimizer, "LearningRateScaling")
    if momentum_correction and not all(group.get("momentum") for group in optimizer.param_groups):
        raise ValueError(
            f"momentum_correction=True corrects the buffer of an optimizer with momentum, and {name} has none; use "
            "momentum_correction=False"
        )
    if momentum_correction and type(optimizer).__module__.startswith("torch.optim"):
        raise ValueError(
            f"momentum_correction=True would be wrong for torch's {name}, whose momentum buffer does not hold the "
            "learning rate; use momentum_correction=False"
        )


def no_rate(optimizer: Any, owner: str) -> str:
    """The error for an optimizer that finds its own step size."""
    without = any("lr" not in group for group in groups_of(optimizer))
    what = "no 'lr' to scale" if without else "no learning rate to scale, lr=None"
    return (
        f"{type(optimizer).__name__} has {what}: it finds its own step size, like Adafactor(relative_step=True); "
        f"give it a learning rate, use another optimizer, or remove {owner}"
    )


def check_rates(optimizer: Any, owner: str) -> None:
    """Raise if the optimizer has no learning rate that could be scaled."""
    if any(group.get("lr") is None for group in groups_of(optimizer)):
        raise ValueError(no_rate(optimizer, owner))
