"""A user's own module, data and Trainer, as small as they can be: nothing here knows our package."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset


class TinyClassifier(LightningModule):
    """Eight inputs, three classes, with BatchNorm and dropout."""

    def __init__(self, *, dropout: float = 0.2, learning_rate: float = 0.05, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))
        self.learning_rate = learning_rate

    def forward(self, inputs: Tensor) -> Tensor:
        return self.net(inputs)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9)


class Validated(TinyClassifier):
    """The same, with a validation step."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))


def dataset(samples: int = 48, *, seed: int = 1) -> TensorDataset:
    """Three noisy clusters."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.arange(samples) % 3
    centres = torch.randn(3, 8, generator=torch.Generator().manual_seed(7))
    return TensorDataset(centres[targets] + torch.randn(samples, 8, generator=generator), targets)


def loader(samples: int = 48, *, batch_size: int = 16, seed: int = 1, **options: Any) -> DataLoader[Any]:
    """A stock DataLoader."""
    return DataLoader(dataset(samples, seed=seed), batch_size=batch_size, **options)


def trainer(*callbacks: Any, **options: Any) -> Trainer:
    """A stock Trainer on the CPU that prints and writes nothing unless asked to."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return Trainer(**(quiet | options), callbacks=list(callbacks))


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the state that later training cannot change."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(first: Any, second: Any) -> bool:
    """Whether two states are equal to the bit: tensors in dicts, lists and tuples, one in the other."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)
