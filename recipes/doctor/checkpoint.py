"""What a Lightning checkpoint tells of its run: layers, optimizer, callbacks, and how the loop went."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .facts import Reading

_SETTINGS = "lightning_gap_settings"  # where our callbacks keep theirs
_WEIGHING = ("ExactAccumulation", "BatchSizeScheduler", "AdaptiveBatchSize", "PiggybackWarmStart")


def facts_of_checkpoint(file: Path) -> dict[str, Reading]:
    """By the names of `Facts`; nothing, and a warning, of a file that holds more than plain values or is damaged."""
    from ..runner.whole_files import load_whole  # needs torch, and what is refused before needs none

    try:
        return _facts(load_whole(file, map_location="cpu", mmap=True), file)
    except Exception as error:  # of whatever type the bytes, or what another program has saved, lead to
        warnings.warn(f"{str(file)!r} was not read ({type(error).__name__}): it is left out", stacklevel=2)
        return {}


def _facts(saved: Mapping[str, Any], file: Path) -> dict[str, Reading]:
    def told(value: float, what: str) -> Reading:
        return Reading(float(value), f"{file.name}: {what}")

    found: dict[str, Reading] = {}
    if isinstance(saved.get("global_step"), int):
        found["steps"] = told(saved["global_step"], "global_step")
    names = list(saved.get("state_dict", {}))
    layers = count_batch_norms(names)
    found["batch_norm"] = told(layers, "running_mean in state_dict")
    averaged = any("ema" in name.lower().split(".")[0] or "n_averaged" in name for name in names)
    if not averaged and "averaging_state" not in saved:
        found["ema_decay"] = told(0, "no averaging_state")
    callbacks = saved.get(_SETTINGS, {})
    for name in callbacks:
        where = f"{name} in {_SETTINGS}"
        if name in ("LearningRateScaling", "OptimizerScaling"):
            found["base_batch_size"] = told(callbacks[name]["base_batch_size"], where)
        elif name == "GhostBatchNormSwap":
            found["ghosts"] = told(layers, where)
        elif name == "RecomputeBatchNorm":
            found["stored_statistics"] = told(0, where)
        elif name in _WEIGHING:
            found["weighed"] = told(1, where)
    groups = [group for state in saved.get("optimizer_states", []) for group in state.get("param_groups", [])]
    decays = [group.get("weight_decay", 0.0) for group in groups]
    if decays:
        found["weight_decay"] = told(max(decays), "weight_decay in optimizer_states")
        coupled = any("amsgrad" in group and not group.get("decoupled_weight_decay") for group in groups)
        found["decay_in_gradient"] = told(coupled, "decoupled_weight_decay in optimizer_states")
    return found | _of_loop(saved, file)


def count_batch_norms(names: list[str]) -> int:
    """BatchNorm layers, by the names of a `state_dict`."""
    return sum(name.rpartition(".")[2] == "running_mean" for name in names)


def _of_loop(saved: Mapping[str, Any], file: Path) -> dict[str, Reading]:
    """Micro-batches and steps of an epoch, where all epochs had equally many and one optimizer stepped."""
    try:
        progress = saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        current, total = progress["current"]["ready"], progress["total"]["ready"]
        whole = progress["is_last_batch"] and len(saved["optimizer_states"]) == 1
    except (KeyError, TypeError):
        return {}
    if not whole or not current or total % current or saved["global_step"] % (total // current):
        return {}
    source = f"{file.name}: epoch_loop.batch_progress, global_step"
    epochs = total // current
    return {
        "micro_batches": Reading(current, source),
        "updates": Reading(saved["global_step"] / epochs, source),
        "epochs": Reading(epochs, source),
    }
