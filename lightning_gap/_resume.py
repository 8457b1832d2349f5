"""Resuming: where a checkpoint goes on, and what Lightning needs to be helped with."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch import Trainer
from torch import distributed

from .data._planned_loader import PlannedLoader


def epoch_of(checkpoint: dict[str, Any]) -> int:
    """The epoch that a checkpoint goes on in; one that was saved at the end of an epoch, in the next."""
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    epochs = loops.get("epoch_progress", {}).get("current", {})
    if "processed" not in epochs:
        return int(checkpoint.get("epoch", 0))
    inside = not loops.get("epoch_loop.batch_progress", {}).get("is_last_batch", True)
    stopped_inside = inside and epochs["processed"] == epochs["ready"] > 0  # by max_steps; Lightning counts it as done
    return int(epochs["processed"]) - stopped_inside


def ends_epoch(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint was saved between two epochs."""
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {}).get("current", {})
    return "processed" in progress and progress["processed"] == progress["ready"]


def epochs_begun(checkpoint: dict[str, Any]) -> int:
    """How many epochs had begun, the one that a checkpoint was saved inside of among them."""
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {}).get("current", {})
    return int(progress.get("ready", 0))


def go_on_from(trainer: Trainer, checkpoint: dict[str, Any], *, optimizers: bool) -> None:
    """Let Lightning restore epochs and steps, and if asked optimizers and schedulers, right after `on_fit_start`."""
    left_out = () if optimizers else ("optimizer_states", "lr_schedulers")
    kept = {name: value for name, value in checkpoint.items() if name not in left_out}
    if not optimizers:
        kept |= {"optimizer_states": [o.state_dict() for o in trainer.optimizers], "lr_schedulers": []}
    trainer._checkpoint_connector._loaded_checkpoint = kept


def go_on_where_saved(trainer: Trainer) -> None:
    """Mend where Lightning resumes elsewhere than where the checkpoint was saved; once or several times.

    - With ``max_steps`` it runs an epoch that was over again, without batches, and counts it twice; one that was
      stopped inside it takes to be over.
    - After a checkpoint that was saved with the last batch of an epoch it goes on with the next epoch, but neither
      counts nor announces its beginning; and skips batches if that epoch is longer.
    - It forgets what `log(..., on_epoch=True)` had gathered of the epoch, so that its mean is that of the rest alone;
      after a checkpoint that was saved with the last batch it does not log the epoch at all.
    - It loses the state of a resumable loader where `estimated_stepping_batches` was read in `configure_optimizers`,
      which builds the loader too soon (Lightning issue 20550).
    """
    fit_loop, epoch_loop = trainer.fit_loop, trainer.fit_loop.epoch_loop
    epochs, batches = fit_loop.epoch_progress, epoch_loop.batch_progress
    recalled = _recalled.pop(trainer, {})
    if fit_loop.restarted_on_epoch_end and batches.is_last_batch:
        epochs.increment_completed()
        fit_loop.reset_restart_stage()
        batches.reset_on_run()
    elif fit_loop.restarted_on_epoch_end:
        for progress in (epochs.current, epochs.total):
            progress.processed -= 1  # type: ignore[attr-defined]
        fit_loop._restart_stage = "restarted_mid_epoch"  # Lightning's own word
    if not fit_loop.restarted_mid_epoch:
        return
    if epochs.current.processed == epochs.current.ready:  # type: ignore[attr-defined]
        with _in_the_epoch_before(trainer):
            if _gather_again(trainer, recalled):
                trainer._logger_connector.callback_metrics  # noqa: B018 - computes them, and keeps them for callbacks
                trainer._logger_connector.update_train_epoch_metrics()
        fit_loop.reset_restart_stage()
        if epoch_loop.restarted_on_train_batch_end:
            batches.current.completed = sys.maxsize  # it is compared with the length of the next epoch
        return
    _gather_again(trainer, recalled)
    loader = trainer.train_dataloader
    if isinstance(loader, PlannedLoader):
        for state in recalled.get("loaders", ()):
            loader.load_state_dict(state)  # once more where Lightning did: what must agree is compared
        loader.seek(trainer.current_epoch, batches.current.processed)  # type: ignore[attr-defined]


