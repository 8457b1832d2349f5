"""Sharpness-aware minimization: step by the gradient at the worst weights nearby."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional._validation import flag, one_of, real_number, whole_number
from ..functional.parameter_groups import NORMALISATION, _is_bias
from ..functional.perturbation.sharpness_aware import ascent_direction, perturbed
from ..trainer.optimizers import trained_weights
from ..trainer.progress import comes_to, fraction_of_run, has_an_end
from ._gradient_change import Again
from ._sharing import SharingPlugin

Norm = Literal["l2", "max"]
Perturb = Literal["all", "norm_layers"]


class SharpnessAwareMinimization(SharingPlugin):
    """Take each step by the gradient at the weights nearby where the loss is highest, to first order.

    It minimises nearly the quantity that `SharpnessMonitor` measures. A step costs two passes over its batches. Logs
    ``sam/rise``, by how much the perturbation raises the loss of the step's batches, in the loss's unit; of the last
    step that was perturbed.

    With ``g`` the gradient and ``T = |w| + eta`` where ``adaptive``, else 1, the perturbation is ``rho T^2 g / |T g|``
    (SAM, ASAM), or ``rho T sign(g)`` with ``norm="max"``: to first order, the robust problem of Keskar et al. (2017),
    ``min_w max L(w + e)`` over a box, which they left at a sketch. Weight decay is the optimizer's and no part of
    ``g``. The learning rate, clipping and momentum see the second gradient alone.

    Args:
        rho: Size of the perturbation, in units of the weights, or where ``adaptive`` relative to them. By default 0.05
            (Foret et al. on CIFAR-10), where ``adaptive`` 0.5 (Kwon et al.); for ``norm="max"`` there is none.
        adaptive: Whether each weight's perturbation is in proportion to it; biases stay as without, as in Kwon et al.'s
            code.
        norm: ``"l2"``: one ball over all weights. ``"max"``: a box.
        eta: Added to ``|w|`` where ``adaptive``. Kwon et al.'s class has 0.01, their CIFAR runs 0.
        m: Samples that share a perturbation (m-sharpness): the whole batch by default. Otherwise those that a process
            works on in a step, or one of its micro-batches: then each is perturbed by its own gradient. Foret et al.
            find a small m to generalise better; with m as large as a large batch the gain is gone.
        perturb: ``"all"`` weights, or those of ``"norm_layers"`` of torch alone (Mueller et al. 2023).
        start: Fraction of the run, from 0 to below 1, after which it begins. Zhou et al. (2025): the last epochs alone
            find nearly what all of them do.
        every_n_steps: Perturb every n-th step alone; the others are plain ones.

    Raises:
        ValueError: If an argument is out of range. Before the first step, in manual optimization, with LBFGS, with
            sharded or half-precision weights, without trained weights or norm layers to perturb, if ``m`` is none of
            the sizes above, or if ``start`` is asked of a run without an end, or of one that never comes to it because
            its loader has no length and its epochs are too few.

    Reference:
        Foret et al. (2021), algorithm 1; Kwon et al. (2021), algorithm 1; Keskar et al. (2017), section 4; Mueller et
        al. (2023); Zhou et al. (2025).
    """

    decides_training = ("rho", "adaptive", "norm", "eta", "m", "perturb", "start", "every_n_steps")
    moves_weights = True

    def __init__(
        self,
        rho: float | None = None,
        *,
        adaptive: bool = False,
        norm: Norm = "l2",
        eta: float = 0.01,
        m: int | None = None,
        perturb: Perturb = "all",
        start: float = 0.0,
        every_n_steps: int = 1,
    ) -> None:
        self.adaptive = flag("adaptive", adaptive)
        self.norm: Norm = one_of("norm", norm, get_args(Norm))
        if rho is None and self.norm == "max":
            raise ValueError("rho must be given where norm='max': no paper has a default; the sharpness box is 1e-3")
        self.rho = None if rho is None else real_number("rho", rho, above=0)
        self.eta = real_number("eta", eta, at_least=0)
        self.m = None if m is None else whole_number("m", m, unit="samples")
        self.perturb: Perturb = one_of("perturb", perturb, get_args(Perturb))
        self.start = real_number("start", start, at_least=0, below=1, hint="it is a fraction of the run")
        self.every_n_steps = whole_number("every_n_steps", every_n_steps)
        self._rises: list[Tensor] = []  # of the last step that was perturbed

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        self._rises = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if self.perturb == "norm_layers" and not self._perturbed(trainer, pl_module):
            raise ValueError(
                f"perturb='norm_layers' finds no trained weights of norm layers in {type(pl_module).__name__}; use "
                "perturb='all'"
            )
        if self.start > 0 and not has_an_end(trainer):
            raise ValueError(f"start={self.start} is a fraction of a run without an end; give Trainer(max_epochs=...)")
        if not comes_to(trainer, self.start):
            raise ValueError(
                f"start={self.start} of a run of max_epochs={trainer.max_epochs}, over a train loader that has no "
                "length, never comes: inside an epoch it is not known how much is done; give Trainer(max_steps=...)"
            )

    def changes_this_step(self, trainer: Trainer) -> bool:
        due = trainer.global_step % self.every_n_steps == 0 and fraction_of_run(trainer) >= self.start
        changes = due and super().changes_this_step(trainer)
        if changes:
            self._rises = []
        return changes

    def change_gradient(self, trainer: Trainer, pl_module: LightningModule, again: Again) -> None:
        perturbed_now = self._perturbed(trainer, pl_module)
        moved = {name: weight for name, weight in perturbed_now.items() if weight.grad is not None}
        if not moved:
            return  # norm layers that are frozen by now, or that this step does not use: a plain step
        weights = list(moved.values())
        directions = ascent_direction(
            weights,
            [weight.grad for weight in weights],
            rho=(0.5 if self.adaptive else 0.05) if self.rho is None else self.rho,
            adaptive=[self.adaptive and not _is_bias(name) for name in moved],
            norm=self.norm,
            eta=self.eta,
        )
        with perturbed(weights, directions):
            del directions
            rise = again()
        self._rises.append(rise)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this callback logs."""
        return ("sam/rise",)

    def values_to_log(self) -> dict[str, Tensor]:
        return {"sam/rise": torch.stack(self._rises).mean()} if self._rises else {}

    def _perturbed(self, trainer: Trainer, module: LightningModule) -> dict[str, Tensor]:
        """The weights to perturb, asked in each step: layers are frozen and unfrozen during a run."""
        weights = trained_weights(trainer, module)
        if self.perturb == "all":
            return weights
        layers = [layer for layer in module.modules() if isinstance(layer, NORMALISATION)]
        theirs = {id(weight) for layer in layers for weight in layer.parameters(recurse=False)}
        return {name: weight for name, weight in weights.items() if id(weight) in theirs}
