"""Adversarial training: step by the gradient on inputs that were moved to raise the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional._validation import one_of, real_number, refusal, seed_number, whole_number
from ..functional.perturbation.adversarial import adversarial_inputs
from ..trainer.optimizers import trained_weights
from ..trainer.state import generator_at
from ._gradient_change import Again, Loss
from ._inputs import inputs_of, with_other_inputs
from ._plugin import Plugin
from ._run import run_of

Norm = Literal["max", "l2"]
Channels = float | Sequence[float]


class AdversarialTraining(Plugin):
    """Step by the gradient on adversarial inputs, or its mean with that on the clean ones.

    The batch is copied, never written to. Only the pass over clean inputs counts for BatchNorm's running statistics,
    metrics and what the module logs. A step costs two passes and ``steps`` attacks of about one each. Logs
    ``adversarial/rise``, by how much the attack raises the loss.

    Args:
        epsilon: How far each entry of the inputs may move, or with ``norm="l2"`` all entries of a sample together: in
            the units of the inputs, one number or one for each channel. Goodfellow et al. use 0.25 on MNIST, Madry et
            al. 8 / 255 on CIFAR-10, both for inputs in [0, 1]; divide by the standard deviation after a normalisation.
        steps: Gradients taken by the attack: 1 is the fast gradient sign method; Madry et al. train with 7.
        norm: ``"max"`` for a box, ``"l2"`` for a ball.
        clip: Lowest and highest value of an input, each one number or one for each channel; ``None`` for no bounds.
        clean: Share of the clean gradient: 0.5 in Goodfellow et al., 0 in Madry et al.
        step_size: Length of a step; ``2.5 * epsilon / steps`` by default.
        inputs: Place of the inputs in the batch: an index of a tuple or list, a key of a dict, or the name of a
            dataclass's field.
        seed: Of the random starts that several steps begin with.

    Raises:
        ValueError: If an argument is out of range. Before the first step as in `SharpnessAwareMinimization`, or if the
            batch has no floating-point tensor where ``inputs`` says, or cannot be made again with another.

    Reference:
        Goodfellow, Shlens and Szegedy (2015), section 6; Madry et al. (2018), section 2.1; Keskar et al. (2017),
        section 4.
    """

    decides_training = ("epsilon", "steps", "norm", "clip", "clean", "step_size", "inputs", "seed")

    def __init__(
        self,
        epsilon: Channels,
        *,
        steps: int = 1,
        norm: Norm = "max",
        clip: tuple[Channels, Channels] | None = None,
        clean: float = 0.5,
        step_size: Channels | None = None,
        inputs: int | str = 0,
        seed: int = 0,
    ) -> None:
        self.epsilon = _positive("epsilon", epsilon)
        self.steps = whole_number("steps", steps)
        self.norm: Norm = one_of("norm", norm, get_args(Norm))
        self.clip = _bounds(clip)
        self.clean = real_number("clean", clean, at_least=0, below=1)
        self.step_size = None if step_size is None else _positive("step_size", step_size)
        self.inputs = inputs if isinstance(inputs, str) else whole_number("inputs", inputs, 0)
        self.seed = seed_number("seed", seed)
        self._rise: Tensor | None = None

    def changes_this_step(self, trainer: Trainer) -> bool:
        self._rise = None
        return super().changes_this_step(trainer)

    def change_gradient(self, trainer: Trainer, pl_module: LightningModule, again: Again) -> None:
        weights, run = list(trained_weights(trainer, pl_module).values()), run_of(trainer)
        clean = [None if weight.grad is None or not self.clean else weight.grad.clone() for weight in weights]
        generator = generator_at(self.seed, trainer.global_step, trainer.global_rank)

        def attacked(batch: Any, loss: Loss) -> Any:
            run.attacks = True
            try:
                found = adversarial_inputs(
                    lambda inputs: loss(with_other_inputs(batch, self.inputs, inputs)),
                    inputs_of(batch, self.inputs),
                    epsilon=self.epsilon,
                    steps=self.steps,
                    step_size=self.step_size,
                    norm=self.norm,
                    clip=self.clip,
                    generator=generator,
                )
            finally:
                run.attacks = False
            return with_other_inputs(batch, self.inputs, found)

        rise = again(attacked)
        self._rise = rise if self._rise is None else self._rise  # not at perturbed weights, where it is attacked again
        for weight, gradient in zip(weights, clean, strict=True):
            if gradient is not None and weight.grad is not None:
                weight.grad.mul_(1 - self.clean).add_(gradient, alpha=self.clean)

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this callback logs."""
        return ("adversarial/rise",)

    def values_to_log(self) -> dict[str, Tensor]:
        return {} if self._rise is None else {"adversarial/rise": self._rise}


def _positive(name: str, value: Any) -> Channels:
    return _by_channel(name, value, above=0)


def _by_channel(name: str, value: Any, *, above: float | None = None) -> Channels:
    if not isinstance(value, list | tuple):
        return real_number(name, value, above=above)
    if not value:
        raise ValueError(refusal(name, "must be one number, or one for each channel", value))
    return tuple(real_number(name, each, above=above) for each in value)


def _bounds(clip: Any) -> tuple[Channels, Channels] | None:
    if clip is None:
        return None
    if not isinstance(clip, list | tuple) or len(clip) != 2:
        raise ValueError(refusal("clip", "must be the lowest and the highest value of an input", clip, "(0.0, 1.0)"))
    low, high = (_by_channel("clip", bound) for bound in clip)
    lows, highs = (bound if isinstance(bound, tuple) else None for bound in (low, high))
    if lows is not None and highs is not None and len(lows) != len(highs):
        raise ValueError(refusal("clip", "must have as many lowest values as highest ones", clip))
    if not bool((torch.tensor(low) < torch.tensor(high)).all()):
        raise ValueError(refusal("clip", "must have its lowest value below its highest", clip))
    return low, high
