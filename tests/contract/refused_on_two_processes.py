"""Fits on two processes that must not start; run by test_two_processes.py as a user runs a script."""

import os
import sys
from pathlib import Path

from lightning_gap import GhostBatchNormSwap

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny


def main() -> None:
    rank = int(os.environ.get("LOCAL_RANK", 0))
    size = {"different": 4 + 4 * rank, "large": 9}[sys.argv[1]]
    trainer = tiny.trainer(GhostBatchNormSwap(size), strategy="ddp", devices=2)
    trainer.fit(tiny.TinyClassifier(), tiny.loader(batch_size=8))


if __name__ == "__main__":
    main()
