"""Every attribute that Lightning calls private and this package touches, each looked for before it is used.

No other file touches one. Where Lightning has renamed one, the error names it and the version that lacks it.
"""

from __future__ import annotations

import importlib
import sys
from types import SimpleNamespace
from typing import Any

import lightning
from lightning.pytorch import Callback, LightningModule, Trainer

MID_EPOCH = "restarted_mid_epoch"  # Lightning's own word for a run that was resumed inside an epoch


class MissingInLightningError(AttributeError):
    """Lightning has not the private attribute that this package needs."""


def read(owner: Any, name: str) -> Any:
    """A private attribute of one of Lightning's objects.

    Raises:
        MissingInLightningError: If it is not there.
    """
    try:
        return getattr(owner, name)
    except AttributeError as error:
        raise _missing(f"{type(owner).__name__}.{name}") from error


def write(owner: Any, name: str, value: Any) -> None:
    """Set a private attribute that is there."""
    read(owner, name)
    setattr(owner, name, value)


def _imported(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise _missing(f"{module}.{name}") from error


def _missing(what: str) -> MissingInLightningError:
    return MissingInLightningError(
        f"lightning_gap needs {what}, which lightning {lightning.__version__} does not have; install a version of "
        "lightning that lightning_gap was tested with, see its constraints.txt, or a newer lightning_gap"
    )


collect_random_states = _imported("lightning.fabric.utilities.seed", "_collect_rng_states")
set_random_states = _imported("lightning.fabric.utilities.seed", "_set_rng_states")
holders_of_attribute = _imported("lightning.pytorch.utilities.parsing", "_lightning_get_all_attr_holders")


def state_key(callback: Callback, **arguments: str) -> str:
    """What Lightning keeps the state of a callback with these arguments under."""
    return str(read(callback, "_generate_state_key")(**arguments))


def is_accumulating(trainer: Trainer) -> bool:
    """Whether the optimizer waits for more batches after this one."""
    return bool(read(trainer.fit_loop, "_should_accumulate")())


def validates_after_batch(trainer: Trainer) -> bool:
    """Whether Lightning validates after the present batch; not where a clock decides, of which each process has one."""
    if getattr(trainer, "_val_check_time_interval", None) is not None:  # since lightning 2.6
        return False
    fetcher = read(trainer.fit_loop, "_data_fetcher")
    return bool(read(trainer.fit_loop.epoch_loop, "_should_check_val_fx")(fetcher))


def batches_that_stepped(trainer: Trainer) -> int:
    """Batches after which an optimizer stepped, before the present one: Lightning's x of what is logged of a step."""
    return int(read(trainer.fit_loop.epoch_loop, "_batches_that_stepped"))


def skips_backward(trainer: Trainer) -> bool:
    """Whether batches are run without training, as `StochasticWeightAveraging` does for BatchNorm."""
    return bool(read(trainer.fit_loop, "_skip_backward"))


def restart_mid_epoch(trainer: Trainer) -> None:
    """Let the fit loop take the run to be resumed inside an epoch."""
    write(trainer.fit_loop, "_restart_stage", MID_EPOCH)


def combined_loader(trainer: Trainer) -> Any:
    """All train loaders as one; ``None`` before Lightning has made it."""
    return read(trainer.fit_loop, "_combined_loader")


def fetch_anew(trainer: Trainer) -> None:
    """Let the train batches be fetched from where the loader stands now, also what was fetched ahead."""
    iter(read(trainer.fit_loop, "_data_fetcher"))


def forget_combined_loader(trainer: Trainer) -> None:
    """Let the next `setup_data` make the train loader anew."""
    write(trainer.fit_loop, "_combined_loader", None)


def data_source(loop: Any) -> Any:
    """Where a loop has its loaders from: its ``instance`` made or gives them, and ``is_module`` says which."""
    source = read(loop, "_data_source")
    for name in ("instance", "is_module", "dataloader"):
        read(source, name)
    return source


def logger_connector(trainer: Trainer) -> Any:
    """What gathers logged values and hands them to loggers."""
    return read(trainer, "_logger_connector")


def add_callback_metrics(trainer: Trainer, metrics: dict[str, Any]) -> None:
    """Let callbacks find these values in ``trainer.callback_metrics``."""
    read(logger_connector(trainer), "_callback_metrics").update(metrics)


def hand_over_checkpoint(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Let Lightning restore loops, optimizers and schedulers from this, where it comes to that."""
    write(read(trainer, "_checkpoint_connector"), "_loaded_checkpoint", checkpoint)


def count_step_as_saved(trainer: Trainer) -> None:
    """Let each `ModelCheckpoint` that saves at steps take the present step for one that it has saved."""
    for callback in trainer.checkpoint_callbacks:
        is_one = any(kind.__name__ == "ModelCheckpoint" for kind in type(callback).__mro__)  # of either Lightning
        if is_one and read(callback, "_every_n_train_steps"):
            write(callback, "_last_global_step_saved", trainer.global_step)


def epoch_results(trainer: Trainer) -> Any:
    """What `log` has gathered in the train epoch, by Lightning's key."""
    return read(trainer.fit_loop.epoch_loop, "_results")


def result_classes(results: Any) -> SimpleNamespace:
    """The classes of Lightning's that gathered results are made of, under the name that this Lightning has."""
    module = sys.modules[type(results).__module__]
    names = ("_Metadata", "_ResultMetric", "_Sync")
    return SimpleNamespace(**{name.strip("_"): _imported(module.__name__, name) for name in names})


def layer_sync(trainer: Trainer) -> Any:
    """What turns BatchNorm layers into SyncBatchNorm; ``None`` where nothing does, or the strategy never could."""
    return getattr(trainer.strategy, "_layer_sync", None)


def before_batch_transfer(module: LightningModule, batch: Any) -> Any:
    """A batch after the module's or data module's `on_before_batch_transfer`."""
    return read(module, "_on_before_batch_transfer")(batch, dataloader_idx=0)


def sampler_shared_out(sampler: Any) -> Any:
    """What Lightning shares out to the processes, where this is its wrapper for that; else ``None``."""
    samples = getattr(sampler, "dataset", None)
    return read(samples, "_sampler") if type(samples).__name__ == "_DatasetSamplerWrapper" else None


def averaged_model(callback: Callback) -> Any:
    """The `AveragedModel` of a `WeightAveraging` callback; ``None`` outside of fit."""
    return read(callback, "_average_model")
