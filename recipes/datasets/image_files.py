"""An image set as its publishers give it out, or as one NumPy archive."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_gap.recipes.datasets.download import fetch
from lightning_gap.recipes.datasets.integrity import explained_permissions, is_file, lacks
from lightning_gap.recipes.datasets.npz import read_npz
from lightning_gap.recipes.datasets.samples import Images
from lightning_gap.recipes.datasets.splits import Splits


@dataclass(frozen=True)
class ImageFiles:
    """Where the files of an image set lie and what is in them.

    Attributes:
        title: What people call it.
        folder: Place of the files below ``data_dir``, torchvision's own.
        checksums: MD5 of each file there.
        archive: Name of the NumPy archive in ``data_dir`` that can stand for them.
        image_shape: Of one image in the archive, (H, W) or (H, W, 3).
        num_classes: Number of classes.
        mirrored: As in `Splits`.
        read: Training or test samples from the folder, by ``train``; checks what it reads.
        download: Puts the files below the ``data_dir`` it is given.
        servers: Where it gets them.
    """

    title: str
    folder: str
    checksums: Mapping[str, str]
    archive: str
    image_shape: tuple[int, ...]
    num_classes: int
    mirrored: bool
    read: Callable[[Path, bool], Images]
    download: Callable[[Path], object]
    servers: Sequence[str]

    def load(self, data_dir: Path, *, download: bool) -> Splits:
        """Read the files, or the archive where they are not all there.

        Raises:
            FileNotFoundError: If neither is there, or the download failed.
            PermissionError: If a file may not be read.
            ValueError: If a file is damaged or does not hold what it should.
        """
        folder, archive = data_dir / self.folder, data_dir / self.archive
        with explained_permissions(data_dir):
            missing = self._missing(folder)
            if missing and is_file(archive):
                train, test = read_npz(archive, self.image_shape, self.num_classes)
                return Splits(train, test, self.num_classes, self.mirrored)
            if missing and download and not is_file(data_dir):
                by_hand = f"{self._by_hand(data_dir, missing)}; --data digits needs no files"
                fetch(self.title, data_dir, self.download, servers=self.servers, by_hand=by_hand)
                missing = self._missing(folder)
            if missing:
                raise FileNotFoundError(
                    f"{lacks(data_dir, self.title)}: {self._by_hand(data_dir, missing)}, pass the --data_dir that "
                    "holds them, or --download to fetch them; --data digits needs no files"
                )
            return Splits(self.read(folder, True), self.read(folder, False), self.num_classes, self.mirrored)

    def _missing(self, folder: Path) -> list[str]:
        return [name for name in self.checksums if not is_file(folder / name)]

    def _by_hand(self, data_dir: Path, missing: Sequence[str]) -> str:
        return f"put {', '.join(missing)} into {data_dir / self.folder}, or {self.archive} into {data_dir}"
