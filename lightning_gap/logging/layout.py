"""What TensorBoard shows first: one layout of charts for the Custom Scalars tab, and what each curve means."""

from __future__ import annotations

import mmap
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .meanings import table_of_meanings

Layout = dict[str, dict[str, list[Any]]]  # as SummaryWriter.add_custom_scalars takes it

_STORED_AS = b"custom_scalars__config__"  # the tag under which TensorBoard looks for a layout
_EVENTS = "*tfevents*"


class _Chart(NamedTuple):
    """A chart, and the curves in it.

    Attributes:
        category: Heading over several charts.
        title: Of the chart; of one for each curve a prefix.
        tags: Regular expression, which TensorBoard matches with the beginning of a tag.
        by: Whose keys decide whether there is such a chart: ``"run"`` for the user's own, always; ``"callback"`` where
            a callback logs a matching key; ``"curve"`` for a chart for each of those keys.
    """

    category: str
    title: str
    tags: str
    by: str = "callback"


_OURS = "gap/|sharpness/|average_sharpness/|curvature/|final/|trials/"  # losses on other samples than the run's own
_CHARTS = (
    _Chart("Accuracy and loss", "accuracy: training and validation", rf"(?i)(?!{_OURS}).*acc(uracy)?(_epoch)?$", "run"),
    _Chart("Accuracy and loss", "loss: training and validation", rf"(?i)(?!{_OURS}).*loss(_epoch)?$", "run"),
    _Chart("Accuracy and loss", "generalization gap: accuracy", r"gap/accuracy"),
    _Chart("Accuracy and loss", "generalization gap: loss", r"gap/loss"),
    _Chart("Sharpness", "sharpness, %: low is flat", r"sharpness/\w*eps[\w.-]*$(?<!_final)", "curve"),
    _Chart("Sharpness", "loss on the samples of sharpness", r"sharpness/loss(?!_final)"),
    _Chart("Sharpness", "largest eigenvalue, and 2 / learning rate", r"curvature/(lambda_max(?!_res)|two_over_lr)"),
    _Chart("Sharpness", "critical sharpness", r"curvature/critical_sharpness"),
    _Chart("Learning rate, batch size and noise", "learning rate", r"lr/effective|lr-"),
    _Chart(
        "Learning rate, batch size and noise",
        "batch size and noise scale, samples",
        r"batch/size|noise/(simple_scale|critical_batch)(?!_now)",
    ),
    _Chart("Weights", "distance from the initial weights", r"weights/distance_from_init"),
)


def layout_of(keys: Iterable[str]) -> Layout:
    """The charts for what is logged, as `SummaryWriter.add_custom_scalars` takes them.

    Charts of the same curves are the same in every run: TensorBoard then shows the layouts of several runs as one, with
    the runs beside each other in each chart.

    Args:
        keys: What callbacks log. Charts of training and validation are there in any case; their curves are found by
            name, for instance ``train_acc``, ``val/accuracy`` or ``loss_epoch``.

    Example:
        >>> list(layout_of(["lr/effective", "batch/size"])["Learning rate, batch size and noise"])
        ['learning rate', 'batch size and noise scale, samples']
    """
    keys, layout = sorted(set(keys)), Layout()
    for category, title, tags, by in _CHARTS:
        matching = [key for key in keys if re.match(tags, key)]
        charts = {title: tags} if by == "run" or (by == "callback" and matching) else {}
        if by == "curve":
            charts = {f"{title} ({key})": f"{re.escape(key)}$" for key in matching}
        for name, pattern in charts.items():
            layout.setdefault(category, {})[name] = ["Multiline", [pattern]]
    return layout


def write_layout(loggers: Iterable[Any], keys: Iterable[str]) -> None:
    """Write the layout, and what the keys mean, to every TensorBoard logger whose run has no layout yet.

    So it is there once, however often the run is resumed; a layout of the user's own stays. Other loggers have no
    place for one. A logger that fails is passed over with a warning: a run is not to end for a picture.

    Args:
        loggers: Lightning loggers, in the process that writes.
        keys: What callbacks log.
    """
    keys = sorted(set(keys))
    for logger in loggers:
        try:
            writer: Any = getattr(logger, "experiment", None)
            if not hasattr(writer, "add_custom_scalars") or _has_layout(logger, writer):
                continue
            writer.add_custom_scalars(layout_of(keys))
            if keys:
                writer.add_text("curves/what_they_mean", table_of_meanings(keys))
            writer.flush()
        except Exception as error:
            warnings.warn(f"{type(logger).__name__} did not take the layout of charts: {error}", stacklevel=2)


def _has_layout(logger: Any, writer: Any) -> bool:
    """Whether the files of a run hold a layout; of files that are not on this machine it is not known."""
    folder = str(logger.log_dir)
    if "://" in folder:
        return False
    writer.flush()  # what was written in this process
    return any(_holds(file) for file in Path(folder).glob(_EVENTS))


def _holds(file: Path) -> bool:
    if not file.stat().st_size:
        return False
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(_STORED_AS) >= 0
