"""F1 and C1 trained on one process or several; run by test_recipes_on_processes.py as a user runs a script."""

import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback

from lightning_gap import GhostBatchNormSwap
from lightning_gap.recipes.augmentation import make_augmentation
from lightning_gap.recipes.catalogue import recipe
from lightning_gap.recipes.classifier import Classifier
from lightning_gap.recipes.datasets import Images, InMemoryData, Splits
from lightning_gap.recipes.recipe import Numbers
from lightning_gap.recipes.runner.trainer import make_trainer

SAMPLES, BATCH, EPOCHS = 64, 16, 5
OPTIONS = {"f1": {"width": 16}, "c1": {"channels": 4, "dense": (16, 8), "dropout": False}}
CASES = [
    ("f1", "none", "adam"),
    ("f1", "affine", "sgd"),
    ("c1", "none", "sgd"),
    ("c1", "crop-flip", "adam"),
    ("c1", "affine", "sgd"),
    ("c1", "scale-crop", "sgd"),
]


class Looks(Callback):
    """What each sample looked like in each epoch."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        for image, target in zip(*batch, strict=True):
            self.seen[trainer.current_epoch, int(target)] = image.clone()


def splits():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (SAMPLES, 3, 32, 32), dtype=torch.uint8, generator=generator)
    images = Images(pixels, torch.arange(SAMPLES))  # each sample is a class of its own
    return Splits(images, images, num_classes=SAMPLES, mirrored=True)


def train(name, augmentation, optimizer, processes):
    data = splits()
    torch.manual_seed(0)
    network = recipe(name).network(data.input_shape, data.num_classes, **OPTIONS[name])
    numbers = Numbers(EPOCHS, BATCH, BATCH, optimizer=optimizer, learning_rate=1e-3 if optimizer == "adam" else 0.05)
    looks = Looks()
    callbacks = [GhostBatchNormSwap(BATCH // 2)] if processes == 1 else []
    trainer = make_trainer(
        {"accelerator": "cpu", "devices": processes, "strategy": "ddp", "precision": "64-true"},
        {"max_epochs": EPOCHS, "enable_checkpointing": False},
        callbacks=[looks],
        logger=None,
    )
    served = InMemoryData(
        data, batch_size=BATCH // processes, augmentation=make_augmentation(augmentation, data), seed=3
    )
    trainer.fit(Classifier(network, numbers, callbacks), served)
    weights = {name: weight.detach() for name, weight in network.named_parameters()}
    if optimizer == "adam":
        # BatchNorm subtracts the bias before it: its gradient is zero but for rounding, which ADAM blows up.
        for index, layer in enumerate(network.layers):
            if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                del weights[f"layers.{index - 1}.bias"]
    return {"weights": weights, "looks": looks.seen, "steps": trainer.global_step}


class SavesInside(Callback):
    """A checkpoint from the middle of the last epoch."""

    def __init__(self, folder):
        self.file = folder / "inside.ckpt"

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (1, 1):
            trainer.save_checkpoint(self.file)


def means(processes, *callbacks, ckpt_path=None):
    """Loss and accuracy that are told of the last of two epochs."""
    data = splits()
    torch.manual_seed(0)
    network = recipe("f1").network(data.input_shape, data.num_classes, **OPTIONS["f1"])
    trainer = make_trainer(
        {"accelerator": "cpu", "devices": processes, "strategy": "ddp"},
        {"max_epochs": 2, "enable_checkpointing": False},
        callbacks=callbacks,
        logger=None,
    )
    served = InMemoryData(data, batch_size=BATCH // processes, validation_size=0)
    trainer.fit(Classifier(network, Numbers(2, BATCH, BATCH)), served, ckpt_path=ckpt_path)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def main() -> None:
    folder, processes = Path(sys.argv[1]), int(sys.argv[2])
    found = {case: train(*case, processes) for case in CASES}
    saving = SavesInside(folder)
    found["whole"] = means(processes, saving)
    found["resumed"] = means(processes, ckpt_path=saving.file)
    rank = torch.distributed.get_rank()
    torch.save(found, folder / f"{processes}-{rank}.pt")


if __name__ == "__main__":
    main()
