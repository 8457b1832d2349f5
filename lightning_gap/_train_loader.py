"""The train loader of a Trainer: give it another batch size, rebuild it, go on where a checkpoint stopped."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sized
from itertools import islice
from types import GeneratorType
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.parsing import _lightning_get_all_attr_holders
from torch.utils.data import BatchSampler, DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from ._batches import batch_sampler_of, micro_batch_size, nominal_size, samplers_of, stated_batches
from ._lightning import same_random_numbers
from ._state import Remembered
from .data._planned_loader import PlannedLoader
from .functional._sample_count import guess_samples


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
        _refuse_several(self._trainer.train_dataloader)
        found = micro_batch_size(self._trainer)
        if found not in (None, micro_batch_size_set):
            raise ValueError(
                f"the batch size was set to {micro_batch_size_set} samples for each process and batch, but "
                f"train_dataloader() gave a loader with {found}; let it read its batch size from "
                f"self.{self._attribute}, or pass batch_arg_name=... with the attribute that it does read"
            )

    def prove(self, micro_batch_sizes: Iterable[int], *, by_batches: bool) -> None:
        """Raise if the loader will not follow when one of these sizes is set: ask for it now, and put all back.

        Args:
            micro_batch_sizes: In samples.
            by_batches: Whether the first axis of a batch may speak for a loader that states nothing.

        Raises:
            ValueError: If the loader that is made with a size has another one, or cannot be made.
        """
        for size in micro_batch_sizes:
            if self._source.is_module():
                self._prove_that_the_hook_follows(size, by_batches)
            elif not isinstance(self._given, PlannedLoader):
                _prove_that_the_sampler_follows(_resized(self._given, size, self._trainer), size)

    def _prove_that_the_hook_follows(self, size: int, by_batches: bool) -> None:
        trainer, before = self._trainer, [_get(holder, self._attribute) for holder in self._holders]
        owners = (trainer.lightning_module, trainer.datamodule)  # type: ignore[attr-defined]
        now, guessed = trainer.train_dataloader, False
        with same_random_numbers(), _as_before(*owners, now, *samplers_of(now)):
            try:
                for holder in self._holders:
                    _set(holder, self._attribute, size)
                loader = self._source.dataloader()
                found = _first_indices(loader) or nominal_size(loader)
                if found is None and loader is not now and by_batches:  # it states no size; its first batch may
                    found, guessed = _first_batch_size(loader), True
            except Exception as error:
                raise ValueError(
                    f"the batch size will be set to {size} samples for each process and batch, and train_dataloader() "
                    f"cannot make a loader with {self._attribute}={size}: {error}"
                ) from error
            finally:
                for holder, value in zip(self._holders, before, strict=True):
                    _set(holder, self._attribute, value)
        if found not in (None, size):
            again = ", the same as before" if loader is now else " by the first axis of a batch" if guessed else ""
            count = "; if that axis is not the sample, pass count=... with a function of the batch" if guessed else ""
            raise ValueError(
                f"the batch size will be set to {size} samples for each process and batch, but train_dataloader() then "
                f"gives a loader with {found}{again}; let it make a new loader each time it is called and read its "
                f"batch size from self.{self._attribute}, or pass batch_arg_name=... with the attribute that it reads"
                f"{count}"
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
    _refuse_several(loader)
    size = None
    if isinstance(loader, PlannedLoader):
        size = loader.batch_size
    elif isinstance(loader, DataLoader):
        size = getattr(batch_sampler_of(loader), "batch_size", None)
        kept = [
            name
            for name, value in vars(loader).items()
            if name != "_iterator" and isinstance(value, _BaseDataLoaderIter | GeneratorType)
        ]
        if kept:
            raise ValueError(
                f"the batch size of {_description(loader)} cannot be set: it keeps one iterator for all epochs, in "
                f"{kept[0]!r}, whose batches are made already; use a plain DataLoader, with persistent_workers=True if "
                "its workers are to live on"
            )
    if isinstance(size, int):
        return size
    raise ValueError(
        f"the batch size of {_description(loader)} cannot be set; use a DataLoader with batch_size=..., a "
        "lightning_gap.ResumableLoader, or a module or data module whose train_dataloader() reads an attribute"
    )


def _refuse_several(loader: Any) -> None:
    if isinstance(loader, list | tuple | dict) or type(loader).__name__ == "CombinedLoader":
        raise ValueError(
            f"the batch size of several train loaders at once ({type(loader).__name__}) cannot be set; train with one"
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
    batch_sampler = copy.copy(batch_sampler_of(loader))
    vars(batch_sampler)["batch_size"] = size
    resized = copy.copy(loader)
    # Not by attribute, which a DataLoader refuses once it is made.
    place = "sampler" if loader.batch_sampler is None else "batch_sampler"  # of a loader with batch_size=None
    vars(resized).update({place: batch_sampler, "_iterator": None})
    if loader.batch_size is not None:
        vars(resized)["batch_size"] = size
    if isinstance(loader.dataset, Sized) and len(loader.dataset) < size and loader.drop_last:
        raise ValueError(
            f"drop_last=True leaves no batch: {len(loader.dataset)} samples do not fill one of {size}; use a smaller "
            "batch size or drop_last=False"
        )
    return resized


def _prove_that_the_sampler_follows(resized: DataLoader[Any], size: int) -> None:
    """Raise if a batch sampler of the user's gives other batches than it was set to."""
    found = _first_indices(resized)
    samples = len(resized.dataset) if isinstance(resized.dataset, Sized) else None
    if found not in (None, size) and not (samples is not None and samples < size):
        raise ValueError(
            f"the batch size of {_description(resized)} cannot be set: it was set to {size} samples for each process "
            f"and batch, but a batch holds {found}; let it read self.batch_size when it is iterated"
        )


def _first_indices(loader: Any) -> int | None:
    """Samples in the first batch of a batch sampler of the user's; ``None`` with torch's own, which is as it says."""
    return next(iter(index_counts(loader, 1)), None)


def index_counts(loader: Any, most: int) -> list[int]:
    """Samples in the first batches of a batch sampler of the user's; none with torch's own, which is as it says."""
    batch_sampler = batch_sampler_of(loader) if isinstance(loader, DataLoader) else None
    if batch_sampler is None or stated_batches(loader) is not None:
        return []
    with same_random_numbers(), _as_before(*samplers_of(loader), getattr(batch_sampler, "sampler", None)):
        return [len(indices) for indices in islice(iter(batch_sampler), most) if isinstance(indices, Sized)]


def _first_batch_size(loader: Any) -> int | None:
    """Samples in the first batch of a loader that states no size; ``None`` where it can be read once only."""
    iterator = iter(loader)
    return None if iterator is loader else guess_samples(next(iterator, None))


def _as_before(*owners: Any) -> Remembered:
    """Put back at the end what trying something out on these objects changes, but for their tensors."""
    named = {type(owner).__name__ + str(i): owner for i, owner in enumerate(owners) if owner is not None}
    return Remembered(named, as_data=named, stand_ins=False)


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
