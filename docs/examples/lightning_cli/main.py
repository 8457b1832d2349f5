"""A LightningCLI program as you might have it: nothing in it knows of the callbacks in config.yaml.

python main.py fit --config config.yaml                     # seconds on a CPU; needs lightning-gap[recipes]
python main.py fit --config config.yaml --print_config      # every setting with its default
tensorboard --logdir lightning_logs                         # tags sharpness/, gap/, weights/, lr/, batch/, ghost/
"""

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset, random_split


class Classifier(LightningModule):
    """Images of handwritten digits in ten classes.

    Args:
        width: Channels of the first convolution; the second has twice as many.
        learning_rate: Of SGD with momentum.
    """

    def __init__(self, width: int = 16, learning_rate: float = 0.05):
        super().__init__()
        self.learning_rate = learning_rate
        self.net = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * width * 4 * 4, 10),
        )

    def training_step(self, batch, batch_idx):
        images, labels = batch
        loss = cross_entropy(self.net(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("val_loss", cross_entropy(self.net(images), labels))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


class Digits(LightningDataModule):
    """The 1,797 digits that come with scikit-learn.

    Args:
        batch_size: Samples per batch.
    """

    def __init__(self, batch_size: int = 64):
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage):
        images, labels = load_digits(return_X_y=True)
        data = TensorDataset(
            torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(labels, dtype=torch.int64)
        )
        self.train, self.validation = random_split(data, [1437, 360], torch.Generator().manual_seed(0))

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.validation, batch_size=360)


if __name__ == "__main__":
    LightningCLI(Classifier, Digits)
