"""Facts about a Trainer that Lightning has no public name for; every private attribute we touch is touched here."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from lightning.pytorch import Callback, Trainer
from torch.distributed import ProcessGroup
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import Subset, SubsetRandomSampler

from ._batches import drops_last_batch as drops_last_batch
from ._batches import last_micro_batch_size as last_micro_batch_size
from ._batches import micro_batch_size as micro_batch_size
from ._batches import samples_in as samples_in
from ._batches import samples_per_process as samples_per_process
from ._batches import stated_micro_batch_size as stated_micro_batch_size
from ._batches import states_its_batches as states_its_batches
from .functional import _processes


def samples_served(loader: Any, dataset: Any) -> Any:
    """The part of the data set that the loader serves: a `SubsetRandomSampler` splits one set between two loaders."""
    sampler = getattr(loader, "sampler", None)
    sampler = getattr(getattr(sampler, "dataset", None), "_sampler", sampler)  # Lightning's wrapper for processes
    return Subset(dataset, list(sampler.indices)) if isinstance(sampler, SubsetRandomSampler) else dataset


def to_device(trainer: Trainer, batch: Any) -> Any:
    """Bring a batch to `training_step` the way the training loop does; the batch itself stays as it is."""
    batch = trainer.precision_plugin.convert_input(copy.deepcopy(batch))
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def largest_learning_rate(trainer: Trainer) -> float:
    """The largest learning rate of all parameter groups, unscaled, between the steps, where callbacks leave it alone.

    NaN where there is none: optimizers that find their own step size hold none or None, and a Trainer may have no
    optimizer.
    """
    groups = (group for optimizer in trainer.optimizers for group in optimizer.param_groups)
    return max((float(group["lr"]) for group in groups if group.get("lr") is not None), default=math.nan)


def learning_rate_scale_in_use(trainer: Trainer) -> float:
    """What callbacks multiplied the learning rates by in the last step; NaN where there is no learning rate."""
    if math.isnan(largest_learning_rate(trainer)):
        return math.nan
    return math.prod(getattr(callback, "current_scale", 1.0) for callback in callbacks_of(trainer))


def optimizer_steps_taken(trainer: Trainer) -> int:
    """Optimizer steps so far; in manual optimization, where one batch may step several optimizers, batches so far."""
    if trainer.lightning_module.automatic_optimization:
        return trainer.global_step
    return trainer.fit_loop.total_batch_idx


def optimizer_steps_per_epoch(trainer: Trainer) -> int | None:
    """Optimizer steps in one epoch, or ``None`` where the train loader has no length."""
    batches = trainer.num_training_batches
    return None if math.isinf(batches) else math.ceil(batches / trainer.accumulate_grad_batches)


def optimizer_steps_planned_before(trainer: Trainer) -> int:
    """Optimizer steps that come before the present one in a run whose epochs are all as long as this one."""
    per_epoch = optimizer_steps_per_epoch(trainer) or 0
    return trainer.current_epoch * per_epoch + trainer.fit_loop.batch_idx // trainer.accumulate_grad_batches


def schedulers_that_warm_up(trainer: Trainer) -> list[str]:
    """Names of the learning-rate schedulers that raise the rate at the beginning."""
    found, waiting = [], [config.scheduler for config in trainer.lr_scheduler_configs]
    while waiting:
        scheduler = waiting.pop()
        waiting += getattr(scheduler, "_schedulers", [])  # of SequentialLR and ChainedScheduler
        if isinstance(scheduler, OneCycleLR) or getattr(scheduler, "start_factor", 1.0) < 1.0:
            found.append(type(scheduler).__name__)
    return found


def ends_accumulation(trainer: Trainer) -> bool:
    """Whether the optimizer steps after this batch."""
    return not trainer.fit_loop._should_accumulate()


def zeroes_gradients(trainer: Trainer) -> bool:
    """Whether Lightning cleared the gradients before this batch's backward pass."""
    return trainer.fit_loop.batch_idx % trainer.accumulate_grad_batches == 0


def sum_over_processes(trainer: Trainer, value: float) -> float:
    """The sum of every process's value, on all of them."""
    device = trainer.strategy.root_device
    group = process_group(trainer)
    (total,), _ = _processes.sum_over_processes(lambda: ([value], []), numbers=1, process_group=group, device=device)
    return total


def mean_over_processes(trainer: Trainer, value: float) -> float:
    """The mean of every process's value, on all of them."""
    return sum_over_processes(trainer, value) / trainer.world_size


def broadcast(trainer: Trainer, value: int) -> int:
    """The first process's value, on all of them."""
    return int(trainer.strategy.broadcast(value))


