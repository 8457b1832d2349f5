"""The train loader of a Trainer: give it another batch size, rebuild it, go on where a checkpoint stopped."""

from __future__ import annotations

import copy
from collections.abc import Sized
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.parsing import _lightning_get_all_attr_holders
from torch.utils.data import BatchSampler, DataLoader

from ._lightning import micro_batch_size
from .data._planned_loader import PlannedLoader


class TrainLoaderSize:
    """The batch size of one Trainer's train loader, and what to put back when the fit is over.

    Args:
        trainer: Its train loader comes from the module, a data module, or was given to `fit`.
        attribute: The attribute of the module or data module that its `train_dataloader` reads.

    Raises:
        ValueError: If there is no such attribute, or the loader that was given has no batch size to set.
    """

    def __init__(self, trainer: Trainer, attribute: str) -> None:
        self._trainer = trainer
        self._attribute = attribute
        self._source = trainer.fit_loop._data_source
        self._given: Any = self._source.instance
        self._reloads: int | None = None  # the user's own interval, while ours stands in its place
        if self._source.is_module():
            holders = _lightning_get_all_attr_holders(trainer.lightning_module, attribute)
            self._holders = [holder for holder in holders if _takes(holder, attribute)]
            if not self._holders:
                raise ValueError(
                    f"the batch size cannot be set: neither {type(trainer.lightning_module).__name__} nor its data "
                    f"module has an attribute {attribute!r} that can be set; let train_dataloader() read its batch "
                    f"size from self.{attribute}, or pass batch_arg_name=... with the attribute that it does read"
                )
            self._before = [_get(holder, attribute) for holder in self._holders]
        else:
            self._before = [_size_of(self._given)]

    def set(self, micro_batch_size: int) -> None:
        """Write the size, in samples per batch and process, to where the next loader will be made from."""
        if self._source.is_module():
            for holder in self._holders:
                _set(holder, self._attribute, micro_batch_size)
        elif isinstance(self._given, PlannedLoader):
            self._given.batch_size = micro_batch_size
        else:
            self._source.instance = _resized(self._given, micro_batch_size, self._trainer)

    def reload_before_next_epoch(self) -> None:
        """Let Lightning ask for the loader again; lengths, progress, validation and shuffling then follow.

        By its own setting, which it reads after the last hook of this epoch and before the first of the next: no
        callback meets a Trainer without a loader.
        """
        if self._reloads is None:
            self._reloads = self._trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
        self._trainer.reload_dataloaders_every_n_epochs = 1  # type: ignore[attr-defined]

    def reloaded(self) -> None:
        """Take the setting back."""
        if self._reloads is not None:
            self._trainer.reload_dataloaders_every_n_epochs = self._reloads  # type: ignore[attr-defined]
            self._reloads = None

    def reload_now(self) -> None:
        """Build the loader anew before the first epoch begins."""
        self._trainer.fit_loop._combined_loader = None
        self._trainer.fit_loop.setup_data()

    def check(self, micro_batch_size_set: int) -> None:
        """Raise if the loader that Lightning built has another size."""
        found = micro_batch_size(self._trainer)
        if found not in (None, micro_batch_size_set):
            raise ValueError(
                f"the batch size was set to {micro_batch_size_set} samples for each process and batch, but "
                f"train_dataloader() gave a loader with {found}; let it read its batch size from "
                f"self.{self._attribute}, or pass batch_arg_name=... with the attribute that it does read"
            )

    def hide_from(self, checkpoint: dict[str, Any]) -> None:
        """Let the checkpoint's hyper-parameters be the user's own."""
        owners = {
            "hyper_parameters": self._trainer.lightning_module,
            "datamodule_hyper_parameters": self._trainer.datamodule,  # type: ignore[attr-defined]
        }
        for key, owner in owners.items() if self._source.is_module() else ():
            for holder, value in zip(self._holders, self._before, strict=True):
                if key in checkpoint and holder is getattr(owner, "hparams", None):
                    checkpoint[key][self._attribute] = value

    def restore(self) -> None:
        """Put back what the user had."""
        self.reloaded()
        if self._source.is_module():
            for holder, value in zip(self._holders, self._before, strict=True):
                _set(holder, self._attribute, value)
        elif isinstance(self._given, PlannedLoader):
            self._given.batch_size = self._before[0]
        elif self._source.instance is not self._given:
            self._source.instance = self._given


def _size_of(loader: Any) -> int:
    """The batch size of a loader that was given to `fit`."""
    if isinstance(loader, list | tuple | dict) or type(loader).__name__ == "CombinedLoader":
        raise ValueError(
            f"the batch size of several train loaders at once ({type(loader).__name__}) cannot be set; train with one"
        )
    if isinstance(loader, PlannedLoader | DataLoader):
        size = getattr(loader.batch_sampler, "batch_size", loader.batch_size)
        if isinstance(size, int):
            return size
    raise ValueError(
        f"the batch size of {_description(loader)} cannot be set; use a DataLoader with batch_size=..., a "
        "lightning_gap.ResumableLoader, or a module or data module whose train_dataloader() reads an attribute"
    )


def _description(loader: Any) -> str:
    sampler = getattr(loader, "batch_sampler", None)
    name = type(loader).__name__
    return f"a {name} with a {type(sampler).__name__} as batch_sampler" if sampler is not None else f"a {name}"


def _resized(loader: DataLoader[Any], size: int, trainer: Trainer) -> DataLoader[Any]:
    """A shallow copy with another batch size: data set, sampler, workers and generator are the user's own."""
    own_sampler = type(loader.batch_sampler) is not BatchSampler
    if own_sampler and trainer.world_size > 1:
        raise ValueError(
            f"the batch size of {_description(loader)} cannot be set on {trainer.world_size} processes, where "
            "Lightning makes the batch sampler anew; use batch_size=... with a sampler, or a ResumableLoader"
        )
    batch_sampler = copy.copy(loader.batch_sampler)
    vars(batch_sampler)["batch_size"] = size
    resized = copy.copy(loader)
    # Not by attribute, which a DataLoader refuses once it is made.
    vars(resized).update(batch_sampler=batch_sampler, _iterator=None)
    if loader.batch_size is not None:
        vars(resized)["batch_size"] = size
    if isinstance(loader.dataset, Sized) and len(loader.dataset) < size and loader.drop_last:
        raise ValueError(
            f"drop_last=True leaves no batch: {len(loader.dataset)} samples do not fill one of {size}; use a smaller "
            "batch size or drop_last=False"
        )
    return resized


def _get(holder: Any, attribute: str) -> Any:
    return holder[attribute] if isinstance(holder, dict) else getattr(holder, attribute)


def _takes(holder: Any, attribute: str) -> bool:
    """Whether the attribute can be set: a property may only pass on what the hyper-parameters say."""
    try:
        _set(holder, attribute, _get(holder, attribute))
    except AttributeError:
        return False
    return True


def _set(holder: Any, attribute: str, value: Any) -> None:
    if isinstance(holder, dict):
        holder[attribute] = value
    else:
        setattr(holder, attribute, value)
