"""MNIST from a folder on disk."""

from __future__ import annotations

from torchvision import datasets

from .published_images import PublishedImages

_MD5 = {  # torchvision has those of the packed files
    "MNIST/raw/train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "MNIST/raw/train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "MNIST/raw/t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "MNIST/raw/t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


class MNIST(PublishedImages):
    """60,000 + 10,000 digits of 28x28 pixels, from data_dir/MNIST/raw or data_dir/mnist.npz.

    Pixels divided by 255 and nothing else, inputs (N, 1, 28, 28). Files, arguments and attributes are those of
    `PublishedImages`.
    """

    name, title = "mnist", "MNIST"
    num_classes, input_shape = 10, (1, 28, 28)
    published = datasets.MNIST

    def checksums(self) -> dict[str, str]:
        return _MD5
