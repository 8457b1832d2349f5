"""Batches as a pure function of seed, epoch and position, and loaders over them."""

from .augmentation import Augmentation as Augmentation
from .augmentation import Augmentations as Augmentations
from .augmentation import RandomAffine as RandomAffine
from .augmentation import RandomCrop as RandomCrop
from .augmentation import RandomFlip as RandomFlip
from .augmentation import RandomResizedCrop as RandomResizedCrop
from .batch_plan import BatchPlan as BatchPlan
from .in_memory import InMemoryLoader as InMemoryLoader
from .resumable import ResumableLoader as ResumableLoader
from .stream import ResumableStream as ResumableStream
