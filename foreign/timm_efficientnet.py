"""timm: its smallest EfficientNet, whose 13 BatchNorm layers are of timm's own subclass, on scikit-learn's digits."""

import lightning.pytorch as pl
import timm
import timm.optim
import torch
from command import command
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

# lightning_gap: 1 line
import lightning_gap as gap


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = timm.create_model("test_efficientnet", num_classes=10, in_chans=1)
        self.loss = torch.nn.CrossEntropyLoss()

    def forward(self, images):
        return self.model(images)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        return self.loss(self(images), labels)

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        self.log("accuracy", (self(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self):
        return timm.optim.create_optimizer_v2(self.model, opt="sgd", lr=0.05, momentum=0.9, weight_decay=1e-4)


def digits():
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 8 - 1
    images = torch.nn.functional.interpolate(images, size=(32, 32), mode="bilinear")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    whole = TensorDataset(images[order], torch.tensor(labels)[order])
    return TensorDataset(*whole[:1200]), TensorDataset(*whole[1200:])


def train(args):
    pl.seed_everything(args.seed)
    train_set, val_set = digits()
    train_loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=256)
    module = Classifier()
    callbacks = []
    # lightning_gap: 7 lines
    if args.ours:
        callbacks += [gap.LearningRateScaling(32), gap.GhostBatchNormSwap(32)]
    if args.monitors:
        few = {"samples": 200}
        callbacks += [gap.SharpnessMonitor(**few), gap.CurvatureMonitor(**few), gap.CriticalSharpnessMonitor()]
        callbacks += [gap.GeneralizationGapMonitor(**few), gap.GradientNoiseScaleMonitor(**few, chunk_size=20)]
        callbacks += [gap.WeightDistanceMonitor()]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=args.max_epochs or 8,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        callbacks=callbacks,
    )
    trainer.fit(module, train_loader, val_loader)
    return module, 100 * trainer.callback_metrics["accuracy"].item(), trainer


if __name__ == "__main__":
    command(
        train,
        project="timm",
        task="test_efficientnet, 1,797 digits (scikit-learn)",
        metric="validation accuracy, %",
        better="higher",
        batch_size=32,
    )
