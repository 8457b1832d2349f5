"""Send a figure to whatever loggers there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def log_figure(loggers: Iterable[Any], name: str, draw: Callable[[], Figure], *, step: int) -> None:
    """Draw a figure and hand it to each logger in its own way; without matplotlib do nothing.

    TensorBoard takes the figure, loggers with a `log_image` (Weights & Biases) an image, MLflow the figure; any other
    logger with a folder of its own, such as CSV, gets a PNG file in it.

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
        _hand_over(logger, name, figure, step)


def _hand_over(logger: Any, name: str, figure: Figure, step: int) -> None:
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_figure"):
        experiment.add_figure(name, figure, global_step=step, close=False)
    elif hasattr(logger, "log_image"):
        logger.log_image(key=name, images=[_image(figure)], step=step)
    elif hasattr(experiment, "log_figure") and hasattr(logger, "run_id"):
        experiment.log_figure(logger.run_id, figure, f"{name}.png")
    elif getattr(logger, "log_dir", None):
        folder = Path(logger.log_dir)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / f"{name.replace('/', '-')}.png", dpi=150)


def _image(figure: Figure) -> Any:
    """The figure as an array (height, width, 4) of bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.buffer_rgba()
