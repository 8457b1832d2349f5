"""F1 and C1 trained on one process or several; run by test_recipes_on_processes.py as a user runs a script."""

import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback

from lightning_gap import GhostBatchNormSwap
from lightning_gap.recipes import C1, F1
from lightning_gap.recipes.datasets import Images, InMemoryData
from lightning_gap.recipes.runner.trainer import make_trainer

SAMPLES, BATCH, EPOCHS = 64, 16, 5
OPTIONS = {
    "f1": {"inputs": 3 * 32 * 32, "width": 16},
    "c1": {"channels": 4, "dense": (16, 8), "dropout": False},
}
RECIPES = {"f1": F1, "c1": C1}
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


class Pictures(InMemoryData):
    """Random images, each of a class of its own."""

    name, num_classes, mirrored = "pictures", SAMPLES, True

    def read(self):
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (SAMPLES, 3, 32, 32), dtype=torch.uint8, generator=generator)
        images = Images(pixels, torch.arange(SAMPLES))
        return images, images


def recipe(name, callbacks=(), **changed):
    sizes = {"small_batch_size": BATCH, "large_batch_size": BATCH, "classes": SAMPLES}

    class Own(RECIPES[name]):
        def configure_callbacks(self):
            return list(callbacks)

    torch.manual_seed(0)
    return Own(**OPTIONS[name], **sizes, **changed)


def train(name, augmentation, optimizer, processes):
    looks, rate = Looks(), 1e-3 if optimizer == "adam" else 0.05
    made = recipe(
        name,
        [GhostBatchNormSwap(BATCH // 2)] if processes == 1 else [],
        optimizer=optimizer,
        learning_rate=rate,
        augmentation=augmentation,
    )
    trainer = make_trainer(
        {
            "accelerator": "cpu",
            "devices": processes,
            "strategy": "ddp",
            "precision": "64-true",
            "enable_checkpointing": False,
        },
        epochs=EPOCHS,
        callbacks=[looks],
        logger=None,
    )
    trainer.fit(made, Pictures(made, seed=3))
    network = made.network
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
    made = recipe("f1")
    trainer = make_trainer(
        {"accelerator": "cpu", "devices": processes, "strategy": "ddp", "enable_checkpointing": False},
        epochs=2,
        callbacks=callbacks,
        logger=None,
    )
    trainer.fit(made, Pictures(made), ckpt_path=ckpt_path)
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
