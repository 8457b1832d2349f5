"""When to grow the batch: six schedules of a small GPT on equally many bytes.

Ours: the papers that the schedules come from contradict each other, and nobody has compared them on equal terms. Every
schedule reads the same text once; the question is how many optimizer steps it saves and what that costs in loss.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from ..intervals import mean_interval
from ..reports.drawing import SERIES, blank, label
from ..reports.parts import Chart, Numbers, Part, Remark, Table
from ..runner.run_store import RunSpec
from .experiment import Experiment, Findings
from .scales import Choice

SCHEDULES = {
    "small": "constant",
    "smith": "grown for all decay",
    "seesaw": "grown for half the decay",
    "early-ramp": "grown in the first fifth",
    "late-switch": "grown for the last quarter",
    "norm-test": "grown by the norm test",
}
_ALSO = ("large",)  # what growing too much costs


def run(choice: Choice, schedule: str, seed: int) -> RunSpec:
    """Of one schedule."""
    return choice.run("gpt", schedule, seed)


def needs(choice: Choice) -> Iterator[RunSpec]:
    for seed in choice.seeds_or(8):
        for schedule in (*SCHEDULES, *_ALSO):
            yield run(choice, schedule, seed)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    seeds = choice.seeds_or(8)
    results = {schedule: [found[run(choice, schedule, seed)] for seed in seeds] for schedule in (*SCHEDULES, *_ALSO)}
    constant = [result.test_loss for result in results["small"]]
    error = statistics.stdev(constant) / math.sqrt(len(seeds)) if len(seeds) > 1 else math.nan
    most = statistics.fmean(result.steps for result in results["small"])
    rows, saving = list[Sequence[str | Numbers]](), []
    for schedule, own in results.items():
        worse = tuple(result.test_loss - base for result, base in zip(own, constant, strict=True))
        saved = tuple(100 * (1 - result.steps / most) for result in own)
        if statistics.fmean(saved) >= 30 and statistics.fmean(worse) <= error:
            saving.append(schedule)
        rows.append(
            (
                f"{schedule}: {SCHEDULES[schedule]}" if schedule in SCHEDULES else schedule,
                Numbers(tuple(float(result.steps) for result in own), 0),
                Numbers(saved, 1),
                Numbers(tuple(result.test_loss for result in own), 4),
                "-" if schedule == "small" else Numbers(worse, 4, differences=True),
                Numbers(tuple(100 * result.test_accuracy for result in own)),
                Numbers(tuple(result.sharpness["1e-3"] for result in own), 1),
            )
        )
    head = ["schedule", "optimizer steps", "saved, %", "test loss, nats a byte", "above constant", "accuracy %"]
    head += ["sharpness %, 1e-3"]
    note = "Above constant: paired by seed, 95 % interval."
    yield Table("Six schedules on equally many bytes", head, rows, note)
    told = ", ".join(saving) if saving else "none"
    yield Remark(
        f"At least 30 % of the steps saved, mean loss within one standard error of constant's, {error:.4f}: {told}."
    )
    figure, (axes,) = blank(4.4)
    for (schedule, own), like in zip(results.items(), (*SERIES, *SERIES), strict=False):
        worse = tuple(result.test_loss - base for result, base in zip(own, constant, strict=True))
        at, mean = statistics.fmean(result.steps for result in own), mean_interval(worse)
        color = like.color if schedule != "large" else "0.4"
        axes.plot([at], [mean.mean], like.marker, color=color, markersize=8)
        if not math.isnan(mean.low):
            axes.plot([at, at], [mean.low, mean.high], color=color, linewidth=1.6)
        axes.annotate(schedule, (at, mean.mean), xytext=(7, 4), textcoords="offset points", fontsize="small")
    axes.axhline(0, color="0.6", linewidth=0.8)
    label(axes, "optimizer steps", "test loss above constant (nats a byte)")
    yield Chart(
        "Loss against steps",
        figure,
        "Test loss above that of the constant small batch, against the optimizer steps of each schedule.",
        "Bars: 95 % interval over the seeds, paired. Below and to the left is better.",
    )


EXPERIMENT = Experiment(
    "The arena: six schedules of the batch size",
    ("gpt",),
    needs,
    show,
    {
        "learning rate": "1e-3, cosine to a tenth by bytes read; smith and seesaw replace its decay, early-ramp scales "
        "it by the root, late-switch and norm-test leave it; none is tuned",
        "text": "the source of the Python that runs, read once",
    },
)
