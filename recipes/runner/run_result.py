"""What one run found, in a file of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from lightning_gap.functional import epsilon_name

from .records import read_record
from .whole_files import write_record

RESULT, WEIGHTS = "outcome.json", "weights.pt"


@dataclass(frozen=True)
class RunResult:
    """What was seen of a run, and what its final weights measure.

    Attributes:
        batch_size: Samples per optimizer step in the first epoch, the largest seen.
        last_batch_size: The same in the last epoch.
        epochs: Epochs trained.
        steps: Optimizer steps taken.
        learning_rate: Of the last optimizer step, scaled.
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
    learning_rate: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    sharpness: dict[str, float]
    sharpness_batch: dict[str, float]
    distance: float
    seconds: float

    @classmethod
    def load(cls, path: Path, epsilon: Iterable[float]) -> RunResult:
        """Read what `save` wrote.

        Args:
            path: The file.
            epsilon: What the run was to measure sharpness with.

        Raises:
            ValueError: If the file holds anything else: another version wrote it, or it was altered by hand.
        """
        names = {epsilon_name(e) for e in epsilon}
        try:
            found = cls(**read_record(path))
            for field in fields(cls):
                value = getattr(found, field.name)
                numbers = [value]
                if field.type == "dict[str, float]":
                    numbers = list(value.values()) if isinstance(value, dict) and value.keys() == names else [None]
                kinds = (int,) if field.type == "int" else (int, float)  # and not bool, which is an int
                if any(type(number) not in kinds for number in numbers):
                    raise ValueError(f"{field.name} is {value!r}")
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{str(path)!r} cannot be read as the result of a run by this version, at epsilon "
                f"{', '.join(sorted(names))} ({error}); delete it to train that run again, or choose a new --output"
            ) from error
        return found

    def save(self, path: Path) -> None:
        """Write as JSON, all or nothing: a file that exists is a finished run."""
        write_record(path, asdict(self))
