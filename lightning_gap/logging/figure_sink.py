"""Send a figure to whatever loggers there are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def log_figure(loggers: Iterable[Any], name: str, draw: Callable[[], Figure], *, step: int) -> None:
    """Draw a figure and hand it to each logger in its own way; without matplotlib do nothing.

    TensorBoard and MLflow take the figure; loggers with a `log_image`, such as Weights & Biases, take it as one; any
    other logger with a folder of its own, such as CSV, gets a PNG file in it. A logger that fails is passed over with a
    warning: a run is not to end for a picture.

    Args:
        loggers: Lightning loggers; where there is none, nothing is drawn.
        name: Tag, such as "sharpness/against_loss"; the PNG's name has "-" for "/".
        draw: Makes the figure.
        step: Optimizer step.
    """
    loggers = list(loggers)
    if not loggers:
        return
    try:
        figure = draw()
    except ImportError:  # an optional dependency: everything that it shows is logged as scalars too
        return
    for logger in loggers:
        try:
            _hand_over(logger, name, figure, step)
        except Exception as error:  # noqa: PERF203
            warnings.warn(f"{type(logger).__name__} did not take the figure {name}: {error}", stacklevel=2)


def _hand_over(logger: Any, name: str, figure: Figure, step: int) -> None:
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_figure"):
        experiment.add_figure(name, figure, global_step=step, close=False)
    elif hasattr(logger, "log_image"):
        logger.log_image(key=name, images=[figure], step=step)
    elif hasattr(experiment, "log_figure") and hasattr(logger, "run_id"):
        experiment.log_figure(logger.run_id, figure, f"{name}.png")
    elif getattr(logger, "log_dir", None):
        folder = Path(logger.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name.replace('/', '-')}.png", dpi=150)
