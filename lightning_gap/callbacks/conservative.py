"""Conservative training: several optimizer steps on a batch, held close to where they began."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from ..functional._validation import flag, real_number, whole_number
from ..functional.perturbation._weights import BeforeSteps, back_on_error
from ..functional.perturbation.proximal import proximal_gradient
from ..trainer.optimizers import trained_weights
from ..trainer.state import is_of
from ._gradient_change import Again
from ._plugin import Plugin
from ._undisturbed import silenced


class ConservativeTraining(Plugin):
    """Take each step to the minimum of ``L(w) + strength / 2 |w - w_k|^2`` on its batches, inexactly.

    The Trainer's own optimizer takes ``inner_steps`` steps on the same batches, of which Lightning counts and logs the
    last: ``global_step``, schedulers, loggers and ``max_steps`` count batches. Every inner gradient goes through the
    module's `on_before_optimizer_step` and is clipped as the Trainer says. A step costs as many passes. If one of them
    fails or is interrupted, weights and optimizer are put back to where the batch began: in memory there are one more
    copy of the weights and of the optimizer's state. Logs nothing.

    Args:
        strength: Lambda of the proximal term; 1e-3 in the paper. At 0 these are plain steps on the same batches.
        inner_steps: Steps of the optimizer; 3, of ADAM, in the paper. The first does not feel the proximal term.
        keep_moments: Whether the optimizer's state, momentum for instance, lives on from one batch to the next, which
            the paper does not say; otherwise each batch begins with none.

    Raises:
        ValueError: If an argument is out of range. Before the first step in manual optimization, with LBFGS, with
            sharded weights, without trained weights, with an `optimizer_step` of the module's own, or beside another
            plugin.

    Reference:
        Keskar et al. (2017), section 4, after Li, Zhang, Chen and Smola (2014).
    """

    decides_training = ("strength", "inner_steps", "keep_moments")
    stands_alone = True
    _before: BeforeSteps | None = None  # of the batch at hand, until Lightning has counted its step
    _steps = 0

    def __init__(self, strength: float = 1e-3, *, inner_steps: int = 3, keep_moments: bool = True) -> None:
        self.strength = real_number("strength", strength, at_least=0)
        self.inner_steps = whole_number("inner_steps", inner_steps)
        self.keep_moments = flag("keep_moments", keep_moments)

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        self._before = None
        if not is_of(module.optimizer_step, ("lightning", "pytorch_lightning")):
            raise ValueError(
                f"ConservativeTraining takes steps of its own, which optimizer_step of {type(module).__name__} would "
                "not see; leave it out: set learning rates by a scheduler, and change gradients in the module's "
                "on_before_optimizer_step"
            )

    def change_gradient(self, trainer: Trainer, pl_module: LightningModule, again: Again) -> None:
        (optimizer,) = trainer.optimizers
        if not self.keep_moments:
            optimizer.state.clear()
        weights = list(trained_weights(trainer, pl_module).values())
        self._before, self._steps = BeforeSteps(weights, optimizer), trainer.global_step
        with back_on_error(self._before):
            for left in reversed(range(self.inner_steps)):
                gradients = [weight.grad for weight in weights]
                proximal_gradient(weights, self._before.values, gradients, self.strength)
                if not left or not all(gradient is None or gradient.isfinite().all() for gradient in gradients):
                    return  # Lightning takes the last step; where float16 has overflowed its scaler skips that one
                del gradients  # a copy of the weights, which the next pass has no need of
                with silenced(pl_module):
                    pl_module.on_before_optimizer_step(optimizer)
                    pl_module.configure_gradient_clipping(
                        optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
                    )
                with torch.no_grad():
                    optimizer.step()
                again()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._before = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._before is not None and trainer.global_step == self._steps:
            self._before.put_back()  # what failed came after the inner steps, in a hook of the last one for instance
        super().on_exception(trainer, pl_module, exception)

    def end_fit(self, trainer: Trainer) -> None:
        super().end_fit(trainer)
        self._before = None
