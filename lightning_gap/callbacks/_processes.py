"""Refuse processes that were given different settings or data, before the first step.

Each of them would train in its own way, or wait forever for what the others never do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.fabric.utilities.data import sized_len
from lightning.pytorch import Trainer

from ..data._planned_loader import PlannedLoader
from ..trainer.loader import given_loaders
from ..trainer.processes import are_several, from_all_processes

Settings = dict[str, Any]


def refuse_different_callbacks(trainer: Trainer, ours: Iterable[tuple[str, Settings]]) -> None:
    """Raise on every process if the callbacks of this package differ, in kind, order or settings.

    ``ours``, their names and settings, is read only where there are other processes.
    """
    if not are_several(trainer):
        return
    run = {name: getattr(trainer, name) for name in ("accumulate_grad_batches", "max_epochs", "max_steps")}
    # Lightning asks for the sum of their lengths only where a loader has one, and waits for ever where some do not ask.
    sized = [[sized_len(loader) is not None for loader in _flat(given)] for given in given_loaders(trainer)]
    loaders = {"whether train loaders have a length": sized[0], "whether validation loaders have a length": sized[1]}
    _refuse(trainer, [*ours, ("Trainer", run), ("Trainer.fit", loaders)], what="callbacks")


def refuse_different_loaders(trainer: Trainer) -> None:
    """Raise on every process if the numbers of batches differ, or the settings of our loaders."""
    if not are_several(trainer):
        return
    loaders = [*_flat(trainer.train_dataloader), *_flat(trainer.val_dataloaders)]
    _refuse(trainer, [(type(loader).__name__, _of_loader(loader)) for loader in loaders], what="loaders")
    everyone = from_all_processes(trainer, trainer.num_training_batches)
    if len(set(everyone)) > 1:
        told = _by_rank([f"{other} batches" for other in everyone])
        raise ValueError(
            f"the processes have different settings: the train loader gives {told}, and a process with more would "
            "wait forever for one with fewer; give all of them the same number, with Trainer(limit_train_batches=...), "
            "a distributed sampler, or ResumableLoader, which shares out each batch"
        )


def _of_loader(loader: Any) -> Settings:
    if not isinstance(loader, PlannedLoader):
        return {}
    names = ("batch_size", "shuffle", "seed", "drop_last", "reseed")
    augments = {"augment": getattr(loader, "augment", None) is not None}
    return {name: getattr(loader, name) for name in names} | {"samples": len(loader.dataset)} | augments


def _flat(loaders: Any) -> list[Any]:
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    return [] if loaders is None else list(loaders) if isinstance(loaders, list | tuple) else [loaders]


def _refuse(trainer: Trainer, found: list[tuple[str, Settings]], *, what: str) -> None:
    """Exchange, and raise at the first setting that differs."""
    everyone = from_all_processes(trainer, found)
    kinds = [[name for name, _ in settings] for settings in everyone]
    if any(other != kinds[0] for other in kinds):
        shown = _by_rank(
            ["[" + ", ".join(name for name in names if name not in ("Trainer", "Trainer.fit")) + "]" for names in kinds]
        )
        raise ValueError(
            f"the processes have different settings: their {what} are {shown}, in this order; give all of them the same"
        )
    for same in zip(*everyone, strict=True):
        name, own = same[0]
        for argument in own:
            values = [settings.get(argument) for _, settings in same]
            if any(value != values[0] for value in values):
                raise ValueError(
                    f"{name} has different settings on different processes: {argument} is "
                    f"{_by_rank([repr(value) for value in values])}; give all of them the same"
                )


def _by_rank(values: list[str]) -> str:
    """``a on rank 0 and 2, b on rank 1``."""
    ranks: dict[str, list[str]] = {}
    for rank, value in enumerate(values):
        ranks.setdefault(value, []).append(str(rank))
    return ", ".join(f"{value} on rank {' and '.join(own)}" for value, own in ranks.items())
