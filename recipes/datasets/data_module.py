"""What all data modules do alike: take their settings from a recipe, read once, share out the batch."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from lightning.pytorch import LightningDataModule, Trainer

from lightning_gap.functional._validation import flag, refusal, seed_number, whole_number

from ..lookup import lookup
from .augmentations import AUGMENTATIONS
from .integrity import explained_permissions
from .subsets import Subsettable, split_for_training

S = TypeVar("S", bound=Subsettable)


class ClassificationData(LightningDataModule, Generic[S]):
    """Training, validation and test samples of a data set.

    No file is read before `setup`, and none is downloaded unless asked for. The validation samples are drawn with
    seed 0 whatever ``seed`` is, so that all trials train on the same samples. A resumed run, also inside an
    epoch, continues with the samples and the random numbers that would have come.

    Args:
        recipe: Where the four arguments come from that are None: any object that has attributes of their names. A
            value beside it that differs is refused.
        batch_size: Samples per optimizer step, over all processes and micro-batches.
        augmentation: Of the training samples: "none" (the default), "crop-flip", "affine" or "scale-crop". Evaluation
            and monitors see the samples without it.
        standardise: Whether each channel has mean 0 and standard deviation 1 over the training images.
        validation_size: Samples held out of the training split, 0 by default; of speech, whole utterances with at
            least so many frames.
        data_dir: Folder that holds the files of the data set.
        download: Download the files into ``data_dir`` if they are not there.
        num_workers: Processes that read images of a set that does not fit in memory, for each process that trains; by
            default one for each CPU core, at most 8.
        seed: Seed of the training order and of the augmentation.

    Attributes:
        name: What the command line calls the data set.
        num_classes: Targets are from 0 to ``num_classes - 1``; of ImageNet, known after `setup`.
        input_shape: Shape of one input.
        mirrored: Whether a mirror image is of the same class: that of an object is, that of a digit is not.
        note: What every table says of the data set, for instance that it stands in for another.
        train: Training samples, after `setup`.
        validation: Samples held out of the training split, after `setup`.
        test: Test samples, after `setup`.
        batch_size: Samples per optimizer step; once a Trainer has set the module up, the samples of it that one
            process trains on at a time, which callbacks such as `BatchSizeScheduler` read and set.

    Raises:
        ValueError: If an argument is out of range or contradicts the recipe, or there is no batch size.
    """

    name: str
    title: str
    mirrored = False
    note = ""
    num_classes: int
    input_shape: tuple[int, ...]
    train: S
    validation: S
    test: S

    def __init__(
        self,
        recipe: Any = None,
        *,
        batch_size: int | None = None,
        augmentation: str | None = None,
        standardise: bool | None = None,
        validation_size: int | None = None,
        data_dir: Path | str = "data",
        download: bool = False,
        num_workers: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        step = setting(recipe, "batch_size", batch_size, None)
        if step is None:
            raise ValueError(
                "batch_size=None: pass batch_size=..., samples per optimizer step, or a recipe that has it"
            )
        _require_settings(recipe)
        self._step = whole_number("batch_size", step)
        self._shares = 1  # of an optimizer step, over processes and micro-batches
        named = setting(recipe, "augmentation", augmentation, "none")
        self.augmentation = lookup("augmentation", named, AUGMENTATIONS)
        self.standardise = flag("standardise", setting(recipe, "standardise", standardise, False))
        held_out = setting(recipe, "validation_size", validation_size, 0)
        self.validation_size = whole_number("validation_size", held_out, 0)
        if not isinstance(data_dir, str | Path):
            raise ValueError(refusal("data_dir", "must be the path of a folder", data_dir))
        self.data_dir = Path(data_dir)
        self.download = flag("download", download)
        self.num_workers = None if num_workers is None else whole_number("num_workers", num_workers, 0)
        self.seed = seed_number("seed", seed)
        self._all: S | None = None  # training and validation samples, once they are read

    @property
    def batch_size(self) -> int:
        """Samples of a batch of the train loader, which are those of a step until a Trainer shares them out."""
        return self._step // self._shares

    @batch_size.setter
    def batch_size(self, batch_size: int) -> None:
        self._step = batch_size * self._shares

    @abstractmethod
    def read(self) -> tuple[S, S]:
        """The samples to train on and those to test with, from the files in ``data_dir``.

        Raises:
            FileNotFoundError: If a file is missing; says which and where it goes.
            PermissionError: If a file may not be read.
            ValueError: If a file is damaged or does not hold what it should.
        """

    @abstractmethod
    def evaluation(self, split: str, chunk: int, most: int | None = None) -> Iterable[Any]:
        """Samples of a split ("train", "validation", "test") in order and as they are, for this process alone.

        Args:
            split: Which.
            chunk: Samples in a batch.
            most: Most samples, a subset drawn with seed 0; all by default.
        """

    @abstractmethod
    def in_order(self, samples: S) -> Any:
        """A loader of samples in order, to evaluate on."""

    def val_dataloader(self) -> Any:
        """The held-out samples; an empty list where there are none."""
        if len(self.validation):
            return self.in_order(self.validation)
        # Lightning asks whether an empty list is meant, and here it is.
        warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")
        return []

    def test_dataloader(self) -> Any:
        """The test samples."""
        return self.in_order(self.test)

    def fetch(self) -> None:
        """Download what is missing; a data set that cannot be downloaded says so in `read`."""

    def prepare_data(self) -> None:
        """Download the files if that is asked for and they are not there."""
        if self.download:
            with explained_permissions(self.data_dir):
                self.fetch()

    def setup(self, stage: str | None = None) -> None:
        """Read the files, once, and share the batch out over the Trainer's processes and micro-batches.

        Raises:
            FileNotFoundError: If a file is missing; says which and where it goes.
            PermissionError: If a file may not be read.
            ValueError: If a file is damaged, or a setting does not fit the samples or the Trainer.
        """
        if self.trainer is not None:
            self._share_out_batch(self.trainer)
        if self._all is None:
            with explained_permissions(self.data_dir):
                everything, test = self.read()
            if self.standardise:
                everything, test = self.standardised(everything, test)
            self.input_shape = everything.input_shape
            self._kept, self._held_out = split_for_training(everything, self.validation_size, self._step)
            self._all, self.test = everything, test
            self._split()

    def standardised(self, train: S, test: S) -> tuple[S, S]:
        """Both splits with the training images' mean and standard deviation made 0 and 1.

        Raises:
            ValueError: If the samples are not images in memory.
        """
        raise ValueError(
            f"standardise=True is for images in memory; the {self.name} data comes standardised, leave it out"
        )

    def _split(self) -> None:
        assert self._all is not None
        self.train, self.validation = self._all.subset(self._kept), self._all.subset(self._held_out)

    def _share_out_batch(self, trainer: Trainer) -> None:
        shares = trainer.world_size * trainer.accumulate_grad_batches
        if self._step % shares:
            raise ValueError(
                f"batch_size={self._step} cannot be split equally over {trainer.world_size} processes and "
                f"accumulate_grad_batches={trainer.accumulate_grad_batches}; use a multiple of {shares}"
            )
        self._shares = shares


def _require_settings(recipe: Any) -> None:
    """Refuse what no setting can come from: a path or a number where the recipe is due."""
    names = ("batch_size", "augmentation", "standardise", "validation_size", "length", "sequences")
    if recipe is not None and not any(hasattr(recipe, name) for name in names):
        raise ValueError(
            refusal("recipe", "must be a recipe, or an object with attributes such as batch_size", recipe, "or None")
        )


def setting(recipe: Any, name: str, given: Any, otherwise: Any) -> Any:
    """The recipe's value or the given one, which must not differ; of neither the default."""
    asked = getattr(recipe, name, None)
    if given is None:
        return otherwise if asked is None else asked
    if asked is not None and asked != given:
        raise ValueError(
            f"{name}={given!r} contradicts {name}={asked!r} of the recipe {type(recipe).__name__}; leave it out, "
            "or change the recipe"
        )
    return given
