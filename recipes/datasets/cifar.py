"""CIFAR-10 and CIFAR-100 from a folder on disk."""

from __future__ import annotations

from torchvision import datasets

from .published_images import PublishedImages


class _CIFAR(PublishedImages):
    """What the two have in common."""

    input_shape = (3, 32, 32)
    mirrored = True

    def checksums(self) -> dict[str, str]:
        of = self.published
        files = [*of.train_list, *of.test_list, (of.meta["filename"], of.meta["md5"])]
        return {f"{of.base_folder}/{name}": md5 for name, md5 in files}


class CIFAR10(_CIFAR):
    """50,000 + 10,000 colour images of 32x32 pixels, from data_dir/cifar-10-batches-py or data_dir/cifar10.npz.

    Pixels divided by 255 and nothing else, inputs (N, 3, 32, 32). Files, arguments and attributes are those of
    `PublishedImages`.
    """

    name, title, num_classes = "cifar10", "CIFAR-10", 10
    published = datasets.CIFAR10


class CIFAR100(_CIFAR):
    """50,000 + 10,000 colour images of 100 classes, from data_dir/cifar-100-python or data_dir/cifar100.npz.

    The 100 fine labels; otherwise as `CIFAR10`.
    """

    name, title, num_classes = "cifar100", "CIFAR-100", 100
    published = datasets.CIFAR100
