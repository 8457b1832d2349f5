"""Log how far the weights have moved from where they started."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.nn.parameter import is_lazy

from .._lightning import is_due, refuse_same_keys, refuse_sharded_weights
from ..functional.weight_distance import log_fit, weight_distance
from ._arguments import check_counts


class WeightDistanceMonitor(Callback):
    """Log the Euclidean distance of all parameters from their values when fit began.

    Logs at the end of an epoch ``weights/distance_from_init``, and from the third measurement on
    ``weights/log_slope`` and ``weights/log_r2``: slope and R squared of distance against the logarithm of the
    optimizer step, the law that Hoffer et al. found in the early, high-rate phase. The starting weights and the
    measurements are part of the checkpoint, so that a resumed run goes on measuring from the same point.

    Args:
        every_n_epochs: Measure at the end of every n-th epoch, and of the last one planned.
        suffix: Appended to the keys, so that two monitors can stand side by side.

    Raises:
        ValueError: If ``every_n_epochs`` is below 1; at fit start, if a parameter is still lazy, the strategy shards
            the weights, two monitors log the same key, or a checkpoint's weights do not match the model's.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 3; Keskar et al. (2017), section 4.
    """

    def __init__(self, *, every_n_epochs: int = 1, suffix: str = "") -> None:
        check_counts(every_n_epochs=every_n_epochs)
        self.every_n_epochs = every_n_epochs
        self.suffix = suffix
        self._start: dict[str, Tensor] = {}
        self._steps: list[int] = []
        self._distances: list[float] = []

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this monitor logs."""
        return tuple(f"weights/{name}{self.suffix}" for name in ("distance_from_init", "log_slope", "log_r2"))

    @property
    def state_key(self) -> str:
        return self._generate_state_key(suffix=self.suffix)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":  # runs before a checkpoint is loaded: what was measured in an earlier fit is over
            refuse_sharded_weights(trainer, self)
            refuse_same_keys(trainer, self, self.keys)
            self._start, self._steps, self._distances = {}, [], []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = _weights(pl_module)
        if not self._start:
            if trainer.ckpt_path:
                rank_zero_warn(
                    "the checkpoint was saved without WeightDistanceMonitor, so the first weights are unknown: "
                    "distances are measured from those of the checkpoint"
                )
            self._start = {name: weight.detach().cpu().clone() for name, weight in weights.items()}
        elif self._start.keys() != weights.keys():
            different = ", ".join(sorted(self._start.keys() ^ weights.keys()))
            raise ValueError(
                f"the checkpoint's WeightDistanceMonitor and the model differ in parameters: {different}; "
                "resume with the same model, or load only its weights"
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not is_due(trainer, self.every_n_epochs):
            return
        weights = _weights(pl_module)
        distance = weight_distance((weights[name] for name in self._start), self._start.values())
        self._steps.append(max(1, trainer.global_step))
        self._distances.append(distance)
        values = [distance]
        if len(set(self._steps)) > 2:
            fit = log_fit(self._steps, self._distances)
            values += [fit.slope, fit.r_squared]
        pl_module.log_dict(dict(zip(self.keys, values, strict=False)), sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        return {"start": self._start, "steps": self._steps, "distances": self._distances}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start = dict(state_dict["start"])
        self._steps = list(state_dict["steps"])
        self._distances = list(state_dict["distances"])


def _weights(module: LightningModule) -> dict[str, Tensor]:
    """All of them: a frozen one adds nothing, and may be unfrozen on the way."""
    weights: dict[str, Tensor] = dict(module.named_parameters())
    for name, weight in weights.items():
        if is_lazy(weight):
            raise ValueError(f"parameter {name} is lazy and has no value yet; run one batch through the model first")
    return weights
