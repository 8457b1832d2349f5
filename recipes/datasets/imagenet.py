"""ImageNet from a folder of files; never downloaded."""

from __future__ import annotations

from .folder import FolderImages
from .folder_data import FolderData
from .integrity import is_folder, lacks


class ImageNet(FolderData):
    """Colour images of 224x224 pixels, a folder for each class, from data_dir/imagenet/train and data_dir/imagenet/val.

    Any set of images in this layout will do, with as many classes as it has. The images of the ILSVRC 2012 challenge
    are given out at https://image-net.org to those who register, and never downloaded here. From their archives
    in data_dir/imagenet, ``torchvision.datasets.ImageNet(root, split)`` makes the layout, for "train" and for "val".

    The files are read when they are asked for. Training images, with augmentation "scale-crop": a part of random area
    and aspect, maybe mirrored; test images, which are those of val, and all others: the shorter side scaled to 256
    pixels and the middle cut out. Colours are standardised. Arguments and attributes are those of
    `ClassificationData`.
    """

    name, title = "imagenet", "ImageNet"
    input_shape = (3, 224, 224)
    mirrored = True

    def read(self) -> tuple[FolderImages, FolderImages]:
        folder = self.data_dir / "imagenet"
        missing = [part for part in ("train", "val") if not is_folder(folder / part)]
        if missing:
            raise FileNotFoundError(
                f"{lacks(self.data_dir, 'ImageNet')}: make {' and '.join(str(folder / part) for part in missing)}, "
                "with a folder of images for each class, from the archives of https://image-net.org, which cannot be "
                "downloaded from here, or pass the --data_dir that holds imagenet; the data set digits needs no files"
            )
        train, test = FolderImages(folder / "train"), FolderImages(folder / "val")
        alone = sorted(set(train.classes) ^ set(test.classes))
        if alone:
            has, lacking = ("train", "val") if alone[0] in train.classes else ("val", "train")
            raise ValueError(
                f"class folder {alone[0]!r} is in {str(folder / has)!r} but not in {str(folder / lacking)!r}, "
                f"{len(alone)} in one of the two only; give both the same classes"
            )
        self.num_classes = len(train.classes)
        return train, test
