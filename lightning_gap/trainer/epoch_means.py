"""What `log(..., on_epoch=True)` has gathered of an epoch: kept in a checkpoint and taken up again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from . import _private

_REDUCTIONS: dict[str, Callable[..., Any]] = {  # `log` takes both for the same, and then insists on one of them
    "torch.mean": torch.mean,
    "torch.sum": torch.sum,
    "torch.min": torch.min,
    "torch.max": torch.max,
    "sum": sum,
    "min": min,
    "max": max,
}
_PLAIN = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph", "add_dataloader_idx")
_OTHER_LIGHTNING = (AttributeError, KeyError, TypeError)  # one whose private parts are others: it does as it does alone


def gathered(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """What this process has gathered of the running epoch, by Lightning's key, in plain types and tensors."""
    found = {}
    try:
        for key, metric in _private.epoch_results(trainer).items():
            meta, reductions = metric.meta, {fx: name for name, fx in _REDUCTIONS.items()}
            if not (metric.is_tensor and meta.on_epoch) or metric.has_reset or meta.sync.group is not None:
                continue  # a torchmetrics object has a state of its own
            last = _private.read(metric, "_forward_cache")
            entry = {name: getattr(meta, name) for name in _PLAIN} | {
                "reduce_fx": reductions[meta.reduce_fx],
                "sync": meta.sync.should,
                "rank_zero_only": meta.sync.rank_zero_only,
                "value": metric.value.detach().cpu().clone(),
                "samples": metric.cumulated_batch_size.cpu().clone() if meta.is_mean_reduction else None,
                "step": None if last is None else last.detach().cpu().clone(),
            }
            found[key] = entry
    except _OTHER_LIGHTNING as error:
        return _as_lightning_alone(error)
    return found


def gather_again(trainer: Trainer, shares: Sequence[dict[str, Any]]) -> bool:
    """Let the epoch's means begin with what a checkpoint had of them; whether there was anything."""
    shares = shares or [{}]
    alike = len(shares) == trainer.world_size
    share = shares[trainer.global_rank] if alike else _joined(shares, of_first=trainer.global_rank == 0)
    try:
        results = _private.epoch_results(trainer)
        parts = _private.result_classes(results)
        for key, entry in share.items():
            results[key] = _metric(trainer, parts, results, key, entry)
    except _OTHER_LIGHTNING as error:
        return bool(_as_lightning_alone(error))
    return bool(share)


def _metric(trainer: Trainer, parts: SimpleNamespace, results: dict[str, Any], key: str, entry: dict[str, Any]) -> Any:
    """One of Lightning's own, which gives way to the module's as soon as the module logs this key."""

    class Kept(parts.Metadata):  # type: ignore[misc, name-defined]
        def __eq__(self, others: object) -> bool:
            # Lightning compares at each `log` and refuses other terms. They may be: the module was edited in between.
            fresh = parts.ResultMetric(others, True)
            if fresh.meta.reduce_fx is self.reduce_fx and not metric.has_reset:
                _fill(fresh, entry, trainer)
            results[key] = fresh.to(trainer.strategy.root_device)
            return True

        __hash__ = None  # type: ignore[assignment]

    meta = Kept(**{name: entry[name] for name in _PLAIN}, reduce_fx=_REDUCTIONS[entry["reduce_fx"]])
    meta.sync = parts.Sync(fn=trainer.strategy.reduce, _should=entry["sync"], rank_zero_only=entry["rank_zero_only"])
    meta.fx += " before it was resumed"  # with the first `log` of a hook all that is of this hook is reset
    metric = parts.ResultMetric(meta, True)
    _private.write(metric, "_update_count", 1)  # torchmetrics warns of one that nothing was added to
    return _fill(metric, entry, trainer)


def _fill(metric: Any, entry: dict[str, Any], trainer: Trainer) -> Any:
    device = trainer.strategy.root_device
    metric.value = entry["value"].to(device)
    if entry["samples"] is not None:
        metric.cumulated_batch_size = entry["samples"].to(device)
    _private.write(metric, "_forward_cache", None if entry["step"] is None else entry["step"].to(device))
    return metric


def _as_lightning_alone(error: Exception) -> dict[str, Any]:
    """Nothing is kept, and this is said: a long run is not to end for the means of one epoch."""
    rank_zero_warn(
        "what the module has logged of this epoch so far is lost when the run is resumed, as in Lightning alone: "
        f"{error}"
    )
    return {}


def _joined(shares: Sequence[dict[str, dict[str, Any]]], *, of_first: bool) -> dict[str, dict[str, Any]]:
    """What other processes have gathered, for the first of these; the others begin with as good as nothing."""
    joined: dict[str, dict[str, Any]] = {}
    for key, entry in ((key, entry) for share in shares for key, entry in share.items()):
        kind = entry["reduce_fx"].removeprefix("torch.")
        if key not in joined:
            nothing = torch.full_like(entry["value"], {"min": math.inf, "max": -math.inf}.get(kind, 0.0))
            none = None if entry["samples"] is None else torch.zeros_like(entry["samples"])
            joined[key] = entry | {"value": nothing, "samples": none}
        if of_first:
            so_far = joined[key]
            both = so_far["value"], entry["value"]
            so_far["value"] = {"min": torch.minimum, "max": torch.maximum}.get(kind, torch.add)(*both)
            if kind == "mean":
                so_far["samples"] = so_far["samples"] + entry["samples"]
    return joined
