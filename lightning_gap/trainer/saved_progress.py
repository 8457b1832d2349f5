"""How far a run had come when a checkpoint was saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def epoch_of(checkpoint: dict[str, Any]) -> int:
    """The epoch that a checkpoint continues in; one that was saved at the end of an epoch, in the next."""
    epochs = _epochs(checkpoint)
    if "processed" not in epochs:
        return int(checkpoint.get("epoch", 0))
    inside = not _fit_loop(checkpoint).get("epoch_loop.batch_progress", {}).get("is_last_batch", True)
    stopped_inside = inside and epochs["processed"] == epochs["ready"] > 0  # by max_steps; Lightning counts it as done
    return int(epochs["processed"]) - stopped_inside


def ends_epoch(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint was saved between two epochs."""
    epochs = _epochs(checkpoint)
    return bool("processed" in epochs and epochs["processed"] == epochs["ready"])


def epochs_begun(checkpoint: dict[str, Any]) -> int:
    """How many epochs had begun, the one that a checkpoint was saved inside of among them."""
    return int(_epochs(checkpoint).get("ready", 0))


def epoch_without_its_end(checkpoint: dict[str, Any]) -> int | None:
    """The epoch with whose last batch a checkpoint was saved, before anything was done at its end."""
    epochs = _epochs(checkpoint)
    last = _fit_loop(checkpoint).get("epoch_loop.batch_progress", {}).get("is_last_batch", False)
    return int(epochs["processed"]) if last and epochs.get("processed") != epochs.get("ready") else None


def steps_of_its_epoch(checkpoint: dict[str, Any]) -> int:
    """Optimizer steps taken in the epoch that a checkpoint continues in; 0 of one saved between two epochs."""
    if ends_epoch(checkpoint) or epoch_without_its_end(checkpoint) is not None:
        return 0
    progress = _fit_loop(checkpoint).get("epoch_loop.automatic_optimization.optim_progress", {})
    return int(progress.get("optimizer", {}).get("step", {}).get("current", {}).get("completed", 0))


def loader_states(checkpoint: Mapping[str, Any]) -> Any:
    """The states of the train loaders that had one, a sequence."""
    return _fit_loop(checkpoint).get("state_dict", {}).get("combined_loader", [])


def _fit_loop(checkpoint: Mapping[str, Any]) -> Any:
    return checkpoint.get("loops", {}).get("fit_loop", {})


def _epochs(checkpoint: Mapping[str, Any]) -> Any:
    return _fit_loop(checkpoint).get("epoch_progress", {}).get("current", {})
