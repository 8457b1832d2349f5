"""The data sets, LightningDataModules: each is imported when it is first asked for, so that a list needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..catalogue import read_docstring

if TYPE_CHECKING:
    from .cifar import CIFAR10 as CIFAR10
    from .cifar import CIFAR100 as CIFAR100
    from .data_module import ClassificationData as ClassificationData
    from .digits import Digits as Digits
    from .folder import FolderImages as FolderImages
    from .folder_data import FolderData as FolderData
    from .imagenet import ImageNet as ImageNet
    from .in_memory_data import InMemoryData as InMemoryData
    from .mnist import MNIST as MNIST
    from .samples import Batch as Batch
    from .samples import Frames as Frames
    from .samples import Images as Images
    from .samples import Samples as Samples
    from .text import PythonLibrary as PythonLibrary
    from .text import Text as Text
    from .timit import TIMIT as TIMIT
    from .timit_stand_in import TIMITStandIn as TIMITStandIn

_NAMES = {
    "cifar": ["CIFAR10", "CIFAR100"],
    "data_module": ["ClassificationData"],
    "digits": ["Digits"],
    "folder": ["FolderImages"],
    "folder_data": ["FolderData"],
    "imagenet": ["ImageNet"],
    "in_memory_data": ["InMemoryData"],
    "mnist": ["MNIST"],
    "samples": ["Batch", "Frames", "Images", "Samples"],
    "text": ["PythonLibrary", "Text"],
    "timit": ["TIMIT"],
    "timit_stand_in": ["TIMITStandIn"],
}
_FILES = {name: file for file, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_FILES[name]}", __name__), name)


class DataSets(Mapping[str, "type[ClassificationData[Any]]"]):
    """Data modules by the name that the command line knows them by.

    Args:
        classes: Names of the classes, by that name.
    """

    def __init__(self, classes: Mapping[str, str]) -> None:
        self._classes = dict(classes)

    def __getitem__(self, name: str) -> type[ClassificationData[Any]]:
        found: type[ClassificationData[Any]] = __getattr__(self._classes[name])
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._classes  # by the name alone: the default would import the class

    def __iter__(self) -> Iterator[str]:
        return iter(self._classes)

    def __len__(self) -> int:
        return len(self._classes)

    def summary(self, name: str) -> str:
        """First line of a data module's docstring, read from its file without importing it."""
        wanted = self._classes[name]
        return read_docstring(f"datasets/{_FILES[wanted]}.py", wanted).partition("\n")[0]


DATASETS = DataSets(
    {
        "digits": "Digits",
        "mnist": "MNIST",
        "cifar10": "CIFAR10",
        "cifar100": "CIFAR100",
        "timit": "TIMIT",
        "timit-stand-in": "TIMITStandIn",
        "imagenet": "ImageNet",
        "python-library": "PythonLibrary",
        "text": "Text",
    }
)
