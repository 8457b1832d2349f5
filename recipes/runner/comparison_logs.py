"""What TensorBoard shows of a comparison: means over trials, the table, its terms, and what to look at first."""

from __future__ import annotations

import re
import shutil
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from lightning_gap.logging import Column, layout_of
from lightning_gap.logging.tables import Row, cells

from ..doctor.curves import Curve, read_curves
from .plan import Plan, Run

COMPARISON, MEAN = "comparison", "mean"  # runs beside those of the trials
_OVER_TRIALS = ("validation/accuracy", "train/accuracy", r"sharpness/\w*eps", "weights/distance_from_init")
_WIDEST = 110  # characters of a table that TensorBoard shows on one screen
_MARGINS = "Mean over trials, and one standard deviation either way"

_ONE = "Nothing to compare with: `lightning-gap compare` trains several regimes from the same weights."
_LOOK = """{sentence}

- **Custom Scalars** has the charts that belong together: {first}of each run accuracy, sharpness, learning rate and
  batch size. Set Smoothing to 0: the curves have few points, and smoothing bends their ends.
- **HParams** has a row for each run: regime, batch size and learning rate beside the final values.
- **Images** has loss and accuracy between the first two solutions, and sharpness against loss of each run.
- On the x-axis is the epoch; for `lr/`, `batch/` and `piggyback/` the optimizer step.
- Colours are TensorBoard's, which has seven. To have one for each regime: Time Series, the palette above the runs,
  Regex, `^([^/]+)/`.
"""


def log_comparison(
    plan: Plan, shown: Sequence[Column], table: Sequence[Row], *, sentence: str, terms: str, figure: Any = None
) -> None:
    """Write what there is to see of all runs together; what an earlier command wrote of it is replaced.

    Args:
        plan: Of the comparison.
        shown: Columns of its table.
        table: Its rows, one for each regime.
        sentence: What to look at, if there is something to compare.
        terms: Under which the numbers were found.
        figure: Of two solutions, where there are two.
    """
    logs = plan.output / "tensorboard"
    if not logs.exists():  # trainer.logger=False
        return
    regimes: dict[str, list[dict[str, Curve]]] = {name: [] for name in plan.settings.regimes}
    for run in finished(plan.runs()):
        regimes[run.regime].append(read_curves(run.logs))
    several = {name: curves for name, curves in regimes.items() if len(curves) > 1}
    tags = {name: write_means(logs / name / MEAN, curves) for name, curves in several.items()}
    shared = sorted({tag for found in tags.values() for tag in found}, key=lambda tag: (_place(tag), tag))
    # TensorBoard shows charts of margins from the last to the first.
    charts = {tag: ["Margin", [f"trials/{tag}{end}" for end in ("", "_low", "_high")]] for tag in reversed(shared)}
    keys = {key for curves in regimes.values() for each in curves for key in each}
    shutil.rmtree(logs / COMPARISON, ignore_errors=True)
    with SummaryWriter(str(logs / COMPARISON)) as writer:
        # First of all layouts by name: with each chart of every run, and what they share on top.
        writer.add_custom_scalars({**({_MARGINS: charts} if charts else {}), **layout_of(keys)})
        first = "on top the means over the trials, then " if charts else ""
        writer.add_text("comparison/look_at_first", _LOOK.format(sentence=sentence or _ONE, first=first))
        writer.add_text("comparison/table", table_on_its_side(shown, table))
        writer.add_text("comparison/terms", terms)
        if figure is not None:
            writer.add_figure("comparison/parametric", figure)


def finished(runs: Iterable[Run]) -> list[Run]:
    """Those that have a result, and logs.

    Args:
        runs: Of a plan.
    """
    return [run for run in runs if run.result.exists() and run.logs.exists()]


def write_means(folder: Path, trials: Sequence[Mapping[str, Curve]]) -> list[str]:
    """Write mean, mean - s and mean + s of each curve that all trials have, s the sample standard deviation.

    Args:
        folder: Of the run to write; one that is there is replaced.
        trials: The curves of each.

    Returns:
        Of which curves.
    """
    shutil.rmtree(folder, ignore_errors=True)
    tags = [tag for tag in trials[0] if _place(tag) >= 0 and all(tag in curves for curves in trials)]
    with SummaryWriter(str(folder)) as writer:
        for tag in tags:
            points = [dict(curves[tag].points) for curves in trials]
            for x in sorted(set.intersection(*map(set, points))):
                values = [found[x] for found in points]
                mean, deviation = statistics.fmean(values), statistics.stdev(values)
                for end, value in (("", mean), ("_low", mean - deviation), ("_high", mean + deviation)):
                    writer.add_scalar(f"trials/{tag}{end}", value, int(x))
    return tags


def table_on_its_side(shown: Sequence[Column], table: Sequence[Row]) -> str:
    """A table in Markdown with a column for each regime, in parts that are no wider than the screen.

    Args:
        shown: Its columns, of which the first names the regime.
        table: Its rows.
    """
    titles, parts = [column.title for column in shown], []
    for part in parts_that_fit(shown, table, _WIDEST):
        lines = [["", *(regime[0] for regime in part)], ["---"] * (1 + len(part))]
        lines += [[title, *(regime[k] for regime in part)] for k, title in enumerate(titles) if k]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts)


def parts_that_fit(shown: Sequence[Column], table: Sequence[Row], width: int) -> Iterator[list[list[str]]]:
    """The cells of each row of a table, which becomes a column, as many together as have room beside the titles.

    Args:
        shown: The table's columns, whose titles become the first.
        table: Its rows.
        width: Characters that there is room for; a row that is wider is alone.
    """
    room = width - max(len(column.title) for column in shown)
    part, taken = list[list[str]](), 0
    for row in table:
        texts = cells(shown, row)
        needed = max(map(len, texts)) + 1  # and a space
        if part and taken + needed > room:
            yield part
            part, taken = [], 0
        part.append(texts)
        taken += needed
    if part:
        yield part


def _place(tag: str) -> int:
    """Of a curve among those whose mean is shown; -1 of any other."""
    return next((place for place, pattern in enumerate(_OVER_TRIALS) if re.match(pattern, tag)), -1)
