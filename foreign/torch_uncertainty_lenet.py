"""torch-uncertainty: a LeNet with BatchNorm and dropout, on scikit-learn's digits."""

import torch
from command import command
from lightning.pytorch import seed_everything
from sklearn.datasets import load_digits
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset
from torch_uncertainty import TUTrainer
from torch_uncertainty.models.classification import lenet
from torch_uncertainty.routines import ClassificationRoutine

# lightning_gap: 1 line
import lightning_gap as gap


def digits():
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    images = nn.functional.interpolate(images, size=(28, 28), mode="bilinear")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    whole = TensorDataset(images[order], torch.tensor(labels)[order])
    return TensorDataset(*whole[:1200]), TensorDataset(*whole[1200:])


def train(args):
    seed_everything(args.seed)
    train_set, val_set = digits()
    train_loader = DataLoader(train_set, batch_size=args.batch_size, shuffle=True)
    val_loader = DataLoader(val_set, batch_size=256)

    model = lenet(in_channels=1, num_classes=10, norm=nn.BatchNorm2d, dropout_rate=0.2)
    routine = ClassificationRoutine(
        model=model,
        num_classes=10,
        loss=nn.CrossEntropyLoss(),
        optim_recipe=optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
    )
    callbacks = []
    # lightning_gap: 7 lines
    if args.ours:
        callbacks += [gap.LearningRateScaling(32), gap.GhostBatchNormSwap(32)]
    if args.monitors:
        few = {"samples": 200}
        callbacks += [gap.SharpnessMonitor(**few), gap.CurvatureMonitor(**few), gap.CriticalSharpnessMonitor()]
        callbacks += [gap.GeneralizationGapMonitor(**few), gap.GradientNoiseScaleMonitor(**few, chunk_size=20)]
        callbacks += [gap.WeightDistanceMonitor()]
    trainer = TUTrainer(
        accelerator="cpu",
        max_epochs=args.max_epochs or 8,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        callbacks=callbacks,
    )
    trainer.fit(model=routine, train_dataloaders=train_loader, val_dataloaders=val_loader)
    return routine, 100 * trainer.callback_metrics["val/cls/Acc"].item(), trainer


if __name__ == "__main__":
    command(
        train,
        project="torch-uncertainty",
        task="LeNet with dropout, 1,797 digits (scikit-learn)",
        metric="validation accuracy, %",
        better="higher",
        batch_size=32,
    )