def loss_scale(trainer: Trainer) -> float:
    """What a gradient scaler multiplies losses and gradients by; 1 without one."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def validation_interval(trainer: Trainer) -> int | None:
    """Batches between validations, where Lightning insists that an epoch has at least as many."""
    interval: object = trainer.val_check_interval
    counts = isinstance(interval, int) and trainer.check_val_every_n_epoch is not None and trainer.limit_val_batches
    return int(trainer.val_check_interval) if counts else None


def step_schedulers_with_a_length(trainer: Trainer) -> list[tuple[str, int, int]]:
    """Schedulers that step with the optimizer and know how often: name, that number, and steps from one to the next."""
    configs = [config for config in trainer.lr_scheduler_configs if config.interval == "step"]
    lengths = [(type(c.scheduler).__name__, getattr(c.scheduler, "total_steps", None), c.frequency) for c in configs]
    return [(name, length, frequency) for name, length, frequency in lengths if isinstance(length, int)]


def averages_weights_now(trainer: Trainer) -> bool:
    """Whether this is the extra epoch of `StochasticWeightAveraging`, which trains nothing."""
    return bool(trainer.fit_loop._skip_backward)


def is_first_that(trainer: Trainer, callback: Callback, does: str) -> bool:
    """Whether this is the one of several callbacks that does it: the one with ``count`` if there is, else the first."""
    same = [other for other in callbacks_of(trainer) if getattr(other, does, False)]
    return (next((other for other in same if getattr(other, "count", None)), same[0])) is callback


def micro_batch_size_set(trainer: Trainer) -> int | None:
    """Samples per batch and process that a callback has set for this epoch, if one does."""
    sizes = (getattr(other, "micro_batch_size_set", None) for other in callbacks_of(trainer))
    return next((size for size in sizes if size is not None), None)


def planned_micro_batch_sizes(trainer: Trainer) -> set[int]:
    """Samples per batch and process that a callback will set in the course of the run, as far as they are known."""
    return {size for other in callbacks_of(trainer) for size in getattr(other, "planned_micro_batch_sizes", ())}


def is_last_planned(trainer: Trainer) -> bool:
    """Whether this epoch is the last one by ``max_epochs`` or ``max_steps``.

    Not `should_stop`: whether it is set by now depends on which callback comes first.
    """
    steps_are_up = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
    return trainer.current_epoch + 1 == trainer.max_epochs or steps_are_up


def log_now(trainer: Trainer, values: dict[str, float]) -> None:
    """Log where `self.log` is refused: to all loggers, at the step of the last optimizer step, and for callbacks."""
    connector = trainer._logger_connector
    metrics = {name: torch.tensor(value) for name, value in values.items()}
    connector._callback_metrics.update(metrics)
    if not trainer.barebones:
        connector.log_metrics(metrics, step=max(0, trainer.global_step - 1))


def attributes_of_run(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """What a `training_step` can set on the Trainer, its loops and its metrics, by where it is."""
    return {
        "self.trainer": trainer.__dict__,
        "self.trainer.fit_loop": trainer.fit_loop.__dict__,
        "self.trainer.fit_loop.epoch_loop": trainer.fit_loop.epoch_loop.__dict__,
        "self.trainer.callback_metrics": trainer._logger_connector.__dict__,
    }


def is_trial(trainer: Trainer) -> bool:
    """Whether this is a ``fast_dev_run``."""
    return bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def process_group(trainer: Trainer) -> ProcessGroup | None:
    """The processes that train together; None for a single one."""
    return torch.distributed.group.WORLD if trainer.world_size > 1 else None


def writes_logs_now(trainer: Trainer) -> bool:
    """Whether Lightning will write the step-level values of this batch; logging them at other steps is waste."""
    return trainer._logger_connector.should_update_logs or bool(trainer.fast_dev_run)  # type: ignore[attr-defined]


def uses_sync_batch_norm(trainer: Trainer) -> bool:
    """Whether the Trainer will turn BatchNorm layers into SyncBatchNorm."""
    return getattr(trainer.strategy, "_layer_sync", None) is not None


def collected_train_loaders(trainer: Trainer) -> list[Any]:
    """The train loaders inside a dict or list of them, as Lightning prepared them; empty for a loader by itself."""
    combined = trainer.fit_loop._combined_loader
    loaders: list[Any] = [] if combined is None else list(combined.flattened)
    return [] if any(loader is trainer.train_dataloader for loader in loaders) else loaders


def given_loaders(trainer: Trainer) -> tuple[Any, Any]:
    """What was passed to `fit` to train and to validate with; None where module or data module make the loaders."""
    sources = trainer.fit_loop._data_source, trainer.fit_loop.epoch_loop.val_loop._data_source
    train, val = (None if source.is_module() else source.instance for source in sources)
    return train, val


def is_lightnings(thing: object, name: str) -> bool:
    """Whether it is an instance of the class of Lightning's, or of a subclass, under either of Lightning's names.

    `lightning.pytorch` and `pytorch_lightning` hold the same classes twice; `isinstance` knows one of them.
    """
    return any(
        kind.__name__ == name and kind.__module__.split(".")[0] in ("lightning", "pytorch_lightning")
        for kind in type(thing).__mro__
    )


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """All callbacks of a Trainer, for which Lightning's types know no attribute."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Put torch's, NumPy's and Python's generators back at the end, also after an exception."""
    states: dict[str, Any] = _collect_rng_states()
    try:
        yield
    finally:
        _set_rng_states(states)
