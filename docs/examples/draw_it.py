"""Draw what the monitors of plain_module.py have measured.

python docs/examples/draw_it.py docs/images/plot.png    # a few seconds on a CPU; needs lightning-gap[recipes]
"""

import runpy
import sys
from pathlib import Path

from lightning.pytorch import Trainer
from matplotlib.figure import Figure

from lightning_gap import SharpnessMonitor, WeightDistanceMonitor


def draw(trainer: Trainer) -> Figure:
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    for kind, ax in zip((SharpnessMonitor, WeightDistanceMonitor), figure.subplots(1, 2), strict=True):
        monitor = next(callback for callback in trainer.callbacks if isinstance(callback, kind))
        monitor.plot(ax=ax)
    return figure


if __name__ == "__main__":
    example = runpy.run_path(str(Path(__file__).with_name("plain_module.py")))
    draw(example["main"]()).savefig(sys.argv[1], dpi=100)
