"""Train one regime of one trial, and measure what it found."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, get_type_hints

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.distributed import barrier, is_available, is_initialized, new_group
from torch.nn.functional import cross_entropy

from lightning_gap import GeneralizationGapMonitor, SharpnessMonitor, WeightDistanceMonitor, weight_distance
from lightning_gap.functional import (
    BatchNormMode,
    DatasetLoss,
    UndefinedSharpnessError,
    batch_statistics,
    epsilon_name,
    recomputed_statistics,
    sharpness_profile,
)
from lightning_gap.recipes.checkpoints import (
    check_fits,
    newest_checkpoint,
    remove_checkpoints,
    savers,
    write_whole_files,
)
from lightning_gap.recipes.classifier import Classifier
from lightning_gap.recipes.datasets import Batch, ClassificationData
from lightning_gap.recipes.first_process import is_first_process
from lightning_gap.recipes.networks import zero_last_gammas
from lightning_gap.recipes.progress import EpochProgress
from lightning_gap.recipes.regimes import Regime
from lightning_gap.recipes.trainer import make_trainer

OUTCOME, WEIGHTS = "outcome.json", "weights.pt"
UNREADABLE = (OSError, EOFError, KeyError, RuntimeError, UnpicklingError, ValueError)  # what a damaged file ends in


@dataclass(frozen=True)
class Outcome:
    """What one run found; every number is of the final weights.

    Attributes:
        batch_size: Samples per optimizer step in the first epoch.
        last_batch_size: The same in the last epoch.
        epochs: Epochs trained.
        steps: Optimizer steps taken.
        train_loss: Mean cross-entropy over all training samples as they are, evaluation mode.
        train_accuracy: Fraction, over all training samples as they are, evaluation mode.
        test_loss: The same over the test samples.
        test_accuracy: The same over the test samples.
        sharpness: Percent by epsilon, BatchNorm with running statistics.
        sharpness_batch: Percent by epsilon, BatchNorm with the statistics of each evaluation chunk.
        distance: Euclidean distance of the trained weights from the initial ones.
        seconds: Wall time of `fit`, monitors included, over interruptions too.
    """

    batch_size: int
    last_batch_size: int
    epochs: int
    steps: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    sharpness: dict[str, float]
    sharpness_batch: dict[str, float]
    distance: float
    seconds: float

    @classmethod
    def load(cls, path: Path, epsilon: Iterable[float]) -> Outcome:
        """Read what `save` wrote.

        Args:
            path: The file.
            epsilon: What the run was to measure sharpness with.

        Raises:
            ValueError: If the file holds anything else: another version wrote it, or it was altered by hand.
        """
        try:
            outcome = cls(**json.loads(path.read_text(encoding="utf-8")))
            outcome._check({epsilon_name(e) for e in epsilon})
            return outcome
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{str(path)!r} cannot be read as the outcome of a run by this version ({error}); delete it to "
                "train that run again, or choose a new --output"
            ) from error

    def _check(self, epsilons: set[str]) -> None:
        for name, kind in get_type_hints(Outcome).items():
            value = getattr(self, name)
            if kind in (int, float):
                wanted, found = (int,) if kind is int else (int, float), [value]
            else:
                if not isinstance(value, dict) or value.keys() != epsilons:
                    raise ValueError(f"{name} must be percent for epsilon {', '.join(sorted(epsilons))}, got {value!r}")
                wanted, found = (int, float), list(value.values())
            if not all(isinstance(number, wanted) and not isinstance(number, bool) for number in found):
                raise ValueError(f"{name} must be {'a whole number' if kind is int else 'numbers'}, got {value!r}")

    def save(self, path: Path) -> None:
        """Write as JSON, all or nothing: a file that exists is a finished run."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        partial.replace(path)


def train(
    network: nn.Module,
    data: ClassificationData[Any],
    regime: Regime,
    *,
    epsilon: tuple[float, ...],
    measure_every_n_epochs: int,
    folder: Path,
    logger: TensorBoardLogger,
    progress: EpochProgress,
    trainer: Mapping[str, Any] | None = None,
) -> Outcome | None:
    """Train ``network`` from the weights it holds and measure the result.

    Goes on from the newest whole checkpoint in ``folder``, if there is one. When the run is done the folder holds
    ``weights.pt``, the final `state_dict`, and ``outcome.json``.

    Returns:
        What was found, on the first process; nothing on the others.
    """
    if regime.numbers.zero_last_gammas:
        zero_last_gammas(network)
    initial = [weight.detach().clone() for weight in network.parameters()]
    module = Classifier(network, regime.numbers, [*regime.callbacks, *monitors(data, epsilon, measure_every_n_epochs)])
    users = trainer or {}
    newest = newest_checkpoint(folder, warn=is_first_process())
    check_fits(newest, module)
    saving = savers(folder, regime.epochs) if users.get("enable_checkpointing", True) else []
    fitting = make_trainer(
        users, {"max_epochs": regime.epochs, **regime.trainer}, callbacks=[progress, *saving], logger=logger
    )
    write_whole_files(fitting)
    fitting.fit(module, data, ckpt_path=newest)
    with _others_waiting():
        if not fitting.is_global_zero:
            return None
        _be_ready_to_measure(network, fitting.strategy.root_device)
        outcome = _measure(network, initial, data, epsilon, regime=regime, trainer=fitting, progress=progress)
        torch.save(network.cpu().state_dict(), folder / WEIGHTS)
        outcome.save(folder / OUTCOME)
        remove_checkpoints(folder)
        return outcome


