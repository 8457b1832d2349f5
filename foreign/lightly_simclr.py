"""lightly, through pytorch_lightning: SimCLR with a small ResNet of lightly's own, on scikit-learn's digits."""

import numpy as np
import pytorch_lightning as pl
import torch
from command import command
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models import ResNetGenerator
from lightly.models.modules import SimCLRProjectionHead
from lightly.transforms import SimCLRTransform
from lightly.utils.benchmarking import BenchmarkModule
from PIL import Image
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor

# lightning_gap: 1 line
import lightning_gap as gap


class Digits(Dataset):
    """The digits of these places, as colour images of 16 x 16 pixels."""

    def __init__(self, places):
        images, self.labels = load_digits(return_X_y=True)
        enlarged = (images[places].reshape(-1, 8, 8) * 15).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
        self.images = [Image.fromarray(image).convert("RGB") for image in enlarged]
        self.labels = self.labels[places]
        self.transform = to_tensor

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index]), int(self.labels[index])


class SimCLR(BenchmarkModule):
    def __init__(self, dataloader_kNN):
        super().__init__(dataloader_kNN, num_classes=10, knn_k=20)
        resnet = ResNetGenerator("resnet-9", width=0.125)
        self.backbone = torch.nn.Sequential(*list(resnet.children())[:-1], torch.nn.AdaptiveAvgPool2d(1))
        self.projection_head = SimCLRProjectionHead(64, 64, 32)
        self.criterion = NTXentLoss()

    def forward(self, x):
        return self.projection_head(self.backbone(x).flatten(start_dim=1))

    def training_step(self, batch, batch_idx):
        (x0, x1), _, _ = batch
        return self.criterion(self.forward(x0), self.forward(x1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.06, momentum=0.9)


def train(args):
    pl.seed_everything(args.seed)
    order = np.random.default_rng(0).permutation(1797)
    augment = SimCLRTransform(input_size=16, min_scale=0.5, hf_prob=0.0, gaussian_blur=0.0, random_gray_scale=0.0)
    views = LightlyDataset.from_torch_dataset(Digits(order[:512]), transform=augment)
    bank, held_out = (LightlyDataset.from_torch_dataset(Digits(part)) for part in (order[:512], order[1024:]))
    train_loader = DataLoader(views, batch_size=args.batch_size, shuffle=True, drop_last=True)
    module = SimCLR(DataLoader(bank, batch_size=256))
    val_loader = DataLoader(held_out, batch_size=256)
    callbacks = []
    # lightning_gap: 9 lines
    if args.ours:
        callbacks += [gap.LearningRateScaling(16, warmup_epochs=1), gap.GhostBatchNormSwap(16)]
    if args.monitors:
        few = {"samples": 200}
        callbacks += [gap.SharpnessMonitor(**few), gap.CurvatureMonitor(**few), gap.CriticalSharpnessMonitor()]
        callbacks += [gap.GradientNoiseScaleMonitor(**few, chunk_size=20), gap.WeightDistanceMonitor()]
        unseen = LightlyDataset.from_torch_dataset(Digits(order[1024:]), transform=augment)  # two views, as in training
        unseen = DataLoader(unseen, batch_size=200, drop_last=True)
        callbacks += [gap.GeneralizationGapMonitor(validation_data=unseen, count=lambda batch: len(batch[1]), **few)]
    trainer = pl.Trainer(
        max_epochs=args.max_epochs or 4,
        accelerator="cpu",
        enable_model_summary=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        logger=False,
        callbacks=callbacks,
    )
    trainer.fit(module, train_loader, val_loader)
    return module, trainer.callback_metrics["kNN_accuracy"].item(), trainer


if __name__ == "__main__":
    command(
        train,
        project="lightly",
        task="SimCLR with ResNet-9, 1,285 digits (scikit-learn)",
        metric="kNN accuracy on held-out digits, %",
        better="higher",
        batch_size=16,
    )
