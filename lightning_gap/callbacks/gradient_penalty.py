"""A penalty on the norm of the gradient, in place of the noise of small batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional._validation import flag, real_number, whole_number
from ..functional.perturbation.gradient_penalty import finite_difference_penalty, loss_with_hessian_product
from ..trainer.optimizers import trained_weights
from ._gradient_change import Again
from ._sharing import SharingPlugin


class GradientPenalty(SharingPlugin):
    """Train on ``L + strength / 2 |grad L|^2``, where L is the loss of the step's batches.

    Small batches with a finite learning rate follow a loss with such a term by themselves (Smith et al. 2021); this
    makes it explicit for large ones. ``H g`` is a difference of two gradients, so that a step costs two passes; exact
    ones differentiate twice. Weight decay is no part of L. Logs nothing.

    Args:
        strength: Factor of half the squared gradient norm, in the units of a learning rate. Geiping et al.'s code has
            0.1 at a rate of 0.8, one eighth of the rate; the implicit term of descent at a rate is half the rate.
        m: Samples whose gradient is penalised together: the whole batch by default, else those of a process or of a
            micro-batch, as in `SharpnessAwareMinimization`. Geiping et al. use 128 of 50,000, and 32.
        length: Euclidean norm of the step over which the difference is taken; 0.01 in their code. The error is in
            proportion to it in smooth networks; ReLU networks differ from ``exact`` at any length.
        exact: Whether ``H g`` is exact: needs a loss that can be differentiated twice, and about two passes more.

    Raises:
        ValueError: If an argument is out of range. Before the first step as in `SharpnessAwareMinimization`, with
            half-precision weights where not ``exact``, and with ``exact`` in float16.
        RuntimeError: With ``exact``, in the first step, if an operation has no double backward, as fused attention and
            compiled modules have none.

    Reference:
        Geiping et al. (2022) and their code; Smith et al. (2021); Barrett and Dherin (2021).
    """

    decides_training = ("strength", "m", "length", "exact")

    def __init__(self, strength: float, *, m: int | None = None, length: float = 0.01, exact: bool = False) -> None:
        self.strength = real_number("strength", strength, above=0)
        self.m = None if m is None else whole_number("m", m, unit="samples")
        self.length = real_number("length", length, above=0)
        self.exact = flag("exact", exact)
        self.moves_weights = not self.exact

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        if self.exact and trainer.precision.startswith("16"):
            raise ValueError(
                f"exact=True differentiates gradients, which float16 has no digits for (precision={trainer.precision!r}"
                "); use precision='bf16-mixed', or exact=False"
            )

    def change_gradient(self, trainer: Trainer, pl_module: LightningModule, again: Again) -> None:
        weights = [weight for weight in trained_weights(trainer, pl_module).values() if weight.grad is not None]
        if not weights:
            return  # the loss depends on none of those that are trained now
        gradients = [weight.grad for weight in weights]
        if self.exact:
            self._add_exactly(weights, gradients, again)
            return

        def ahead() -> Iterable[Tensor | None]:
            again()
            return [weight.grad for weight in weights]

        changed = finite_difference_penalty(ahead, weights, gradients, strength=self.strength, length=self.length)
        for weight, gradient in zip(weights, changed, strict=True):
            weight.grad = gradient

    def _add_exactly(self, weights: list[Tensor], gradients: list[Tensor | None], again: Again) -> None:
        def with_penalty(loss: Tensor, *_: Any) -> Tensor:
            return loss_with_hessian_product(loss, weights, gradients, strength=self.strength)

        try:
            again(other_loss=with_penalty)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RuntimeError(
                f"exact=True: the loss cannot be differentiated twice ({str(error).splitlines()[0]}); use exact=False"
            ) from error
