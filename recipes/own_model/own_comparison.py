"""What a comparison of the user's own module found: values, gaps, what is brought back; to print and as a report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_gap import __version__
from lightning_gap.logging import mean_and_std

from ..gap import Gap, recovered, share_recovered
from ..intervals import Interval, mean_interval
from ..reports import write_report
from ..reports.drawing import blank, label, look
from ..reports.parts import Chapter, Chart, Numbers, Part, Remark, Report, Table
from .kept_runs import OwnRun

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class OwnComparison:
    """Runs of every regime, paired by seed.

    Attributes:
        name: Of what was compared.
        metric: As the module logs it.
        higher_is_better: Whether larger values are better.
        runs: By regime and seed.
        terms: What the runs were made with, by name.
    """

    name: str
    metric: str
    higher_is_better: bool
    runs: Mapping[str, Mapping[int, OwnRun]]
    terms: Mapping[str, str]

    @property
    def values(self) -> dict[str, dict[int, float]]:
        """The metric by regime and seed."""
        return {regime: {seed: run.value for seed, run in runs.items()} for regime, runs in self.runs.items()}

    @property
    def gaps(self) -> dict[str, Gap]:
        """How much worse than ``small``, in the metric's unit, by regime: positive where small is better."""
        sign, small = 1 if self.higher_is_better else -1, self.values["small"]
        return {
            regime: Gap({seed: sign * (small[seed] - value) for seed, value in values.items() if seed in small})
            for regime, values in self.values.items()
        }

    def gap(self, regime: str) -> Interval:
        """Mean difference to ``small`` over the seeds, and its 95 % interval by Student's t."""
        return self.gaps[regime].found

    def share_recovered(self, regime: str) -> Interval | None:
        """Percent of the large batch's gap that a regime brings back; None where there is no gap to share."""
        return share_recovered(self.gaps, regime)

    @property
    def sentence(self) -> str:
        """What to look at."""
        large = self.gaps.get("large")
        if large is None:
            return "Without the regime 'large' there is no gap that a remedy could bring back."
        mean, low, high = large.found
        if len(large.points) < 2:
            return f"The large batch is {mean:.4g} worse in one seed, which shows no interval; use seeds=3 or more."
        size = f"{mean:.4g}, 95 % interval {low:.4g} to {high:.4g}, {len(large.points)} seeds"
        if not large.is_there:
            return f"The gap of large may be none ({size}): nothing is shown that a remedy could mend."
        return f"The large batch is worse in {self.metric} ({size})."

    def __str__(self) -> str:
        table = self._table()
        rows = [
            list(table.head),
            *([cell if isinstance(cell, str) else cell.text for cell in row] for row in table.rows),
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(len(table.head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, "", self.sentence])

    def report(self, folder: str | Path) -> list[Path]:
        """Write ``report.html``, ``report.md``, the table and the figure into a folder; gives the files.

        Raises:
            OSError: If the folder cannot be written to.
        """
        figure, describes = self._figure()
        parts: list[Part] = [
            Remark(self.sentence),
            self._table(),
            Chart(
                f"{self.metric} by regime", figure, describes, "Small signs: one seed each. Large: mean and interval."
            ),
        ]
        title = f"{self.name}: {', '.join(self.runs)}"
        chapter = Chapter(self.name, title, parts, self.terms)
        return write_report(Report(title, [chapter], {"report by": f"lightning-gap {__version__}"}), Path(folder))

    def _table(self) -> Table:
        head = [
            "regime",
            self.metric,
            "worse than small by",
            "of large's gap back, %",
            "seeds",
            "batch",
            "epochs",
            "steps",
        ]
        return Table(f"{self.metric} and gap", head, [self._row(regime) for regime in self.runs])

    def _row(self, regime: str) -> list[str | Numbers]:
        runs, gaps = self.runs[regime].values(), self.gaps
        share = share_recovered(gaps, regime)
        small = regime == "small"
        return [
            regime,
            mean_and_std([run.value for run in runs], 4),
            "-" if small else Numbers(gaps[regime].points, digits=4, differences=True),
            recovered(gaps, regime) if share is None else Numbers((), digits=0, interval=share),
            f"{len(runs)}",
            *(
                ", ".join(dict.fromkeys(f"{getattr(run, what)}" for run in runs))
                for what in ("batch_size", "epochs", "steps")
            ),
        ]

    def _figure(self) -> tuple[Figure, str]:
        figure, (axes,) = blank(0.9 + 0.42 * len(self.runs))
        means = {regime: mean_interval(list(values.values())) for regime, values in self.values.items()}
        for line, (regime, values) in enumerate(self.values.items()):
            like, found = look(regime), means[regime]
            axes.plot(list(values.values()), [line + 0.24] * len(values), like.marker, color=like.color, markersize=4)
            axes.plot([found.mean], [line], like.marker, color=like.color, markersize=8)
            axes.plot([found.low, found.high], [line, line], color=like.color)
        axes.set_yticks(range(len(self.runs)), list(self.runs))
        axes.set_ylim(len(self.runs) - 0.5, -0.5)  # the first at the top
        label(axes, self.metric, "")
        told = ", ".join(f"{regime} {found.mean:.4g}" for regime, found in means.items())
        return figure, f"{self.metric} of each seed in a line for each regime, with mean and interval: {told}."
