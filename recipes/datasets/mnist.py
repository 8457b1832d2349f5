"""MNIST from a folder on disk."""

from __future__ import annotations

from pathlib import Path

from torchvision.datasets import MNIST

from lightning_gap.recipes.datasets.image_files import ImageFiles
from lightning_gap.recipes.datasets.integrity import checked_bytes
from lightning_gap.recipes.datasets.labelled import labelled_images
from lightning_gap.recipes.datasets.samples import Images
from lightning_gap.recipes.datasets.splits import Splits

_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def mnist(data_dir: Path, *, download: bool = False) -> Splits:
    """60,000 + 10,000 digits of 28x28 pixels, from data_dir/MNIST/raw or data_dir/mnist.npz.

    Pixels divided by 255 and nothing else, inputs (N, 1, 28, 28).

    Args:
        data_dir: Folder that holds torchvision's own layout, or mnist.npz with uint8 arrays x_train and x_test,
            (N, 28, 28), and labels y_train and y_test.
        download: Fetch the files if they are not there.

    Raises:
        FileNotFoundError: If a file is missing; says which and where it goes.
        PermissionError: If a file may not be read.
        ValueError: If a file is damaged or does not hold what it should.
    """
    return _FILES.load(data_dir, download=download)


def _read(folder: Path, train: bool) -> Images:
    part = "train" if train else "t10k"
    images, labels = f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"
    pixels = checked_bytes(folder / images, _MD5[images])[16:].reshape(-1, 1, 28, 28)  # after four numbers
    return labelled_images(pixels, checked_bytes(folder / labels, _MD5[labels])[8:], 10, f"{str(folder / labels)!r}")


_FILES = ImageFiles(
    title="MNIST",
    folder="MNIST/raw",
    checksums=_MD5,
    archive="mnist.npz",
    image_shape=(28, 28),
    num_classes=10,
    mirrored=False,
    read=_read,
    download=lambda data_dir: MNIST(str(data_dir), download=True),
    servers=MNIST.mirrors,
)
