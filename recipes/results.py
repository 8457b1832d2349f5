"""The folder of a comparison: its configuration, its table, its figure, and the refusal to overwrite any of them."""

from __future__ import annotations

import platform
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from lightning_gap.functional import along_line, batch_statistics, epsilon_name
from lightning_gap.logging import Column, parametric_figure, write_csv, write_markdown
from lightning_gap.logging.tables import Row
from lightning_gap.recipes.comparison import Plan
from lightning_gap.recipes.recipe import Numbers
from lightning_gap.recipes.regimes import Regime
from lightning_gap.recipes.training import OUTCOME, Outcome, evaluate, newest_checkpoint

CONFIG = "config.yaml"
_MAY_CHANGE = {"regimes", "trials", "data_dir", "download", "num_workers", "output", "resume"}
_TRAINER_MAY_CHANGE = {"accelerator", "devices", "num_nodes", "strategy"}


def claim_folder(plan: Plan) -> None:
    """Write the resolved configuration into the results folder, or refuse the folder.

    Raises:
        FileExistsError: If the folder holds another run and ``resume`` was not asked for.
        FileNotFoundError: If there is nothing to resume.
        ValueError: If the run to resume was made with other settings; shows both. Or if one of its files is damaged.
    """
    folder, file = plan.output, plan.output / CONFIG
    asked = _plain(plan)
    if plan.settings.resume:
        if not file.exists():
            raise FileNotFoundError(f"output={str(folder)!r} has no {CONFIG} to resume from; leave out --resume")
        stored = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        there, here = _that_must_agree(stored), _that_must_agree(asked)
        differing = [
            f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
            for name in {**there, **here}
            if there.get(name) != here.get(name)
        ]
        if differing:
            raise ValueError(
                f"output={str(folder)!r} holds a run with other settings: {'; '.join(differing)}; "
                "resume with the same settings, or choose a new --output"
            )
        _check_files(plan)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(
            f"output={str(folder)!r} is not empty and nothing in it is overwritten; "
            "go on with that run by --resume, or choose a new --output"
        )
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(asked, sort_keys=False), encoding="utf-8")


def _check_files(plan: Plan) -> None:
    """Read what each run left, before any of them goes on."""
    for name in plan.settings.regimes:
        for trial in range(1, plan.settings.trials + 1):
            folder = plan.run_folder(name, trial)
            if (folder / OUTCOME).exists():
                Outcome.load(folder / OUTCOME)
            else:
                newest_checkpoint(folder)


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


def terms(plan: Plan) -> str:
    """What the numbers of the table mean, in one paragraph."""
    settings, numbers = plan.settings, plan.numbers
    train_size = len(plan.data(plan.regime(settings.regimes[0]), settings.seed).train)
    held_out = len(plan.splits.train) - train_size
    seeds = ", ".join(str(settings.seed + trial) for trial in range(settings.trials))
    note = f" {plan.splits.note}" if plan.splits.note else ""
    options = "".join(f", {name}={value}" for name, value in settings.network.items())
    several = f", {plan.processes} processes" if plan.processes > 1 else ""
    users = "".join(f"; Trainer's {name}={value!r}" for name, value in settings.trainer.items())
    return (
        f"{settings.recipe}{options} on {plan.data_name}: {train_size:,} training, {held_out:,} validation (drawn with "
        f"seed 0) and {len(plan.splits.test):,} test samples.{note} "
        f"{'; '.join([_training(numbers), *_exceptions(plan)])}{users}; "
        f"seeds {seeds}, every regime of a trial from the same initial weights; mean ± sample standard deviation over "
        f"{settings.trials} trial{'s' * (settings.trials > 1)}. Accuracies of the final weights, {_statistics(numbers)}"
        "; gap to small in percentage points, positive where small is better. Sharpness in percent: "
        f"Metric 2.1 in the full space, corner ascent of at most 7 evaluations, "
        f"{min(train_size, numbers.sharpness_samples):,} training samples as they are; dropout off, running "
        f"statistics, or (batch BN) the statistics of each chunk of up to {numbers.evaluation_chunk:,} samples. "
        f"Seconds of training, monitors included, {torch.get_num_threads()} threads{several}. {versions()}."
    )