@contextmanager
def _others_waiting() -> Iterator[None]:
    """Let the other processes wait for the first to measure, for longer than the processes of a fit wait."""
    group: Any = new_group(backend="gloo", timeout=timedelta(days=2)) if is_available() and is_initialized() else None
    yield
    if group is not None:
        barrier(group=group)


def evaluate(network: nn.Module, batches: Iterable[Batch]) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over ``batches``, in the mode the network is in, where its weights are."""
    loss, correct, samples = 0.0, 0, 0
    with torch.no_grad():
        for inputs, targets in _as_the_weights_are(network, batches):
            scores = network(inputs)
            loss += float(cross_entropy(scores, targets, reduction="sum"))
            correct += int((scores.argmax(dim=1) == targets).sum())
            samples += len(targets)
    return loss / samples, correct / samples


def evaluated_with(
    mode: BatchNormMode, network: nn.Module, training: Callable[[], Iterable[Batch]]
) -> AbstractContextManager[None]:
    """Let BatchNorm normalise by running statistics, by those of each batch, or by those of all training samples."""
    if mode == "running":
        return nullcontext()
    if mode == "batch":
        return batch_statistics(network)
    return recomputed_statistics(network, lambda: evaluate(network, training()))


def monitors(data: ClassificationData[Any], epsilon: tuple[float, ...], every: int) -> list[Callback]:
    """What a recipe measures while it trains."""
    found: list[Callback] = [
        SharpnessMonitor(epsilon, every_n_epochs=every, max_time_share=None),
        WeightDistanceMonitor(every_n_epochs=every),
    ]
    if len(data.validation):
        found.append(GeneralizationGapMonitor(every_n_epochs=every, max_time_share=None))
    return found


def _be_ready_to_measure(network: nn.Module, device: torch.device) -> None:
    """On the device, in evaluation mode, and no less precise than float32."""
    exact = all(weight.dtype == torch.float64 for weight in network.parameters())
    network.to(device, torch.float64 if exact else torch.float32).eval()


def _as_the_weights_are(network: nn.Module, batches: Iterable[Batch]) -> Iterator[Batch]:
    weight = next(network.parameters())
    for inputs, targets in batches:
        yield inputs.to(weight.device, weight.dtype), targets.to(weight.device)


def _measure(
    network: nn.Module,
    initial: list[Tensor],
    data: ClassificationData[Any],
    epsilon: tuple[float, ...],
    *,
    regime: Regime,
    trainer: Trainer,
    progress: EpochProgress,
) -> Outcome:
    seconds = progress.seconds
    numbers = regime.numbers
    chunk = numbers.evaluation_chunk
    with evaluated_with(numbers.batch_norm, network, lambda: data.evaluation("train", chunk)):
        train_loss, train_accuracy = evaluate(network, data.evaluation("train", chunk))
        test_loss, test_accuracy = evaluate(network, data.evaluation("test", chunk))
    measured = list(_as_the_weights_are(network, data.evaluation("train", chunk, numbers.sharpness_samples)))
    return Outcome(
        batch_size=regime.batch_size,
        last_batch_size=regime.batch_size_in(progress.last_epoch),  # where the training ended, as planned or earlier
        epochs=trainer.current_epoch,
        steps=trainer.global_step,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        test_loss=test_loss,
        test_accuracy=test_accuracy,
        sharpness=_sharpness(network, measured, epsilon, "running"),
        sharpness_batch=_sharpness(network, measured, epsilon, "batch"),
        distance=weight_distance(network.parameters(), [start.to(trainer.strategy.root_device) for start in initial]),
        seconds=seconds,
    )


def _sharpness(
    network: nn.Module, chunks: list[Batch], epsilon: tuple[float, ...], batch_norm: BatchNormMode
) -> dict[str, float]:
    def mean_loss(network: nn.Module, batch: Batch) -> Tensor:
        return cross_entropy(network(batch[0]), batch[1])

    loss = DatasetLoss(network, mean_loss, chunks, batch_norm=batch_norm)
    try:
        results = sharpness_profile(loss, network.parameters(), epsilon)
    except UndefinedSharpnessError:  # the run diverged; the other regimes' rows are still of use
        return {epsilon_name(e): math.nan for e in epsilon}
    return {epsilon_name(r.epsilon): r.percent for r in results}
