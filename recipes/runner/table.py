"""What a comparison ends with: its table, its figure, and how to open its logs."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.utils.tensorboard import SummaryWriter

from lightning_gap.functional import along_line, batch_statistics, epsilon_name
from lightning_gap.logging import Column, parametric_figure, write_csv, write_markdown
from lightning_gap.logging.tables import Row
from lightning_gap.recipes.plan import Plan
from lightning_gap.recipes.terms import terms
from lightning_gap.recipes.training import WEIGHTS, Outcome, evaluate


def columns(plan: Plan) -> list[Column]:
    """The columns of the comparison's table."""
    exact = [Column(f"sharpness_{epsilon_name(e)}", f"sharpness {epsilon_name(e)}", 1) for e in plan.settings.epsilon]
    batch = [
        Column(f"sharpness_batch_{epsilon_name(e)}", f"sharpness {epsilon_name(e)}, batch BN", 1)
        for e in plan.settings.epsilon
    ]
    return [
        Column("regime", "regime"),
        Column("batch_size", "batch"),
        Column("last_batch_size", "batch at the end"),
        Column("epochs", "epochs"),
        Column("steps", "steps"),
        Column("train_accuracy", "train accuracy %", 2),
        Column("test_accuracy", "test accuracy %", 2),
        Column("gap_to_small", "gap to small, points", 2),
        *exact,
        *batch,
        Column("distance", "distance from init", 2),
        Column("seconds", "seconds"),
    ]


def rows(plan: Plan, outcomes: Mapping[str, Sequence[Outcome]]) -> list[Row]:
    """One row for each regime, one number for each trial; the gap is taken trial by trial."""
    small = outcomes.get("small", [])
    table: list[Row] = []
    for regime, trials in outcomes.items():
        row: dict[str, str | list[float]] = {"regime": regime}
        for name in ("batch_size", "last_batch_size", "epochs", "steps"):
            row[name] = str(getattr(trials[0], name))  # the same in every trial
        for name in ("distance", "seconds"):
            row[name] = [getattr(outcome, name) for outcome in trials]
        for name in ("train_accuracy", "test_accuracy"):
            row[name] = [100 * getattr(outcome, name) for outcome in trials]
        row["gap_to_small"] = [100 * (s.test_accuracy - o.test_accuracy) for s, o in zip(small, trials, strict=False)]
        for name in map(epsilon_name, plan.settings.epsilon):
            row[f"sharpness_{name}"] = [outcome.sharpness[name] for outcome in trials]
            row[f"sharpness_batch_{name}"] = [outcome.sharpness_batch[name] for outcome in trials]
        table.append(row)
    return table


def write_table(plan: Plan, table: Sequence[Row]) -> None:
    """Write table.csv and table.md."""
    write_csv(plan.output / "table.csv", columns(plan), table)
    title = f"{plan.settings.recipe} on {plan.data_name}: {', '.join(plan.settings.regimes)}"
    write_markdown(plan.output / "table.md", columns(plan), table, title=title, terms=terms(plan))


def write_figure(plan: Plan) -> Path:
    """Draw loss and accuracy on the line through the first trial's first two solutions, as PNG and for TensorBoard."""
    first, second = plan.settings.regimes[:2]
    start, end = (
        torch.load(plan.run_folder(name, 1) / WEIGHTS, weights_only=True, map_location=plan.device)
        for name in (first, second)
    )
    network = plan.new_network(plan.settings.seed).to(plan.device).eval()
    numbers = plan.numbers
    data = plan.data(plan.regime(first), plan.settings.seed)
    chunk, most = numbers.evaluation_chunk, numbers.sharpness_samples

    def both_splits() -> dict[str, tuple[float, float]]:
        return {split: evaluate(network, data.evaluation(split, chunk, most)) for split in ("train", "test")}

    alphas = torch.linspace(-1, 2, 25).tolist()
    with batch_statistics(network):
        points = along_line(network, start, end, alphas, both_splits)
    figure = parametric_figure(
        alphas,
        {split: [point[split][0] for point in points] for split in points[0]},
        {split: [point[split][1] for point in points] for split in points[0]},
        ends=(first, second),
        title=f"{plan.settings.recipe} on {plan.data_name}, seed {plan.settings.seed}; BatchNorm by statistics of "
        f"chunks of up to {numbers.evaluation_chunk:,}",
    )
    path: Path = plan.output / "parametric.png"
    figure.savefig(path, dpi=150)
    with SummaryWriter(str(plan.output / "tensorboard" / "comparison")) as writer:
        writer.add_figure("comparison/parametric", figure)
        writer.add_text("comparison/table", (plan.output / "table.md").read_text(encoding="utf-8"))
    return path


def tensorboard_command(plan: Plan) -> str:
    """The exact command that opens the logs, for a shell in the current folder."""
    beside = Path(sys.executable).parent / "tensorboard"
    program = "tensorboard" if shutil.which("tensorboard") == str(beside) else str(beside)
    return shlex.join([program, "--logdir", str(plan.output / "tensorboard")])
