"""Train one regime of one trial, and measure what it found."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_gap import (
    GeneralizationGapMonitor,
    InMemoryLoader,
    SharpnessMonitor,
    WeightDistanceMonitor,
    weight_distance,
)
from lightning_gap.functional import (
    BatchNormMode,
    DatasetLoss,
    UndefinedSharpnessError,
    epsilon_name,
    sharpness_profile,
)
from lightning_gap.recipes.classifier import Classifier
from lightning_gap.recipes.datasets import InMemoryData, Samples
from lightning_gap.recipes.progress import EpochProgress
from lightning_gap.recipes.regimes import Regime

# Sharpness in the table: enough samples that a well-fitted solution's value has settled, in chunks as large as the
# paper's evaluation batches, because with batch statistics the chunk is part of the definition.
SHARPNESS_SAMPLES = 10_000
EVALUATION_CHUNK = 5_000


@dataclass(frozen=True)
class Outcome:
    """What one run found; every number is of the final weights.

    Attributes:
        batch_size: Samples per optimizer step in the first epoch.
        last_batch_size: The same in the last epoch.
        epochs: Epochs trained.
        steps: Optimizer steps taken.
        train_loss: Mean cross-entropy over all training samples, evaluation mode.
        train_accuracy: Fraction, over all training samples, evaluation mode.
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
    def load(cls, path: Path) -> Outcome:
        """Read what `save` wrote."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def save(self, path: Path) -> None:
        """Write as JSON, all or nothing: a file that exists is a finished run."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")
        partial.replace(path)


def train(
    network: nn.Module,
    data: InMemoryData,
    regime: Regime,
    *,
    learning_rate: float,
    epsilon: tuple[float, ...],
    measure_every_n_epochs: int,
    folder: Path,
    logger: TensorBoardLogger,
    progress: EpochProgress,
    accelerator: str = "auto",
) -> Outcome:
    """Train ``network`` from the weights it holds and measure the result.

    Goes on from the newest checkpoint in ``folder``, if there is one. When the run is done the folder holds
    ``weights.pt``, the final `state_dict`, and ``outcome.json``.
    """
    initial = [weight.detach().clone() for weight in network.parameters()]
    monitors: list[Callback] = [
        SharpnessMonitor(epsilon, every_n_epochs=measure_every_n_epochs, max_time_share=None),
        WeightDistanceMonitor(every_n_epochs=measure_every_n_epochs),
    ]
    if len(data.validation[1]):
        monitors.append(GeneralizationGapMonitor(every_n_epochs=measure_every_n_epochs, max_time_share=None))
    module = Classifier(network, learning_rate=learning_rate, callbacks=[*regime.callbacks, *monitors])
    checkpoint = ModelCheckpoint(folder, filename="{epoch}", every_n_epochs=max(1, regime.epochs // 10))
    trainer = Trainer(
        max_epochs=regime.epochs,
        accelerator=accelerator,
        devices=1,
        logger=logger,
        callbacks=[progress, checkpoint],
        log_every_n_steps=1,  # a large batch takes few steps; nothing but rate and batch size is logged by step
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data, ckpt_path=_newest_checkpoint(folder))
    seconds = progress.seconds
    network.cpu().eval()
    outcome = _measure(network, initial, data, epsilon, regime=regime, trainer=trainer, seconds=seconds)
    torch.save(network.state_dict(), folder / "weights.pt")
    outcome.save(folder / "outcome.json")
    for used in folder.glob("*.ckpt"):
        used.unlink()
    return outcome


def evaluate(network: nn.Module, samples: Samples) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over ``samples``, in chunks, in the mode the network is in."""
    loss, correct = 0.0, 0
    with torch.no_grad():
        for inputs, targets in InMemoryLoader(samples, batch_size=EVALUATION_CHUNK):
            scores = network(inputs)
            loss += float(cross_entropy(scores, targets, reduction="sum"))
            correct += int((scores.argmax(dim=1) == targets).sum())
    return loss / len(samples[1]), correct / len(samples[1])


def subset(samples: Samples, size: int) -> Samples:
    """At most ``size`` of the samples, drawn with seed 0."""
    inputs, targets = samples
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))[:size].sort().values
    return inputs[order], targets[order]


def _measure(
    network: nn.Module,
    initial: list[Tensor],
    data: InMemoryData,
    epsilon: tuple[float, ...],
    *,
    regime: Regime,
    trainer: Trainer,
    seconds: float,
) -> Outcome:
    train_loss, train_accuracy = evaluate(network, data.train)
    test_loss, test_accuracy = evaluate(network, data.test)
    measured = subset(data.train, SHARPNESS_SAMPLES)
    return Outcome(
        batch_size=regime.batch_size,
        last_batch_size=regime.last_batch_size,
        epochs=trainer.current_epoch,
        steps=trainer.global_step,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        test_loss=test_loss,
        test_accuracy=test_accuracy,
        sharpness=_sharpness(network, measured, epsilon, "running"),
        sharpness_batch=_sharpness(network, measured, epsilon, "batch"),
        distance=weight_distance(network.parameters(), initial),
        seconds=seconds,
    )


def _sharpness(
    network: nn.Module, samples: Samples, epsilon: tuple[float, ...], batch_norm: BatchNormMode
) -> dict[str, float]:
    def mean_loss(network: nn.Module, batch: Samples) -> Tensor:
        return cross_entropy(network(batch[0]), batch[1])

    chunks = list(InMemoryLoader(samples, batch_size=EVALUATION_CHUNK))
    loss = DatasetLoss(network, mean_loss, chunks, batch_norm=batch_norm)
    try:
        results = sharpness_profile(loss, network.parameters(), epsilon)
    except UndefinedSharpnessError:  # the run diverged; the other regimes' rows are still of use
        return {epsilon_name(e): math.nan for e in epsilon}
    return {epsilon_name(r.epsilon): r.percent for r in results}


def _newest_checkpoint(folder: Path) -> Path | None:
    saved = sorted(folder.glob("epoch=*.ckpt"), key=lambda path: int(path.stem.removeprefix("epoch=")))
    return saved[-1] if saved else None
