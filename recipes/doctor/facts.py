"""What the causes of a gap are told from: the numbers of one run, each with the place where it was read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from .curves import Curve


@dataclass(frozen=True)
class Reading:
    """A number, and where it was read."""

    value: float
    source: str

    def __str__(self) -> str:
        return f"{self.value:.6g}"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One run as far as it can be read; None is what is not there.

    Attributes:
        name: Of the run.
        batch_size: Samples per optimizer step, the largest.
        first_batch_size: The same in the beginning.
        base_batch_size: That for which the learning rate was tuned.
        steps: Optimizer steps.
        epochs: Epochs.
        scale: Largest factor of the learning rate.
        first_scale: Its factor in the first step that was logged.
        peak_rate: Largest learning rate of a step, scaled.
        last_rate: That of the last step.
        clip: Limit of the gradient's norm, 0 for none.
        train_loss: At the end.
        still_falling: Share of the training loss's whole fall that came in the last fifth of the run.
        gap_loss: Training minus validation loss, measured alike.
        batch_norm: BatchNorm layers, 0 for none.
        ghosts: Ghost layers, 0 for none.
        stored_statistics: 1 where the model is evaluated by BatchNorm's running averages, 0 where by others.
        micro_batches: Micro-batches in an epoch, of one process.
        updates: Optimizer steps in an epoch.
        accumulate: Micro-batches in a step.
        weighed: 1 where micro-batches are weighed by their samples, else 0.
        weight_decay: The optimizer's.
        used_weight_decay: That of the updates, where `OptimizerScaling` has changed it.
        decay_in_gradient: 1 where an adaptive optimizer gets the decay as part of the gradient, else 0.
        ema_decay: Of the averaged weights, 0 where none are averaged.
        used_ema_decay: The same as `OptimizerScaling` has changed it.
    """

    name: str
    batch_size: Reading | None = None
    first_batch_size: Reading | None = None
    base_batch_size: Reading | None = None
    steps: Reading | None = None
    epochs: Reading | None = None
    scale: Reading | None = None
    first_scale: Reading | None = None
    peak_rate: Reading | None = None
    last_rate: Reading | None = None
    clip: Reading | None = None
    train_loss: Reading | None = None
    still_falling: Reading | None = None
    gap_loss: Reading | None = None
    batch_norm: Reading | None = None
    ghosts: Reading | None = None
    stored_statistics: Reading | None = None
    micro_batches: Reading | None = None
    updates: Reading | None = None
    accumulate: Reading | None = None
    weighed: Reading | None = None
    weight_decay: Reading | None = None
    used_weight_decay: Reading | None = None
    decay_in_gradient: Reading | None = None
    ema_decay: Reading | None = None
    used_ema_decay: Reading | None = None


def facts_of_curves(curves: Mapping[str, Curve]) -> dict[str, Reading]:
    """What logged curves tell, by the names of `Facts`.

    Args:
        curves: By the keys that this package's callbacks and Lightning's `LearningRateMonitor` log; of the training
            loss under any name that has ``train`` and ``loss`` in it.
    """
    found: dict[str, Reading] = {}

    def read(fact: str, value: float, curve: Curve) -> None:
        found[fact] = Reading(value, curve.source)

    if size := curves.get("batch/size"):
        if min(size.values) < 1:
            raise ValueError(f"{size.source} is {min(size.values):g} samples in a step; move that file away")
        read("batch_size", max(size.values), size)
        read("first_batch_size", size.values[0], size)
    if scale := curves.get("lr/scale"):
        read("scale", max(scale.values), scale)
        read("first_scale", scale.values[0], scale)
    if rate := _rate(curves):
        read("peak_rate", max(rate.values), rate)
        read("last_rate", rate.values[-1], rate)
    if epoch := curves.get("epoch"):
        read("steps", epoch.points[-1][0] + 1, epoch)
        read("epochs", max(epoch.values) + 1, epoch)
    if loss := _train_loss(curves):
        read("train_loss", loss.values[-1], loss)
        falling = share_in_the_last_fifth(loss.values)
        if not math.isnan(falling):
            read("still_falling", falling, loss)
    last = {"gap_loss": "gap/loss", "ghosts": "ghost/layers", "accumulate": "batch/accumulate"}
    last |= {"used_weight_decay": "optimizer/weight_decay", "used_ema_decay": "optimizer/ema_decay"}
    for fact, key in last.items():
        if curve := curves.get(key):
            read(fact, curve.values[-1], curve)
    return found


def share_in_the_last_fifth(losses: tuple[float, ...]) -> float:
    """The share of a loss's whole fall that came in the last fifth of its points; NaN of fewer than five.

    By the means of fifths: (the last but one - the last) / (the first - the last); 0 where it did not fall.

    Example:
        >>> share_in_the_last_fifth((5.0, 4.0, 3.0, 2.0, 1.0)), share_in_the_last_fifth((5.0, 1.0, 1.0, 1.0, 1.0))
        (0.25, 0.0)
    """
    size = len(losses) // 5
    if not size:
        return math.nan
    first, before, last = fmean(losses[:size]), fmean(losses[-2 * size : -size]), fmean(losses[-size:])
    return max(0.0, (before - last) / (first - last)) if first > last else 0.0


def _rate(curves: Mapping[str, Curve]) -> Curve | None:
    names = ["lr/effective", *sorted(name for name in curves if name.startswith("lr-") and "momentum" not in name)]
    return next((curves[name] for name in names if name in curves), None)


def _train_loss(curves: Mapping[str, Curve]) -> Curve | None:
    """Means over an epoch before those of single steps."""
    own = [name for name in curves if "train" in name.lower() and "loss" in name.lower()]
    ordered = sorted(own, key=lambda name: (name.endswith("_step"), not name.endswith("_epoch"), len(name), name))
    return next((curves[name] for name in [*ordered, "loss_epoch", "loss"] if name in curves), None)
