"""What `compare`, `run` and `reproduce` left of a recipe's runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ..runner.records import read_record
from ..runner.saved_settings import CONFIG, read_settings
from .checkpoint import count_batch_norms
from .curves import log_files, read_curves
from .facts import Facts, Reading, facts_of_curves

RUN, RESULT, WEIGHTS = "run.json", "outcome.json", "weights.pt"
_CLIPPED = ("sqrt-lr", "ghost-lr", "noise")
_SEEN = {
    "batch_size": "batch_size",
    "first_batch_size": "batch_size",
    "steps": "steps",
    "epochs": "epochs",
    "last_rate": "learning_rate",
    "train_loss": "train_loss",
}


def facts_of_comparison(folder: Path) -> tuple[list[Facts], Facts | None]:
    """Each regime of a results folder, its finished trials averaged, and the one named small.

    Raises:
        ValueError: If no run is finished, or a file is damaged.
    """
    settings = read_settings(folder)
    found = {}
    for regime in settings["regimes"]:
        trials = [folder / "runs" / regime / f"trial-{trial}" for trial in range(1, settings["trials"] + 1)]
        finished = [trial for trial in trials if (trial / RESULT).is_file()]
        if finished:
            logs = folder / "tensorboard" / regime / finished[0].name
            found[regime] = _facts(regime, finished, logs, settings, settings["trainer"], CONFIG)
    if not found:
        raise ValueError(f"folder={str(folder)!r} has no finished run; let one of them end first")
    return list(found.values()), found.get("small")


def facts_of_reproduced(folder: Path) -> tuple[list[Facts], Facts | None]:
    """A run of `reproduce`, and the same with the small batch where it lies beside it.

    Raises:
        ValueError: If the run is not finished, or a file is damaged.
    """
    if not (folder / RESULT).is_file():
        raise ValueError(f"folder={str(folder)!r} is not finished; let reproduce end first")
    spec = _described(folder)
    run = _facts_of_spec(folder, spec)
    if spec["regime"] == "small":
        return [run], None
    for other in sorted(folder.resolve().parent.glob(f"*/{RUN}")):
        if (other.parent / RESULT).is_file() and _described(other.parent) == {**spec, "regime": "small"}:
            return [run], _facts_of_spec(other.parent, {**spec, "regime": "small"})
    return [run], None


def _facts_of_spec(folder: Path, spec: Mapping[str, Any]) -> Facts:
    logs = folder / "tensorboard"
    facts = _facts(spec["regime"], [folder], logs, spec["hyperparameters"], spec["trainer"], RUN)
    return replace(facts, name=folder.resolve().name)


def _described(folder: Path) -> dict[str, Any]:
    found = _json(folder / RUN).get("run")
    kinds = {"regime": str, "hyperparameters": dict, "trainer": dict}
    if not isinstance(found, dict) or any(not isinstance(found.get(name), kind) for name, kind in kinds.items()):
        raise _damaged(folder / RUN, "it describes no run")
    return found


def _facts(
    regime: str,
    trials: Sequence[Path],
    logs: Path,
    hyperparameters: Mapping[str, Any],
    trainer: Mapping[str, Any],
    origin: str,
) -> Facts:
    curves = read_curves(logs) if log_files(logs) else {}
    found = facts_of_curves(curves) | _seen(trials)
    settings = {name: hyperparameters.get(name) for name in ("weight_decay", "small_batch_size", "learning_rate")}
    for fact, name in {"weight_decay": "weight_decay", "base_batch_size": "small_batch_size"}.items():
        if isinstance(settings[name], int | float):
            found[fact] = Reading(float(settings[name] or 0.0), f"{origin}: {name}")
    rate = settings["learning_rate"]
    if isinstance(rate, int | float) and "peak_rate" not in found:
        found["peak_rate"] = Reading(max(float(rate), found["last_rate"].value), f"{origin}: learning_rate")
    adaptive = hyperparameters.get("optimizer") in ("adam", "adagrad")
    found["decay_in_gradient"] = Reading(adaptive, f"{origin}: optimizer")
    clip = trainer.get("gradient_clip_val") or (hyperparameters.get("gradient_clip") if regime in _CLIPPED else 0.0)
    found["clip"] = Reading(float(clip or 0.0), f"{origin}: gradient_clip")
    found.setdefault("accumulate", Reading(trainer.get("accumulate_grad_batches") or 1, f"{origin}: trainer"))
    callbacks = str(trainer.get("callbacks") or "")
    exact = any(name in callbacks for name in ("ExactAccumulation", "BatchSizeScheduler", "AdaptiveBatchSize"))
    found["weighed"] = Reading(exact, f"{origin}: trainer.callbacks")
    if "Averaging" not in callbacks:
        found["ema_decay"] = Reading(0.0, f"{origin}: trainer.callbacks")
    running = (
        hyperparameters.get("batch_norm") == "running" and regime != "goyal" and "RecomputeBatchNorm" not in callbacks
    )
    found["stored_statistics"] = Reading(running, f"{origin}: batch_norm")
    return Facts(name=regime, **found, **_layers(trials[0]))


def _seen(trials: Sequence[Path]) -> dict[str, Reading]:
    """What was seen of finished runs: the means over their seeds."""
    results = [(folder / RESULT, _json(folder / RESULT)) for folder in trials]
    for file, result in results:
        for name in _SEEN.values():
            if type(result.get(name)) not in (int, float):
                raise _damaged(file, f"{name} is {result.get(name)!r}")
    over = f", mean of {len(trials)} trials" if len(trials) > 1 else ""
    return {
        fact: Reading(fmean(result[name] for _, result in results), f"{RESULT}: {name}{over}")
        for fact, name in _SEEN.items()
    }


def _layers(folder: Path) -> dict[str, Reading]:
    if not (folder / WEIGHTS).is_file():
        return {}
    import torch  # what is refused before needs none

    try:
        names = list(torch.load(folder / WEIGHTS, map_location="cpu", weights_only=True, mmap=True))
    except Exception as error:  # of whatever type the bytes lead to
        raise _damaged(folder / WEIGHTS, type(error).__name__) from error
    return {"batch_norm": Reading(count_batch_norms(names), f"{WEIGHTS}: running_mean")}


def _json(file: Path) -> dict[str, Any]:
    try:
        return read_record(file)
    except (ValueError, OSError) as error:
        raise _damaged(file, str(error)) from error


def _damaged(file: Path, why: str) -> ValueError:
    return ValueError(f"{str(file)!r} is damaged: {why}; move it away, or name another folder")
