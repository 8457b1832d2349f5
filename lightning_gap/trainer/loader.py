"""The train loader of a Trainer: give it another batch size, rebuild it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import repeat
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import Subset, SubsetRandomSampler

from ..data._planned_loader import PlannedLoader
from ..data.stream import ResumableStream
from . import _private
from .batches import micro_batch_size
from .resizing import (
    as_before,
    check_resizable,
    first_batch_size,
    first_indices,
    prove_that_the_sampler_follows,
    refuse_several,
    resized,
)
from .state import same_random_numbers
from .stated_batches import nominal_size, samplers_of


class TrainLoaderReload:
    """Lets Lightning ask for the train loader of one Trainer again."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._source = _private.data_source(trainer.fit_loop)
        self._reloads: int | None = None  # the user's own interval, while ours stands in its place

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
        _private.forget_combined_loader(self._trainer)
        self._trainer.fit_loop.setup_data()


class TrainLoaderSize(TrainLoaderReload):
    """The batch size of one Trainer's train loader, and what to put back when the fit is over.

    Args:
        trainer: Its train loader comes from the module, a data module, or was given to `fit`.
        attribute: The attribute of the module or data module that its `train_dataloader` reads.

    Raises:
        ValueError: If there is no such attribute, or the loader that was given has no batch size to set.
    """

    def __init__(self, trainer: Trainer, attribute: str) -> None:
        super().__init__(trainer)
        self._given: Any = self._source.instance
        self._attribute = attribute if self._source.is_module() else "batch_size"
        self._holders: list[Any] = []  # what has this attribute; without one, the loader given is replaced
        if self._source.is_module():
            holders = _private.holders_of_attribute(trainer.lightning_module, attribute)
            self._holders = [holder for holder in holders if _takes(holder, attribute)]
            if not self._holders:
                raise ValueError(
                    f"the batch size cannot be set: neither {type(trainer.lightning_module).__name__} nor its data "
                    f"module has an attribute {attribute!r} that can be set; let train_dataloader() read its batch "
                    f"size from self.{attribute}, or pass batch_arg_name=... with the attribute that it does read"
                )
        else:
            check_resizable(self._given)
            self._holders = [self._given] if isinstance(self._given, PlannedLoader | ResumableStream) else []
        self._before = [_get(holder, self._attribute) for holder in self._holders]

    def set(self, micro_batch_size: int) -> None:
        """Write the size, in samples per batch and process, to where the next loader will be made from."""
        self._write(repeat(micro_batch_size))
        if not self._holders:
            self._source.instance = resized(self._given, micro_batch_size, self._trainer)

    def check(self, micro_batch_size_set: int) -> None:
        """Raise if the loader that Lightning built has another size."""
        refuse_several(self._trainer.train_dataloader)
        found = micro_batch_size(self._trainer)
        if found not in (None, micro_batch_size_set):
            raise ValueError(
                f"the batch size was set to {micro_batch_size_set} samples for each process and batch, but "
                f"train_dataloader() gave a loader with {found}; let it read its batch size from "
                f"self.{self._attribute}, or pass batch_arg_name=... with the attribute that it does read"
            )

    def prove(self, micro_batch_sizes: Iterable[int], *, by_batches: bool) -> None:
        """Raise if the loader will not follow when one of these sizes is set: ask for it now, and put all back.

        ``by_batches`` tells whether the first axis of a batch may speak for a loader that states nothing.
        """
        for size in micro_batch_sizes:
            if self._source.is_module():
                self._prove_that_the_hook_follows(size, by_batches)
            elif not self._holders:
                prove_that_the_sampler_follows(resized(self._given, size, self._trainer), size)

    def _prove_that_the_hook_follows(self, size: int, by_batches: bool) -> None:
        trainer, before = self._trainer, [_get(holder, self._attribute) for holder in self._holders]
        owners = (trainer.lightning_module, trainer.datamodule)  # type: ignore[attr-defined]
        now, guessed = trainer.train_dataloader, False
        with same_random_numbers(), as_before(*owners, now, *samplers_of(now)):
            try:
                self._write(repeat(size))
                loader = self._source.dataloader()
                found = first_indices(loader) or nominal_size(loader)
                if found is None and loader is not now and by_batches:  # it states no size; its first batch may
                    found, guessed = first_batch_size(loader), True
            except Exception as error:
                raise ValueError(
                    f"the batch size will be set to {size} samples for each process and batch, and train_dataloader() "
                    f"cannot make a loader with {self._attribute}={size}: {error}"
                ) from error
            finally:
                self._write(before)
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
        for key, owner in owners.items():
            for holder, value in zip(self._holders, self._before, strict=True):
                if key in checkpoint and holder is getattr(owner, "hparams", None):
                    checkpoint[key][self._attribute] = value

    def restore(self) -> None:
        """Put back what the user had."""
        self.reloaded()
        self._write(self._before)
        self._source.instance = self._given

    def _write(self, values: Iterable[Any]) -> None:
        for holder, value in zip(self._holders, values, strict=False):
            _set(holder, self._attribute, value)


def given_loaders(trainer: Trainer) -> tuple[Any, Any]:
    """What was passed to `fit` to train and to validate with; None where module or data module make the loaders."""
    sources = (_private.data_source(loop) for loop in (trainer.fit_loop, trainer.fit_loop.epoch_loop.val_loop))
    train, val = (None if source.is_module() else source.instance for source in sources)
    return train, val


def collected_train_loaders(trainer: Trainer) -> list[Any]:
    """The train loaders inside a dict or list of them, as Lightning prepared them; empty for a loader by itself."""
    combined = _private.combined_loader(trainer)
    loaders: list[Any] = [] if combined is None else list(combined.flattened)
    return [] if any(loader is trainer.train_dataloader for loader in loaders) else loaders


def samples_served(loader: Any, dataset: Any) -> Any:
    """The part of the data set that the loader serves: a `SubsetRandomSampler` splits one set between two loaders."""
    sampler = getattr(loader, "sampler", None)
    shared = _private.sampler_shared_out(sampler)
    sampler = sampler if shared is None else shared
    return Subset(dataset, list(sampler.indices)) if isinstance(sampler, SubsetRandomSampler) else dataset


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
