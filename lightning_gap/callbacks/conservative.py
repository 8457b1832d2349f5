"""Conservative training: several optimizer steps on a batch, held close to where they began."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional._uninterrupted import uninterrupted_exit
from ..functional._validation import flag, real_number, whole_number
from ..functional.perturbation._weights import write
from ..functional.perturbation.proximal import proximal_gradient
from ..trainer.optimizers import trained_weights
from ._extra_pass import Again
from ._plugin import Plugin


class ConservativeTraining(Plugin):
    """Take each step to the minimum of ``L(w) + strength / 2 |w - w_k|^2`` on its batches, inexactly.

    The Trainer's own optimizer takes ``inner_steps`` steps on the same batches, of which Lightning counts and logs the
    last: ``global_step``, schedulers, loggers and ``max_steps`` count batches. Every inner gradient is clipped as the
    Trainer says. A step costs as many passes. Logs nothing.

    Args:
        strength: Lambda of the proximal term; 1e-3 in the paper. At 0 these are plain steps on the same batches.
        inner_steps: Steps of the optimizer; 3, of ADAM, in the paper. The first does not feel the proximal term.
        keep_moments: Whether the optimizer's state, momentum for instance, lives on from one batch to the next, which
            the paper does not say; otherwise each batch begins with none.

    Raises:
        ValueError: If an argument is out of range. Before the first step in manual optimization, with LBFGS, with
            sharded weights, without trained weights, or beside another plugin.

    Reference:
        Keskar et al. (2017), section 4, after Li, Zhang, Chen and Smola (2014).
    """

    decides_training = ("strength", "inner_steps", "keep_moments")
    stands_alone = True

    def __init__(self, strength: float = 1e-3, *, inner_steps: int = 3, keep_moments: bool = True) -> None:
        self.strength = real_number("strength", strength, at_least=0)
        self.inner_steps = whole_number("inner_steps", inner_steps)
        self.keep_moments = flag("keep_moments", keep_moments)

    def change_gradient(self, trainer: Trainer, pl_module: LightningModule, again: Again) -> None:
        (optimizer,) = trainer.optimizers
        if not self.keep_moments:
            optimizer.state.clear()
        weights = list(trained_weights(trainer, pl_module).values())
        with _back_if_interrupted(weights) as anchor:
            for _ in range(self.inner_steps - 1):
                if any(weight.grad is not None and not weight.grad.isfinite().all() for weight in weights):
                    break  # float16 has overflowed: the scaler skips the last step, too
                proximal_gradient(weights, anchor, [weight.grad for weight in weights], self.strength)
                clip, algorithm = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
                pl_module.configure_gradient_clipping(optimizer, clip, algorithm)
                with torch.no_grad():
                    optimizer.step()
                again()
            proximal_gradient(weights, anchor, [weight.grad for weight in weights], self.strength)


@uninterrupted_exit
def _back_if_interrupted(weights: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Copies of the weights, which after an exception or Ctrl-C inside the block are put back."""
    anchor = [weight.detach().clone() for weight in weights]
    try:
        yield anchor
    except BaseException:
        write(weights, anchor)
        raise
