"""A comparison of regimes as a chapter of a report: accuracy, the gap and what closes it, sharpness, what was run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lightning_gap import __version__
from lightning_gap.functional import epsilon_name

from ..gap import recovered, share_recovered
from ..runner.comparisons import Comparison, resume_command
from .comparison_figures import accuracy_figure, picture, sharpness_figure
from .parts import Chapter, Chart, Numbers, Part, Remark, Report, Table

Cell = str | Numbers
_TERMS = {
    "pairs": "every regime of a seed from the same initial weights; differences are taken seed by seed, over the seeds "
    "that both regimes have",
    "gap": "test accuracy of small minus that of a regime, in percentage points",
    "share of the gap": "(large's gap - the regime's) / large's gap, in percent, interval by Fieller's theorem; where "
    "the interval of large's gap does not lie above zero, there is no gap to share",
    "accuracy": "final weights, all samples of the split as they are, evaluation mode",
    "distance": "Euclidean, of the trained weights from the initial ones",
}


def comparison_report(comparisons: Sequence[Comparison]) -> Report:
    """One or several comparisons on one page; of several, their gaps stand beside each other first."""
    chapters = [comparison_chapter(each) for each in comparisons]
    if len(comparisons) > 1:
        chapters.insert(0, side_by_side(comparisons))
    title = comparisons[0].title if len(comparisons) == 1 else f"{len(comparisons)} comparisons of training regimes"
    named = zip(_names(comparisons), comparisons, strict=True)
    runs = {f"{name}: {run}": path for name, each in named for run, path in each.runs.items()}
    return Report(title, chapters, {"report by": f"lightning-gap {__version__}"}, runs)


def side_by_side(comparisons: Sequence[Comparison]) -> Chapter:
    """The gap of each regime, and the share brought back, a pair of columns for each comparison."""
    names = _names(comparisons)
    head = ["regime", *(f"{name}: {what}" for name in names for what in ("gap, points", "of large's gap back, %"))]
    regimes = list(dict.fromkeys(name for each in comparisons for name in each.results))
    rows = [[regime, *(cell for each in comparisons for cell in _of_gap(each, regime))] for regime in regimes]
    terms = {name: each.title for name, each in zip(names, comparisons, strict=True)} | _TERMS
    return Chapter("all", "The gap in each comparison", [Table("Gap and share brought back", head, rows)], terms)


def _names(comparisons: Sequence[Comparison]) -> list[str]:
    """Those of the folders; their paths where two have the same name."""
    names = [each.folder.resolve().name for each in comparisons]
    return [name if names.count(name) == 1 else str(each.folder) for name, each in zip(names, comparisons, strict=True)]


def comparison_chapter(comparison: Comparison) -> Chapter:
    """All there is to a folder of `compare` or `run`."""
    return Chapter(comparison.folder.resolve().name, comparison.title, list(_parts(comparison)), _terms(comparison))


def _parts(comparison: Comparison) -> Iterator[Part]:
    results, gaps = comparison.results, comparison.gaps
    if comparison.sentence:
        yield Remark(comparison.sentence)
    if comparison.unfinished:
        yield Remark(
            f"Not finished: {comparison.unfinished_runs}. What is finished is shown; differences are over the "
            f"seeds that both regimes have. Resume with `{resume_command(comparison)}`."
        )
    yield _accuracy_table(comparison)
    figure, describes = accuracy_figure(results)
    yield Chart(
        "Test accuracy by regime",
        figure,
        describes,
        "Small signs: one seed each. Large signs: the mean, with its 95 % interval. Regimes share their seeds, so that "
        "differences are surer than these intervals look: read them in the table." * (len(results) > 1),
    )
    yield _sharpness_table(comparison)
    if len(gaps) > 1:
        name = epsilon_name(comparison.settings["epsilon"][0])
        figure, describes = sharpness_figure(results, gaps, name)
        yield Chart(
            "Sharpness against the gap",
            figure,
            describes,
            "Means and 95 % intervals over the seeds. If sharpness explained the gap, the regimes would lie on a line "
            "that rises to the right.",
        )
    drawn = comparison.folder / "parametric.png"
    if drawn.exists():
        first, second = list(results)[:2]
        yield Chart(
            "Loss and accuracy on the line through two solutions",
            picture(drawn),
            f"Training and test loss, and accuracy, on the line through the solutions of {first} and {second}.",
            "Drawn by `compare`, of the first seed that both have.",
        )
    yield _run_table(comparison)


def _accuracy_table(comparison: Comparison) -> Table:
    shares = len(comparison.gaps) > 1
    head = ["regime", "test accuracy, %", *["gap to small, points", "of large's gap back, %"] * shares]
    head += ["train accuracy, %", "seeds", "batch", "steps"]
    rows = []
    for regime, seeds in comparison.results.items():
        row: list[Cell] = [regime, _percent(comparison, regime, "test_accuracy")]
        row += _of_gap(comparison, regime) if shares else []
        row += [_percent(comparison, regime, "train_accuracy"), f"{len(seeds)}"]
        rows.append(row + [_seen(comparison, regime, name) for name in ("batch_size", "steps")])
    return Table("Accuracy and gap", head, rows, "Positive gaps: small tests better." * shares)


def _of_gap(comparison: Comparison, regime: str) -> list[Cell]:
    """The gap to small, and the share of large's gap that is brought back."""
    gap = comparison.gaps.get(regime)
    if gap is None or regime == "small":
        return ["-", "-"]
    share = share_recovered(comparison.gaps, regime)
    if share is None:
        return [Numbers(gap.points, differences=True), recovered(comparison.gaps, regime)]
    return [Numbers(gap.points, differences=True), Numbers((), digits=0, interval=share)]


