"""One training, its batch of 32 held by any number of processes; test_ghosts_and_processes.py runs it."""

import sys
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_gap import GhostBatchNormSwap

GLOBAL_BATCH, GHOST, EPOCHS = 32, 8, 5
SAMPLES = 10 * GLOBAL_BATCH + 28  # the tail makes four ghosts of seven


class Small(LightningModule):
    """Convolution, BatchNorm2d, linear layer, BatchNorm1d."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(2, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(36, 8),
            nn.BatchNorm1d(8),
            nn.Tanh(),
        )
        self.head = nn.Linear(8, 3)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.head(self.net(batch[0])), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


def data(samples=SAMPLES):
    """Images with classes to learn."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(samples, 2, 5, 5, generator=generator, dtype=torch.float64)
    return TensorDataset(images, (images.sum((1, 2, 3)).sign() + 1).long())


def slices(rank, processes, samples=SAMPLES):
    """The batches of one process: its consecutive share of each global batch."""
    starts = range(0, samples, GLOBAL_BATCH)
    batches = [list(range(start, min(start + GLOBAL_BATCH, samples))) for start in starts]
    return [batch[rank * len(batch) // processes : (rank + 1) * len(batch) // processes] for batch in batches]


def train(processes, mode):
    """Fit in float64, with ghosts or plain; the module and the rank of this process."""

    class Sharing(Small):
        def train_dataloader(self):
            return DataLoader(data(), batch_sampler=slices(self.trainer.global_rank, self.trainer.world_size))

    module = Sharing()
    trainer = Trainer(
        accelerator="cpu",
        strategy="ddp" if processes > 1 else "auto",
        devices=processes,
        precision="64-true",
        max_epochs=EPOCHS,
        callbacks=[GhostBatchNormSwap(GHOST, leftover="balance")] if mode == "ghosts" else [],
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)
    assert trainer.global_step == 55
    return module, trainer.global_rank


def main():
    module, rank = train(int(sys.argv[2]), sys.argv[3])
    if rank == 0:
        torch.save(module.state_dict(), Path(sys.argv[1]))


if __name__ == "__main__":
    main()
