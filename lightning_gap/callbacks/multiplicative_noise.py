"""Multiplicative noise: each sample's loss weighted at random, so that a large batch is as noisy as a small one."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn

from ..functional._validation import real_number, seed_number
from ..functional.perturbation.loss_noise import noise_weights
from ..trainer.refusals import refuse_manual_optimization
from ._callback import GapCallback
from ._module_part import checked_name, module_part, name_of_part
from ._run import run_of


class MultiplicativeNoise(GapCallback):
    """Weight the gradient of each sample's loss by ``z ~ N(1, sigma^2)``, drawn anew in each step.

    The weights meet the gradient where it leaves the network's outputs, whose first axis is that of the samples: this
    is the gradient of the weighted loss, for a loss that is a mean or a sum over samples and sees them through these
    outputs. What is logged is the plain loss. Logs nothing itself.

    Args:
        sigma: Standard deviation of the weights. ``sqrt(B / b - 1)`` gives a batch of B about the noise of one of b,
            see `functional.sigma_for`.
        outputs: Name of the part of the module whose outputs the loss is made of, ``"network"`` for instance; by
            default the module itself, whose `forward` runs where `training_step` calls ``self(...)``.
        seed: Of the weights.

    Raises:
        ValueError: If an argument is out of range. Before the first step in manual optimization, if there is no such
            part, or if `training_step` does not call it, or it gives no tensor.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 4.
    """

    decides_training = ("sigma", "outputs", "seed")

    def __init__(self, sigma: float, *, outputs: str | None = None, seed: int = 0) -> None:
        self.sigma = real_number("sigma", sigma, at_least=0)
        self.outputs = checked_name(outputs)
        self.seed = seed_number("seed", seed)
        self._handle: Any = None
        self._was_called = False

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        run_of(trainer).claim(trainer, self, "weigh each sample's loss at random")
        refuse_manual_optimization(trainer, self)
        module_part(module, self.outputs)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._was_called, name = False, name_of_part(pl_module, self.outputs)

        def weigh(part: nn.Module, _: Any, outputs: Any) -> None:
            if not trainer.training or not part.training or not torch.is_grad_enabled():
                return
            if not isinstance(outputs, Tensor) or not outputs.ndim:
                raise ValueError(
                    f"MultiplicativeNoise weighs the outputs (N, ...) of {name}, which gives a "
                    f"{type(outputs).__name__}; name the part of the module that gives a tensor, outputs='...'"
                )
            self._was_called = True
            if outputs.requires_grad:
                place = (self.seed, trainer.fit_loop.total_batch_idx, trainer.global_rank)
                generator = torch.Generator().manual_seed(hash(place) % 2**63)  # the same in each pass over a batch
                z = noise_weights(len(outputs), self.sigma, generator=generator, device=outputs.device)
                z = z.to(outputs.dtype).view(-1, *[1] * (outputs.ndim - 1))
                outputs.register_hook(lambda gradient: gradient * z)  # type: ignore[no-untyped-call]

        self._handle = module_part(pl_module, self.outputs).register_forward_hook(weigh)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        if not self._was_called:
            raise ValueError(
                f"MultiplicativeNoise weighs the outputs of {name_of_part(pl_module, self.outputs)}, which "
                "training_step has not called; name the part of the module that it calls, outputs='...'"
            )

    def end_fit(self, trainer: Trainer) -> None:
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
