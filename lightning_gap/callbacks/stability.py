"""Stability training: hold the predictions on noisy inputs to those on clean ones."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..functional._validation import real_number, seed_number, whole_number
from ..functional.perturbation.adversarial import stability_loss
from ..trainer.state import generator_at
from ._gradient_change import Again, Loss
from ._inputs import inputs_of, with_other_inputs
from ._module_part import checked_name, module_part, name_of_part, watch_outputs
from ._plugin import Plugin
from ._run import run_of


class StabilityTraining(Plugin):
    """Train on ``L + strength * KL(f(x), f(x + noise))``, for a classifier f whose scores the module computes.

    The loss L is that of your `training_step`, on clean inputs alone; the noise is normal, and drawn anew in each step.
    The batch is copied, never written to. Only the first pass, over clean inputs, counts for BatchNorm's running
    statistics, metrics and what the module logs. A step costs about three plain ones. Logs ``stability/divergence``,
    the mean divergence of the step's samples, in nats.

    Args:
        sigma: Standard deviation of the noise, in the units of the inputs: 0.04 in the paper for inputs in [0, 1];
            divide by the standard deviation after a normalisation.
        strength: Alpha; 0.01 in the paper.
        outputs: Name of the part of the module that gives the scores, of shape (N, classes, ...), ``"network"`` for
            instance; by default the module itself, whose `forward` runs where `training_step` calls ``self(...)``.
        inputs: Place of the inputs in the batch: an index of a tuple or list, a key of a dict, or the name of a
            dataclass's field.
        seed: Of the noise.

    Raises:
        ValueError: If an argument is out of range. Before the first step as in `SharpnessAwareMinimization`, if the
            batch has no floating-point tensor where ``inputs`` says or cannot be made again with another, or if
            `training_step` does not call the part once, or it gives no scores.

    Reference:
        Zheng, Song, Leung and Goodfellow (2016), section 3; Keskar et al. (2017), section 4. The divergence has the
        gradient of the paper's cross-entropy but for the entropy of the clean predictions, see
        `functional.stability_loss`.
    """

    decides_training = ("sigma", "strength", "outputs", "inputs", "seed")

    def __init__(
        self,
        sigma: float = 0.04,
        strength: float = 0.01,
        *,
        outputs: str | None = None,
        inputs: int | str = 0,
        seed: int = 0,
    ) -> None:
        self.sigma = real_number("sigma", sigma, above=0)
        self.strength = real_number("strength", strength, above=0)
        self.outputs = checked_name(outputs)
        self.inputs = inputs if isinstance(inputs, str) else whole_number("inputs", inputs, 0)
        self.seed = seed_number("seed", seed)
        self._divergence: Tensor | None = None

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        module_part(module, self.outputs)

    def change_gradient(self, trainer: Trainer, pl_module: LightningModule, again: Again) -> None:
        seen: list[Any] = []
        found: dict[int, Tensor] = {}  # by batch, in the first pass; others may follow at perturbed weights

        def scores() -> Tensor:
            if len(seen) != 1 or not isinstance(seen[0], Tensor) or not seen[0].requires_grad:
                part, kind = name_of_part(pl_module, self.outputs), type(seen[0]).__name__ if seen else ""
                told = f"a {kind}" + " without a graph" * isinstance(seen[0], Tensor) if len(seen) == 1 else ""
                raise ValueError(
                    f"StabilityTraining needs one tensor of scores of {part} for each batch, and got "
                    f"{told or f'{len(seen)} outputs'}; name the part of the module that gives them, outputs='...'"
                )
            tensor: Tensor = seen.pop()
            return tensor

        def stabilised(loss: Tensor, batch: Any, loss_of: Loss) -> Tensor:
            clean, inputs = scores(), inputs_of(batch, self.inputs)
            number = run_of(trainer).repeated
            assert number is not None  # in a further pass
            generator = generator_at(self.seed, trainer.global_step, trainer.global_rank, number)
            noise = torch.randn(inputs.shape, generator=generator, dtype=torch.float32).to(inputs)
            loss_of(with_other_inputs(batch, self.inputs, inputs + self.sigma * noise))
            divergence = stability_loss(clean, scores())
            found.setdefault(number, divergence.detach())
            return loss + self.strength / trainer.accumulate_grad_batches * divergence

        end_watching = watch_outputs(trainer, pl_module, self.outputs, seen.append)
        try:
            again(other_loss=stabilised)
        finally:
            end_watching()
        self._divergence = torch.stack(list(found.values())).mean()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this callback logs."""
        return ("stability/divergence",)

    def values_to_log(self) -> dict[str, Tensor]:
        return {} if self._divergence is None else {"stability/divergence": self._divergence}
