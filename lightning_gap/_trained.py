"""Which weights are trained: those that an optimizer holds."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor


def trained_weights(trainer: Trainer, module: LightningModule) -> dict[str, Tensor]:
    """The weights that require grad and that an optimizer of the Trainer holds, by name.

    A backbone of which only the head is given to the optimizer is not trained, and its gradients, which nothing clears,
    are nobody's. All weights that require grad where the Trainer has no optimizer: the module steps its own by hand.

    Raises:
        ValueError: If the optimizers hold none of the module's weights, but copies of them.
    """
    weights: dict[str, Tensor] = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    held = {
        id(weight) for optimizer in trainer.optimizers for group in optimizer.param_groups for weight in group["params"]
    }
    trained = {name: weight for name, weight in weights.items() if id(weight) in held}
    if held and weights and not trained:
        names = ", ".join(type(optimizer).__name__ for optimizer in trainer.optimizers)
        raise ValueError(
            f"{names} holds none of the weights of {type(module).__name__} that require grad, so that it is not known "
            "which of them are trained; give the optimizer the module's own parameters"
        )
    return trained if held else weights
