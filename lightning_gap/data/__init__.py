"""Batches as a pure function of seed, epoch and position, and loaders over them."""

from .batch_plan import BatchPlan as BatchPlan
from .in_memory import InMemoryLoader as InMemoryLoader
from .resumable import ResumableLoader as ResumableLoader
