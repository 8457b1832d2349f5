"""Tell each train loader that a fit makes which batch sizes its epoch has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lightning.pytorch import Trainer

from ..data._planned_loader import PlannedLoader
from ..data.stream import ResumableStream
from .loader import TrainLoaderReload
from .resizing import refuse_several

_HOOK = "train_dataloader"


class PlannedLoaderSizes(TrainLoaderReload):
    """The train loaders of one fit: the one that was given to it, or those that its hook makes.

    Args:
        trainer: Its train loader comes from the module, a data module, or was given to `fit`.
        plan: Called with each loader before Lightning reads its length or asks it for a batch, and by `plan_again`.

    Raises:
        ValueError: If several loaders were given at once.
    """

    def __init__(self, trainer: Trainer, plan: Callable[[Any], None]) -> None:
        super().__init__(trainer)
        self._plan = plan
        self._maker: Any = None  # the module or data module whose hook makes the loaders
        self._loader: Any = None
        self._size: int | None = None  # of the loader, by its user
        if self._source.is_module():
            self._maker = self._source.instance
            self._make = getattr(self._maker, _HOOK)
            setattr(self._maker, _HOOK, lambda: self._made())  # a function: copies of the module leave it as it is
        else:
            refuse_several(self._source.instance)
            self._keep(self._source.instance)

    def plan_again(self) -> None:
        """Plan the loader at hand once more: another epoch comes, or a checkpoint has been read."""
        if self._loader is not None:
            self._plan(self._loader)

    def restore(self) -> None:
        """Put back what the user had."""
        self.reloaded()
        if self._maker is not None:
            vars(self._maker).pop(_HOOK, None)
        self._put_size_back()

    def _made(self) -> Any:
        self._put_size_back()  # a hook may give the same loader each time
        loader = self._make()
        refuse_several(loader)
        self._keep(loader)
        self._plan(loader)
        return loader

    def _keep(self, loader: Any) -> None:
        own = isinstance(loader, PlannedLoader | ResumableStream)
        self._loader, self._size = loader, loader.batch_size if own else None

    def _put_size_back(self) -> None:
        if self._size is not None:
            self._loader.plan_sizes(self._size)
