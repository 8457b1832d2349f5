"""Multiplicative noise: each sample's loss weighted at random, so that a large batch is as noisy as a small one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional._validation import real_number, seed_number
from ..functional.perturbation.loss_noise import noise_weights
from ..trainer.progress import number_in_run
from ..trainer.refusals import refuse_manual_optimization
from ..trainer.state import generator_at
from ._callback import GapCallback
from ._module_part import checked_name, module_part, name_of_part, watch_outputs
from ._run import run_of


class MultiplicativeNoise(GapCallback):
    """Weight the gradient of each sample's loss by ``z ~ N(1, sigma^2)``, drawn anew in each step.

    The weights meet the gradient where it leaves the network's outputs, whose first axis is that of the samples: this
    is the gradient of the weighted loss, for a loss that is a mean or a sum over samples and sees them through these
    outputs. What is logged is the plain loss, and `AdversarialTraining` attacks by that one. Logs nothing itself.

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
        self._end_watching: Callable[[], None] | None = None
        self._has_weighed = False

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        run_of(trainer).claim(trainer, self, "weigh each sample's loss at random")
        refuse_manual_optimization(trainer, self)
        module_part(module, self.outputs)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._has_weighed, name = False, name_of_part(pl_module, self.outputs)
        part, run = module_part(pl_module, self.outputs), run_of(trainer)

        def weigh(outputs: Any) -> None:
            if run.attacks or not (trainer.training and part.training and torch.is_grad_enabled()):
                return
            if not isinstance(outputs, Tensor) or not outputs.ndim:
                raise ValueError(
                    f"MultiplicativeNoise weighs the outputs (N, ...) of {name}, which gives a "
                    f"{type(outputs).__name__}; name the part of the module that gives a tensor, outputs='...'"
                )
            if outputs.requires_grad:
                self._has_weighed = True
                generator = generator_at(self.seed, number_in_run(trainer, run.repeated), trainer.global_rank)
                wide = torch.promote_types(outputs.dtype, torch.float32)  # not the default, which backward may not have
                z = noise_weights(len(outputs), self.sigma, generator=generator, dtype=wide, device=outputs.device)
                z = z.to(outputs.dtype).view(-1, *[1] * (outputs.ndim - 1))
                outputs.register_hook(lambda gradient: gradient * z)  # type: ignore[no-untyped-call]

        self._end_watching = watch_outputs(trainer, pl_module, self.outputs, weigh)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._has_weighed:  # not before: reentrant checkpoints make the part's graph in the backward pass
            raise ValueError(
                f"MultiplicativeNoise weighs the outputs of {name_of_part(pl_module, self.outputs)}, which "
                "training_step has not called with gradients; name the part of the module that it calls, outputs='...'"
            )

    def end_fit(self, trainer: Trainer) -> None:
        if self._end_watching is not None:
            self._end_watching()
            self._end_watching = None
