"""What is printed beside the results: a line for each warning, and nothing that Lightning advises on its own."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LIGHTNINGS_TALK = (
    "The '.*_dataloader' does not have many workers",
    "The number of training batches .* is smaller than the logging interval",
    "Total length of `list` across ranks is zero",
    "Checkpoint directory .* exists and is not empty",
    "The dirpath has changed from .*",  # the folder was moved; the scores that are not reloaded are not used
    "`isinstance.treespec, LeafSpec.` is deprecated",
    "GPU available but not used",
    "It is recommended to use `self.log.*sync_dist=True",  # the means are of all processes already
)


@contextmanager
def spoken_plainly() -> Iterator[None]:
    """A line for each warning, and Lightning's talk of workers, loggers and devices left out."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            for message in _LIGHTNINGS_TALK:
                warnings.filterwarnings("ignore", message=message)
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
            yield
    finally:
        logger.setLevel(level)