def keep_epoch(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Put what `log(..., on_epoch=True)` has gathered of this epoch into a checkpoint; once or several times.

    All processes call it, as they all save: each has gathered its own.
    """
    if _KEY in checkpoint or ends_epoch(checkpoint):
        return
    own = _gathered(trainer)
    everyone: list[Any] = [own]
    if trainer.world_size > 1 and distributed.is_available() and distributed.is_initialized():
        everyone = [None] * trainer.world_size
        distributed.all_gather_object(everyone, own)
    checkpoint[_KEY] = everyone


def recall_epoch(trainer: Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Keep for `go_on_where_saved` what a checkpoint tells of its epoch; once or several times."""
    if trainer.state.fn == "fit":
        states = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {}).get("combined_loader", [])
        loaders = states if len(states) == 1 else []
        _recalled[trainer] = {"means": checkpoint.get(_KEY, []), "loaders": loaders}


_KEY = "lightning_gap.epoch"
_recalled: WeakKeyDictionary[Trainer, dict[str, Any]] = WeakKeyDictionary()  # until the training starts
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


def _gathered(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """What this process has gathered of the running epoch, by Lightning's key, in plain types and tensors."""
    found = {}
    try:
        for key, metric in trainer.fit_loop.epoch_loop._results.items():
            meta, reductions = metric.meta, {fx: name for name, fx in _REDUCTIONS.items()}
            if not (metric.is_tensor and meta.on_epoch) or metric.has_reset or meta.sync.group is not None:
                continue  # a torchmetrics object has a state of its own
            entry = {name: getattr(meta, name) for name in _PLAIN} | {
                "reduce_fx": reductions[meta.reduce_fx],
                "sync": meta.sync.should,
                "rank_zero_only": meta.sync.rank_zero_only,
                "value": metric.value.detach().cpu().clone(),
                "samples": metric.cumulated_batch_size.cpu().clone() if meta.is_mean_reduction else None,
                "step": None if metric._forward_cache is None else metric._forward_cache.detach().cpu().clone(),
            }
            found[key] = entry
    except _OTHER_LIGHTNING:
        return {}
    return found


def _gather_again(trainer: Trainer, recalled: Mapping[str, Any]) -> bool:
    """Let the epoch's means begin with what a checkpoint had of them; whether there was anything."""
    shares = recalled.get("means") or [{}]
    alike = len(shares) == trainer.world_size
    share = shares[trainer.global_rank] if alike else _joined(shares, of_first=trainer.global_rank == 0)
    try:
        results = trainer.fit_loop.epoch_loop._results
        parts = sys.modules[type(results).__module__]
        for key, entry in share.items():
            results[key] = _metric(trainer, parts, results, key, entry)
    except _OTHER_LIGHTNING:
        return False
    return bool(share)


def _metric(trainer: Trainer, parts: ModuleType, results: dict[str, Any], key: str, entry: dict[str, Any]) -> Any:
    """One of Lightning's own, which gives way to the module's as soon as the module logs this key."""

    class Kept(parts._Metadata):  # type: ignore[misc, name-defined]
        def __eq__(self, others: object) -> bool:
            # Lightning compares at each `log` and refuses other terms. They may be: the module was edited in between.
            fresh = parts._ResultMetric(others, True)
            if fresh.meta.reduce_fx is self.reduce_fx and not metric.has_reset:
                _fill(fresh, entry, trainer)
            results[key] = fresh.to(trainer.strategy.root_device)
            return True

        __hash__ = None  # type: ignore[assignment]

    meta = Kept(**{name: entry[name] for name in _PLAIN}, reduce_fx=_REDUCTIONS[entry["reduce_fx"]])
    meta.sync = parts._Sync(fn=trainer.strategy.reduce, _should=entry["sync"], rank_zero_only=entry["rank_zero_only"])
    meta.fx += " before it was resumed"  # with the first `log` of a hook all that is of this hook is reset
    metric = parts._ResultMetric(meta, True)
    metric._update_count = 1  # torchmetrics warns of one that nothing was added to
    return _fill(metric, entry, trainer)


def _fill(metric: Any, entry: dict[str, Any], trainer: Trainer) -> Any:
    device = trainer.strategy.root_device
    metric.value = entry["value"].to(device)
    if entry["samples"] is not None:
        metric.cumulated_batch_size = entry["samples"].to(device)
    metric._forward_cache = None if entry["step"] is None else entry["step"].to(device)
    return metric


def _joined(shares: list[dict[str, dict[str, Any]]], *, of_first: bool) -> dict[str, dict[str, Any]]:
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


@contextmanager
def _in_the_epoch_before(trainer: Trainer) -> Iterator[None]:
    """So that loggers are told the epoch whose values these are."""
    current = trainer.fit_loop.epoch_progress.current
    current.completed -= 1
    yield
    current.completed += 1
