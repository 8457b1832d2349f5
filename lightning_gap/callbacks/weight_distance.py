"""Log how far the weights have moved from where they started."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn
from torch import Tensor
from torch.nn.parameter import is_lazy

from ..functional._validation import flag, shown, text
from ..functional.weight_distance import layer_distances, log_fit, weight_distance
from ..trainer.callbacks import state_key
from ..trainer.checkpoint_file import check_values, listed, read_checkpoint, short_error, weights_in
from ..trainer.logs import log_now
from ..trainer.optimizers import trained_weights
from ..trainer.progress import is_last_planned
from ..trainer.refusals import refuse_sharded_weights
from ._history import History, PlottedCallback
from ._loader_subset import one_line
from ._run import run_of
from ._schedule import EveryNEpochs, check_every_n_epochs, is_regular


class WeightDistanceMonitor(PlottedCallback):
    """Log the Euclidean distance of all parameters from their values when fit began.

    Logs at the end of an epoch ``weights/distance_from_init``, and from the third point on ``weights/log_slope`` and
    ``weights/log_r2``: slope and R squared of distance against the logarithm of the optimizer step, the law that
    Hoffer et al. found in the early, high-rate phase. Points of that line are the measured epochs and, unlogged, the
    optimizer steps 1, 2, 4, 8, ... The starting weights and the points are part of the checkpoint, so that a resumed
    run measures from the same start.

    Args:
        every_n_epochs: Measure at the end of every n-th epoch, or with ``"log"`` of epochs 1, 2, 4, 8, ...; in both
            cases also at the end of the run, whatever ends it.
        per_layer: Also log ``weights/layers/<layer>`` for each layer, that is for each module which has parameters of
            its own (``weights/layers/_root`` for those of the LightningModule itself). The squares add up.
        compare_with: File with the final weights of another run of the same network from the same initial weights, a
            Lightning checkpoint or a saved ``state_dict()``. Also logs ``weights/distance_ratio``, the distance of
            this run divided by that of the other one at its end; Keskar et al. found small-batch runs 3 to 10 times
            farther out than large-batch ones.
        suffix: Appended to the keys, so that two monitors can stand side by side.

    Raises:
        ValueError: If ``every_n_epochs`` is neither ``"log"`` nor at least 1; at fit start, if a parameter is still
            lazy, the strategy shards the weights, two monitors log the same key, or the weights of a checkpoint or of
            ``compare_with`` do not match the model's.

    Reference:
        Hoffer, Hubara and Soudry (2017), section 3; Keskar et al. (2017), section 4.
    """

    may_change = ("per_layer", "compare_with")
    plots_log_steps = True  # in which the early distance is a straight line
    suffix: str = ""  # Lightning asks for the state key before we can say that an `__init__` has not run

    def __init__(
        self,
        *,
        every_n_epochs: EveryNEpochs = 1,
        per_layer: bool = False,
        compare_with: str | os.PathLike[str] | None = None,
        suffix: str = "",
    ) -> None:
        if not isinstance(compare_with, str | os.PathLike | None) or compare_with == "":
            raise ValueError(f"compare_with must be the path of a file, or None, got {shown(compare_with)}")
        self.every_n_epochs = check_every_n_epochs(every_n_epochs)
        self.per_layer = flag("per_layer", per_layer)
        self.compare_with = compare_with
        self.suffix = text("suffix", suffix)
        self._start: dict[str, Tensor] = {}
        self._trained: set[str] = set()  # names of weights that an optimizer has held
        self._points: dict[int, float] = {}  # distance by optimizer step, in the order of the steps
        self._latest: dict[int, float] = {}  # the distance when an epoch ended last
        self._other_distance: float | None = None
        self._unlogged: dict[str, float] = {}

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this monitor logs, but for those of single layers."""
        ratio = () if self.compare_with is None else ("distance_ratio",)
        return tuple(f"weights/{name}{self.suffix}" for name in ("distance_from_init", "log_slope", "log_r2", *ratio))

    @property
    def state_key(self) -> str:
        return state_key(self, suffix=self.suffix)

    @property
    def history(self) -> History:
        """The points of the line and the last measured epoch: of each its ``step`` and its distance."""
        points = self._points | self._latest
        return [{"step": float(step), "distance_from_init": distance} for step, distance in points.items()]

    @property
    def plotted(self) -> tuple[str, ...]:
        """The distance."""
        return ("distance_from_init",)

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        refuse_sharded_weights(trainer, self)
        run_of(trainer).claim_keys(trainer, self, self.keys)
        self._start, self._points, self._unlogged, self._other_distance = {}, {}, {}, None
        self._trained, self._latest = set(), {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        _refuse_lazy(pl_module)
        if self._start:
            _refuse_other_names(self._start, pl_module)
        else:
            if trainer.ckpt_path:
                rank_zero_warn(_START_IS_UNKNOWN)
            self._start = {name: w.detach().to("cpu", copy=True) for name, w in pl_module.named_parameters()}
        if self.compare_with is not None:
            self._other_distance = _distance_of_other_run(self.compare_with, self._start, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # also the point of an epoch's end: a run resumed from its last batch does not come by on_train_epoch_end again
        if self._is_point(trainer, trainer.is_last_batch):
            self._measure(trainer, pl_module, trainer.is_last_batch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # measured after every epoch: at the end of the run, weight averaging may have replaced the weights
        values = self._values(trainer, self._measure(trainer, pl_module, True))
        if is_regular(trainer.current_epoch, self.every_n_epochs) or is_last_planned(trainer):
            pl_module.log_dict(values, sync_dist=True)
            values = {}
        self._unlogged = values

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._unlogged:  # the run ended sooner than planned
            log_now(trainer, self._unlogged)

    def state_dict(self) -> dict[str, Any]:
        return {
            "start": self._start,
            "steps": list(self._points),
            "distances": list(self._points.values()),
            "trained": sorted(self._trained),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._start = dict(state_dict["start"])
        self._trained = set(state_dict.get("trained", ()))
        self._points = dict(zip(state_dict["steps"], state_dict["distances"], strict=True))

    def _is_point(self, trainer: Trainer, epoch_ends: bool) -> bool:
        """Whether the line gets a point here; not at the last planned epoch, of which a longer run knows nothing."""
        step, last = trainer.global_step, next(reversed(self._points), 0)
        passes_power_of_two = step.bit_length() > last.bit_length()  # several optimizers may step over it
        return step > last and (
            passes_power_of_two or (epoch_ends and is_regular(trainer.current_epoch, self.every_n_epochs))
        )

    def _measure(self, trainer: Trainer, module: LightningModule, epoch_ends: bool) -> dict[str, float]:
        """Distances of all layers by the weights that an optimizer holds or has held; others are not trained."""
        weights = {name: weight for name, weight in module.named_parameters() if name in self._start}
        gone = self._start.keys() - weights.keys()
        if gone:
            raise ValueError(
                f"WeightDistanceMonitor misses {', '.join(sorted(gone))}: something renamed these parameters after fit "
                "began, as pruning does; apply it before fit, or remove one of the two callbacks"
            )
        self._trained |= trained_weights(trainer, module).keys() & weights.keys()  # some are unfrozen on the way
        moved = {name: weight if name in self._trained else self._start[name] for name, weight in weights.items()}
        layers = layer_distances(moved, self._start)
        if self._is_point(trainer, epoch_ends):
            self._points[trainer.global_step] = math.hypot(*layers.values())
        return layers

    def _values(self, trainer: Trainer, layers: dict[str, float]) -> dict[str, float]:
        distance = math.hypot(*layers.values())
        values = {"distance_from_init": distance}
        self._latest = {trainer.global_step: distance} if trainer.global_step else {}
        points = self._points | self._latest
        if len(points) > 2:
            fit = log_fit(list(points), list(points.values()))
            values |= {"log_slope": fit.slope, "log_r2": fit.r_squared}
        if self._other_distance is not None:
            values["distance_ratio"] = distance / self._other_distance
        if self.per_layer:
            values |= {f"layers/{layer or '_root'}": value for layer, value in layers.items()}
        return {f"weights/{name}{self.suffix}": value for name, value in values.items()}


_START_IS_UNKNOWN = (
    "the checkpoint was saved without WeightDistanceMonitor, so the first weights are unknown: distances are measured "
    "from those of the checkpoint"
)


def _refuse_lazy(module: LightningModule) -> None:
    for name, weight in module.named_parameters():
        if is_lazy(weight):
            raise ValueError(f"parameter {name} is lazy and has no value yet; run one batch through the model first")


def _refuse_other_names(start: Mapping[str, Tensor], module: LightningModule) -> None:
    different = start.keys() ^ dict(module.named_parameters()).keys()
    if different:
        raise ValueError(
            f"the checkpoint's WeightDistanceMonitor and the model differ in parameters: {listed(different)}; "
            "resume with the same model, or load only its weights"
        )


def _distance_of_other_run(path: str | os.PathLike[str], start: Mapping[str, Tensor], module: LightningModule) -> float:
    """How far the run whose final weights are in the file has come from the start it shares with this one."""
    try:
        stored = weights_in(read_checkpoint(path), bare=True)
        weights = {name: value for name, value in stored.items() if isinstance(value, Tensor)}
        different = (start.keys() - weights.keys()) | (weights.keys() - module.state_dict().keys())
        if different:
            raise ValueError(f"its names differ from the model's in {listed(different)}")
        shapes = [name for name in start if weights[name].shape != start[name].shape]
        if shapes:
            raise ValueError(f"its shapes differ from the model's in {listed(shapes)}")
        check_values(weights, module)
        distance = weight_distance([weights[name] for name in start], start.values())
        if not 0 < distance < math.inf:
            raise ValueError(f"its distance from the start of this run is {distance}")
    except Exception as error:  # an unreadable file raises whatever its bytes lead to
        reason = one_line(error) if isinstance(error, ValueError | FileNotFoundError) else short_error(error)
        raise ValueError(
            f"compare_with={os.fspath(path)!r} cannot be compared with this run: {reason}; give the final weights of a "
            "run of the same network from the same start: a Lightning checkpoint, or what "
            "torch.save(module.state_dict(), path) wrote"
        ) from error
    return distance
