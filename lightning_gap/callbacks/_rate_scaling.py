"""The callbacks that multiply learning rates: around each update, and watched for updates that were not reached."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from ._callback import GapCallback
from ._hyperparameter_factors import NewValues
from ._run import run_of


class RateScalingCallback(GapCallback):
    """Multiplies every learning rate by its `factor`, and those of other callbacks; see `HyperparameterFactors`."""

    _factor = 1.0

    @property
    def current_scale(self) -> float:
        """What this callback multiplied the learning rates by in the last step."""
        return self._factor

    @abstractmethod
    def factor(self, trainer: Trainer) -> float:
        """What to multiply by in the step that comes now."""

    def claim_rescaling(self, trainer: Trainer) -> None:
        """Claim, in `begin_fit`, to change the learning rate with the batch size."""
        fix = "use LearningRateScaling(when_batch_changes='keep'), or a schedule that leaves the learning rate alone"
        run_of(trainer).claim(trainer, self, "change the learning rate when the batch size changes", fix=fix)

    def multiply(self, trainer: Trainer, *, certain: bool, new_values: NewValues | None = None) -> None:
        """Begin, or tell anew how certain it is that the factor is not 1 throughout.

        ``new_values`` gives other hyperparameters of a group; see `HyperparameterFactors`.
        """

        def factor() -> float:
            self._factor = self.factor(trainer)
            return self._factor

        run_of(trainer).factors_of(trainer).multiply(self, factor, certain=certain, new_values=new_values)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        unscaled = run_of(trainer).unscaled
        if unscaled is not None:
            unscaled.before_batch(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        unscaled = run_of(trainer).unscaled
        if unscaled is not None:
            unscaled.after_batch(trainer)
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
