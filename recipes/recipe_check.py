"""Whether a recipe can be trained: its network, batches, ghosts and callbacks; before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gap import (
    AdaptiveBatchSize,
    BatchPlan,
    BatchSizeScheduler,
    GhostBatchNormSwap,
    LearningRateScaling,
    PiggybackWarmStart,
)
from lightning_gap.functional import epoch_batch_at

from .recipe import Batch, Recipe


def check_network(build: Callable[[], Recipe], batch: Batch, *, classes: int) -> None:
    """Build it and take one step's forward and backward pass, on no device.

    On no device this costs nothing; what then fails is tried for real, for a network may read its values.

    Args:
        build: Builds the recipe where `torch.device` says.
        batch: Inputs (n, ...) and targets (n, ...) of the data.
        classes: Of the data.

    Raises:
        ValueError: If it cannot be built, takes no such inputs, gives no scores (n, classes, ...), or none of its
            weights is trained; says which.
    """
    inputs, targets = batch
    with torch.random.fork_rng(devices=[]):
        with torch.device("meta"):
            recipe = built(build)
        try:
            _step(recipe, inputs.to("meta"), targets.to("meta"), classes)
        except Exception:  # perhaps for want of a device
            _step(built(build), inputs, targets, classes)


def built(build: Callable[[], Recipe]) -> Recipe:
    """The recipe; what its constructor refuses is told as it is, what fails inside with its kind.

    Raises:
        ValueError: If it cannot be built.
    """
    try:
        return build()
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"it cannot be built: {in_one_line(error)}") from error


def check_batches(recipe: Recipe, training: int, *, processes: int, accumulate: int) -> None:
    """Refuse batches and ghosts that do not fit the data, the processes or the micro-batches.

    Args:
        recipe: Under its regime.
        training: Training samples.
        processes: That train together.
        accumulate: Micro-batches of an optimizer step.

    Raises:
        ValueError: Names the size and what it must be.
    """
    shares, callbacks = processes * accumulate, recipe.configure_callbacks()
    normalises_samples = any(isinstance(layer, nn.BatchNorm1d) for layer in recipe.modules())
    sizes = [recipe.batch_size]
    for callback in callbacks:
        if isinstance(callback, BatchSizeScheduler):
            sizes += [epoch_batch_at(callback.schedule, epoch).batch_size for epoch in range(recipe.epochs)]
        elif isinstance(callback, PiggybackWarmStart):
            sizes.append(callback.large_batch_size)
    for size in dict.fromkeys(sizes):
        if size % shares:
            raise ValueError(
                f"a batch of {size} samples cannot be split equally over {processes} processes and "
                f"accumulate_grad_batches={accumulate}; use a multiple of {shares}"
            )
        if size > training:
            raise ValueError(f"batch_size must be from 1 to the {training} training samples, got {size}")
        batches = BatchPlan(training, size // shares, processes=processes)
        if normalises_samples and batches.size(len(batches) - 1) == 1:
            raise ValueError(
                f"batches of {size} leave a last one with a single sample for a process, of {training} training "
                "samples, which BatchNorm cannot normalise; use another batch size or validation_size"
            )
    share = recipe.batch_size // shares
    for callback in callbacks:
        if isinstance(callback, GhostBatchNormSwap) and not 2 <= callback.ghost_batch_size <= share:
            raise ValueError(
                f"ghost_batch_size={callback.ghost_batch_size} must be from 2 to the {share} samples that a process "
                f"works on at a time, a batch of {recipe.batch_size} on {processes} processes in {accumulate} parts"
            )


def check_callbacks(recipe: Recipe, monitors: Sequence[Callback], users: Sequence[Callback]) -> None:
    """Refuse callbacks of the user's that cannot stand beside the others.

    Args:
        recipe: Under its regime.
        monitors: Of every run.
        users: Callbacks that the Trainer is given.

    Raises:
        ValueError: If one is of the type of one of ours, which Lightning would let replace it without a word; if two
            set the batch size; or if one of Lightning's waits for a value that is not logged in every epoch.
    """
    regimes = recipe.configure_callbacks()
    for callback in users:
        if type(callback) in map(type, [*regimes, *monitors]):
            raise ValueError(
                f"trainer.callbacks has a {_name(callback)}, and the regime {recipe.regime!r} brings its own; leave "
                "yours out, or change the recipe's hyperparameters"
            )
    setters = [callback for callback in [*regimes, *users] if isinstance(callback, _SET_BATCH_SIZE)]
    if len(setters) > 1:
        raise ValueError(
            f"the regime {recipe.regime!r} and trainer.callbacks have {' and '.join(map(_name, setters))}, which all "
            "set the batch size; keep one of them"
        )
    if all(type(callback).__module__.startswith("lightning.pytorch.callbacks") for callback in users):
        logged = _logged(recipe, monitors)  # others may log more
        for callback in users:
            wanted = getattr(callback, "monitor", None)
            if isinstance(wanted, str) and wanted not in logged and getattr(callback, "strict", True):
                raise ValueError(
                    f"trainer.callbacks has a {_name(callback)} on {wanted!r}, which is not logged in every epoch; "
                    f"these are: {', '.join(logged)}"
                )


_SET_BATCH_SIZE = (AdaptiveBatchSize, BatchSizeScheduler, PiggybackWarmStart)


def _logged(recipe: Recipe, monitors: Sequence[Callback]) -> list[str]:
    """Keys with a value in every epoch, the first included."""
    splits = ["train"] + ["validation"] * bool(recipe.validation_size)
    logged = [f"{split}/{value}" for split in splits for value in ("loss", "accuracy")]
    for monitor in monitors:
        if getattr(monitor, "every_n_epochs", None) == 1:
            keys: Sequence[str] = getattr(monitor, "keys", ())
            logged += [key for key in keys if "/log_" not in key and "_final" not in key]  # of several epochs
    if any(isinstance(callback, LearningRateScaling) for callback in recipe.configure_callbacks()):
        logged += ["lr/effective", "lr/scale", "batch/size", "batch/effective"]
    return logged


def in_one_line(error: Exception) -> str:
    """Its kind and the beginning of what it says."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _name(callback: Callback) -> str:
    return type(callback).__name__


def _step(recipe: Recipe, inputs: Tensor, targets: Tensor, classes: int) -> None:
    shape = tuple(inputs.shape)
    if not any(weight.requires_grad for weight in recipe.parameters()):
        raise ValueError("its network has no weights to train")
    try:
        scores = recipe.train()(inputs)
    except Exception as error:
        raise ValueError(f"its network does not take inputs of shape {shape}: {in_one_line(error)}") from error
    if not isinstance(scores, Tensor):
        raise ValueError(f"its network must give class scores, a tensor, got a {type(scores).__name__}")
    wanted = (len(inputs), classes, *targets.shape[1:])
    if tuple(scores.shape) != wanted:
        raise ValueError(
            f"its network must give scores of shape {wanted}, one for each of {classes} classes, for "
            f"inputs of shape {shape}, got {tuple(scores.shape)}; does it have --classes {classes}?"
        )
    if not scores.is_floating_point() or not scores.requires_grad:
        raise ValueError(f"its scores must depend on weights that are trained, got {scores.dtype} without a gradient")
    try:
        cross_entropy(scores, targets).backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise ValueError(f"its backward pass fails: {in_one_line(error)}") from error
