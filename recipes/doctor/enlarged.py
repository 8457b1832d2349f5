"""What most causes ask first: how many times as large the batch is, and what became of the learning rate."""

from __future__ import annotations

from typing import NamedTuple

from .facts import Facts, Reading
from .verdict import Absent, Unknown

KEEP_A_CHECKPOINT = "keep a checkpoint in the run's folder: Lightning's ModelCheckpoint"


class Enlarged(NamedTuple):
    """A batch, and the smaller one that the learning rate was tuned for."""

    batch: Reading
    base: Reading

    @property
    def ratio(self) -> float:
        """How many times as large."""
        return self.batch.value / self.base.value


def enlarged(facts: Facts) -> Enlarged | Absent | Unknown:
    """The two batches; else why no cause that needs a larger one can apply, or what is to be added."""
    if facts.batch_size is None:
        return Unknown("log the batch size: add LearningRateScaling(base_batch_size=...), which logs batch/size")
    if facts.base_batch_size is None:
        return Unknown("name the batch size that the learning rate was tuned for: --base_batch_size")
    if facts.batch_size.value <= facts.base_batch_size.value:
        return Absent(f"batch {facts.batch_size} is not above {facts.base_batch_size}")
    return Enlarged(facts.batch_size, facts.base_batch_size)


def scale_of(facts: Facts, small: Facts | None) -> Reading | None:
    """The factor of the learning rate: as it was logged, else the ratio of the peaks of both runs."""
    if facts.scale is not None:
        return facts.scale
    theirs = small.peak_rate if small else None
    if facts.peak_rate is None or theirs is None or not theirs.value:
        return None
    source = f"{facts.peak_rate.source}, over that of the small-batch run"
    return Reading(facts.peak_rate.value / theirs.value, source)


def sources(*readings: Reading | None) -> str:
    """Where several numbers were read."""
    return "; ".join(dict.fromkeys(reading.source for reading in readings if reading))
