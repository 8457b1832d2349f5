"""The data module of an image set that torchvision reads, or that lies in one NumPy archive."""

from __future__ import annotations

import socket
from abc import abstractmethod
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, ClassVar

import torch
from torchvision.datasets.utils import check_integrity

from .in_memory_data import InMemoryData
from .integrity import is_file, lacks
from .npz import read_npz
from .samples import Images


class PublishedImages(InMemoryData):
    """Images in torchvision's own layout below ``data_dir``, or in ``data_dir/<name>.npz``.

    Pixels divided by 255, inputs (N, C, H, W). The archive holds uint8 arrays x_train and x_test, (N, H, W) or
    (N, H, W, 3), and labels y_train and y_test, flat or as a column. Arguments and attributes are those of
    `ClassificationData`.

    Attributes:
        title: What people call the data set.
        published: torchvision's class.
        patience: Seconds that a download waits for an answer: torchvision would for minutes in a blocked network.
    """

    published: ClassVar[Any]
    patience: ClassVar[float] = 4.0

    @abstractmethod
    def checksums(self) -> Mapping[str, str]:
        """MD5 of each file by its path below ``data_dir``."""

    def fetch(self) -> None:
        """Let torchvision download the files, unless they or the archive are there.

        Raises:
            FileNotFoundError: If that fails; says what to do by hand.
        """
        if not self._missing() or is_file(self._archive) or is_file(self.data_dir):
            return
        before = socket.getdefaulttimeout()
        socket.setdefaulttimeout(self.patience)
        try:
            self.published(self.data_dir, download=True)
        except PermissionError:
            raise
        except (OSError, RuntimeError, HTTPException) as error:
            reason = " ".join(str(error).split())
            raise FileNotFoundError(
                f"{self.title} cannot be downloaded ({reason}): {self._by_hand()}; the data set digits needs no files"
            ) from None
        finally:
            socket.setdefaulttimeout(before)

    def read(self) -> tuple[Images, Images]:
        if not self._missing():
            self._check_files()
            return self._read_split(train=True), self._read_split(train=False)
        if is_file(self._archive):
            channels, *size = self.input_shape
            return read_npz(self._archive, (*size, *([channels] if channels > 1 else [])), self.num_classes)
        raise FileNotFoundError(
            f"{lacks(self.data_dir, self.title)}: {self._by_hand()}, pass the --data_dir that holds them, or "
            "--download to fetch them; the data set digits needs no files"
        )

    def _read_split(self, *, train: bool) -> Images:
        stored = self.published(self.data_dir, train=train)
        pixels = torch.as_tensor(stored.data)  # (N, H, W) or (N, H, W, 3)
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
        return Images(pixels.contiguous(), torch.as_tensor(stored.targets))

    def _check_files(self) -> None:
        """Say which file is damaged: torchvision would not, and of MNIST's it checks the packed ones only."""
        for name, md5 in self.checksums().items():
            if not check_integrity(self.data_dir / name, md5):
                raise ValueError(
                    f"{str(self.data_dir / name)!r} is damaged or only half downloaded, its MD5 checksum is not {md5}; "
                    "delete it and get it again, by hand or with --download"
                )

    @property
    def _archive(self) -> Path:
        return self.data_dir / f"{self.name}.npz"

    def _missing(self) -> list[str]:
        return [name for name in self.checksums() if not is_file(self.data_dir / name)]

    def _by_hand(self) -> str:
        return f"put {', '.join(self._missing())} into {self.data_dir}, or {self._archive.name} in their place"