def _sharpness_table(comparison: Comparison) -> Table:
    names = [epsilon_name(size) for size in comparison.settings["epsilon"]]
    head = ["regime", *(f"{name}, %" for name in names), *(f"{name}, batch BN, %" for name in names), "distance"]
    rows = []
    for regime, seeds in comparison.results.items():
        row: list[Cell] = [regime]
        for kind in ("sharpness", "sharpness_batch"):
            row += [Numbers(tuple(getattr(one, kind)[name] for one in seeds.values()), digits=1) for name in names]
        rows.append([*row, _numbers(comparison, regime, "distance", 2)])
    samples = comparison.settings.get("sharpness_samples")
    return Table(
        "Sharpness, and distance from the initial weights",
        head,
        rows,
        f"Metric 2.1 of Keskar et al. (2017) in the full space at each epsilon, found by corner ascent, on "
        f"{f'{samples:,} ' if isinstance(samples, int) else ''}training samples. BatchNorm by running statistics, or "
        "(batch BN) by those of each evaluation chunk.",
    )


def _run_table(comparison: Comparison) -> Table:
    seen = {
        "batch_size": "batch",
        "last_batch_size": "batch at the end",
        "epochs": "epochs",
        "steps": "steps",
        "learning_rate": "learning rate at the end",
    }
    rows = []
    for regime in comparison.results:
        row: list[Cell] = [regime, *(_seen(comparison, regime, key) for key in seen)]
        row += [_numbers(comparison, regime, f"{split}_loss", 4) for split in ("train", "test")]
        rows.append([*row, _numbers(comparison, regime, "seconds", 0)])
    head = ["regime", *seen.values(), "train loss", "test loss", "seconds"]
    return Table("What the runs did", head, rows, "As it was seen in the runs. Seconds of training, monitors included.")


def _seen(comparison: Comparison, regime: str, name: str) -> str:
    """One number where all seeds saw the same."""
    return ", ".join(dict.fromkeys(f"{getattr(one, name):.6g}" for one in comparison.results[regime].values()))


def _numbers(comparison: Comparison, regime: str, name: str, digits: int, factor: float = 1) -> Numbers:
    return Numbers(tuple(factor * getattr(one, name) for one in comparison.results[regime].values()), digits=digits)


def _percent(comparison: Comparison, regime: str, name: str) -> Numbers:
    return _numbers(comparison, regime, name, 2, 100)


def _terms(comparison: Comparison) -> dict[str, str]:
    settings = comparison.settings
    own = {"recipe", "regimes", "data", "trials", "seed", "trainer", "epsilon", "output", "resume", "data_dir"}
    own |= {"download", "num_workers", "workers", "threads", "measure_every_n_epochs"}
    others = {k: v for k, v in settings.items() if k not in own and v is not None and v != "none"}
    seeds = sorted({seed for each in comparison.results.values() for seed in each})
    terms = {
        "recipe and data": f"{comparison.recipe} on {settings['data']}",
        "seeds": ", ".join(map(str, seeds)),
        "hyperparameters": _listed(others),
        "Trainer": _listed(settings["trainer"]) or "Lightning's defaults",
        "threads of a run": f"{settings['threads'] or 'all of the machine'}",
        **_TERMS,
    }
    told = _notes(comparison.folder / "table.md")
    return terms | ({"as compare told it": told} if told else {})


def _notes(file: Path) -> str:
    """The paragraph below the table that `compare` wrote at its end; an empty text before that."""
    if not file.is_file():
        return ""
    paragraphs = file.read_text(encoding="utf-8", errors="replace").strip().split("\n\n")
    return "" if paragraphs[-1].startswith(("|", "#")) else paragraphs[-1]


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