def _training(numbers: Numbers) -> str:
    """Length, optimizer and data of a regime in words."""
    told = [f"{numbers.epochs} epochs, {numbers.optimizer} {numbers.learning_rate:g}"]
    if numbers.learning_rate_steps:
        steps = ", ".join(f"{factor:g} from epoch {epoch}" for epoch, factor in numbers.learning_rate_steps.items())
        told.append(f"rate times {steps}")
    if numbers.momentum is not None:
        told.append(f"momentum {numbers.momentum:g}")
    if numbers.weight_decay:
        spared = "" if numbers.decay_all else " but for BatchNorm and biases"
        told.append(f"weight decay {numbers.weight_decay:g}{spared}")
    if numbers.augmentation != "none":
        told.append(f"augmentation {numbers.augmentation}")
    if numbers.standardise:
        told.append("channels standardised")
    return ", ".join(told)


def _statistics(numbers: Numbers) -> str:
    return {
        "running": "with running BatchNorm statistics",
        "recomputed": "with BatchNorm statistics recomputed over the training samples",
        "batch": f"with the BatchNorm statistics of each chunk of up to {numbers.evaluation_chunk:,} samples",
    }[numbers.batch_norm]


def _exceptions(plan: Plan) -> list[str]:
    """What does not hold for all regimes: numbers that one replaces, and batches that change."""
    found = []
    for name in plan.settings.regimes:
        regime = plan.regime(name)
        own = {key: value for key, value in regime.trainer.items() if key not in plan.settings.trainer}
        told = [*_replaced(plan.numbers, regime), *(f"{key} {value:g}" for key, value in own.items())]
        if len(regime.batch_sizes) > 1:
            sizes = ", ".join(f"{size} from epoch {epoch}" for epoch, size in regime.batch_sizes.items())
            told.append(f"batch {sizes}, optimizer's state kept")
        if told:
            found.append(f"{name}: {', '.join(told)}")
    return found


def _replaced(numbers: Numbers, regime: Regime) -> list[str]:
    changed = {k: v for k, v in asdict(regime.numbers).items() if v != getattr(numbers, k)}
    told = [f"{changed.pop('epochs')} epochs"] if "epochs" in changed else []
    return told + [f"{name} {value or 'none'}" for name, value in changed.items()]


def versions() -> str:
    """The versions that a number depends on."""
    names = ("lightning-gap", "torch", "lightning")
    return ", ".join([*(f"{name} {version(name)}" for name in names), f"Python {platform.python_version()}"])


def write_table(plan: Plan, table: Sequence[Row]) -> None:
    """Write table.csv and table.md."""
    write_csv(plan.output / "table.csv", columns(plan), table)
    title = f"{plan.settings.recipe} on {plan.data_name}: {', '.join(plan.settings.regimes)}"
    write_markdown(plan.output / "table.md", columns(plan), table, title=title, terms=terms(plan))


def write_figure(plan: Plan) -> Path:
    """Draw loss and accuracy on the line through the first trial's first two solutions, as PNG and for TensorBoard."""
    first, second = plan.settings.regimes[:2]
    start, end = (
        torch.load(plan.run_folder(name, 1) / "weights.pt", weights_only=True, map_location=plan.device)
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


def _plain(plan: Plan) -> dict[str, object]:
    """Settings as YAML can hold them, and as the command line reads them back."""
    plain = asdict(plan.settings)
    plain |= plain.pop("numbers")
    return {k: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, Path) else v for k, v in plain.items()}


def _that_must_agree(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a run that goes on may not change, the Trainer's arguments among the others."""
    kept = {k: v for k, v in config.items() if k not in _MAY_CHANGE and k != "trainer"}
    trainer = {f"trainer.{k}": v for k, v in config.get("trainer", {}).items() if k not in _TRAINER_MAY_CHANGE}
    return kept | trainer
