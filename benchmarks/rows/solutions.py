"""What sharpness and curvature are measured on: F1, trained on scikit-learn's digits for a few seconds."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from lightning.pytorch import Trainer
from measuring import PLAIN, quiet
from torch import Tensor

from lightning_gap.recipes import F1, Digits

EPOCHS = {"small": 20, "large": 60}


@cache
def solution(regime: str, width: int) -> tuple[torch.nn.Module, list[tuple[Tensor, Tensor]]]:
    """The network after its training, in evaluation mode, and 500 of the samples, in two chunks."""
    quiet()
    torch.manual_seed(0)
    recipe = F1.on("digits", regime, epochs=EPOCHS[regime], width=width)
    data = Digits(recipe)
    options: dict[str, Any] = PLAIN | {"max_epochs": recipe.epochs, "accelerator": "cpu"}
    Trainer(**options).fit(recipe, data)
    inputs, targets = data.train.whole()
    chunks = zip(inputs[:500].split(250), targets[:500].split(250), strict=True)
    return recipe.network.eval(), list(chunks)
