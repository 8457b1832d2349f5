"""Add the callbacks to a LightningModule and a DataLoader that know nothing of them.

python docs/examples/plain_module.py            # a few seconds on a CPU; needs lightning-gap[recipes]
tensorboard --logdir lightning_logs             # tags sharpness/, curvature/, gap/, weights/, lr/, batch/, ghost/
"""

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split

from lightning_gap import (
    CurvatureMonitor,
    GeneralizationGapMonitor,
    GhostBatchNormSwap,
    LearningRateScaling,
    SharpnessMonitor,
    WeightDistanceMonitor,
)


class ConvNet(LightningModule):
    """A module as you might have it."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(32 * 4 * 4, 10),
        )

    def forward(self, images):
        return self.net(images)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("val_loss", cross_entropy(self(images), labels))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)]


def main() -> Trainer:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(
        torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels, dtype=torch.int64)
    )
    train, validation = random_split(data, [1437, 360])
    trainer = Trainer(
        max_epochs=10,
        accelerator="cpu",
        logger=TensorBoardLogger(".", name="lightning_logs"),
        log_every_n_steps=1,
        enable_checkpointing=False,
        callbacks=[
            GhostBatchNormSwap(ghost_batch_size=32),  # each 32 of the 256 samples are normalised by themselves
            LearningRateScaling(base_batch_size=64, warmup_epochs=2),  # 0.05 was tuned for 64: becomes 0.2
            SharpnessMonitor(every_n_epochs=2, samples=500),
            CurvatureMonitor(every_n_epochs=5, samples=200),
            WeightDistanceMonitor(),
            GeneralizationGapMonitor(),
        ],
    )
    trainer.fit(ConvNet(), DataLoader(train, batch_size=256, shuffle=True), DataLoader(validation, batch_size=360))
    return trainer


if __name__ == "__main__":
    for key, value in sorted(main().callback_metrics.items()):
        print(f"{key:28} {float(value):.4g}")
