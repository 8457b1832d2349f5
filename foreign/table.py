"""Write the tables of docs/foreign.md from the results that are kept, and count the lines that each script adds."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from command import LARGER

from lightning_gap.recipes.intervals import Interval, mean_interval, ratio_interval

HERE = Path(__file__).parent
RESULTS = HERE.parent / "docs" / "results" / "foreign"
PAGE = HERE.parent / "docs" / "foreign.md"
SCRIPTS = sorted(path.stem for path in HERE.glob("*_*.py"))
MARK = re.compile(r"^ *# lightning_gap: (\d+) lines?$")
Result = dict[str, Any]


def without_ours(source: str) -> tuple[str, int]:
    """A script without the lines that are marked as added, and how many these are."""
    kept: list[str] = []
    left = added = 0
    for line in source.splitlines():
        mark = MARK.match(line)
        if mark:
            left = int(mark[1])
            added += left
        elif left:
            left -= 1
        else:
            kept.append(line)
    return "\n".join(kept) + "\n", added


def results(script: str) -> list[Result]:
    """What is kept of a script."""
    path = RESULTS / f"{script}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def kind_of(result: Result) -> str:
    """Which run a result is of: three are compared, and one asks whether the monitors leave a trace."""
    if result["monitors"]:
        return "monitors"
    return "ours" if result["ours"] else "small" if result["batch_size"] == result["small"] else "large"


def comparison(found: Sequence[Result]) -> dict[str, str]:
    """What the larger batch cost and what came back, of the seeds that all three kinds of run have."""
    scores = {kind: _by_seed(found, kind) for kind in ("small", "large", "ours")}
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in scores.values())))
    sign = 1 if found[0]["better"] == "higher" else -1
    lost = [sign * (scores["small"][seed] - scores["large"][seed]) for seed in seeds]
    back = [sign * (scores["ours"][seed] - scores["large"][seed]) for seed in seeds]
    means = {kind: _number(mean_interval([by_seed[seed] for seed in seeds]).mean) for kind, by_seed in scores.items()}
    return {
        **means,
        "lost": _with_ends(mean_interval(lost)),
        "back": _with_ends(mean_interval(back)),
        "share": _share(lost, back),
    }


def batches(found: Sequence[Result]) -> str:
    """The two batch sizes, and in how many steps each trains."""
    steps = {kind_of(result): (result["batch_size"], result["steps"]) for result in found}
    return ", ".join(f"{size} in {count} steps" for size, count in (steps["small"], steps["large"]))


def _by_seed(found: Sequence[Result], kind: str) -> dict[int, float]:
    return {result["seed"]: result["score"] for result in found if kind_of(result) == kind}


def _share(lost: Sequence[float], back: Sequence[float]) -> str:
    """In percent with its interval; only where the interval of what was lost lies above zero."""
    if mean_interval(lost).sign < 1:
        return "no loss shown"
    share = ratio_interval(back, lost)
    return f"{100 * share.mean:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


def _with_ends(interval: Interval) -> str:
    return f"{_number(interval.mean)} ({_number(interval.low)} to {_number(interval.high)})"


def _number(value: float) -> str:
    """Three digits that mean something, however large or small."""
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def monitored(found: Sequence[Result]) -> str:
    """Whether the run with all monitors ended with the same weights, and how many of them measured."""
    for result in found:
        if kind_of(result) == "monitors":
            verdict = "bit-identical" if result["bit_identical"] else "**differ**"
            return f"{verdict}, {len(result['logged'])} measured"
    return "not run"


def tables() -> str:
    """Both tables, with a line on what they say."""
    projects = [
        f"| project | task | metric | batches | small | {LARGER}x | {LARGER}x with ours "
        f"| lost by {LARGER}x | brought back | share of the loss |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    traces = [
        "| project | version | remedies | weights with and without six monitors | lines added |",
        "|---|---|---|---|---|",
    ]
    for script in SCRIPTS:
        found = results(script)
        if not found:
            continue
        first = found[0]
        link = f"[{first['project']}](../foreign/{script}.py)"
        if {"small", "large", "ours"} <= {kind_of(result) for result in found}:
            row = comparison(found)
            better = f"{first['metric']} ({first['better']} is better)"
            cells = [link, first["task"], better, batches(found), *row.values()]
            projects.append("| " + " | ".join(cells) + " |")
        source = (HERE / f"{script}.py").read_text(encoding="utf-8")
        remedies = re.findall(r"gap\.((?:LearningRateScaling|GhostBatchNormSwap)\([^)]*\))", source)
        cells = [link, first["version"], ", ".join(f"`{remedy}`" for remedy in remedies), monitored(found)]
        traces.append(f"| {' | '.join(cells)} | {without_ours(source)[1]} |")
    about = "Trained twice for an epoch, without and with six monitors, the weights compared by `torch.equal`:"
    return "\n".join([*projects, "", about, "", *traces])


def page(text: str) -> str:
    """The page with its tables made again."""
    begin, end = "<!-- tables -->\n", "<!-- end of tables -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n{tables()}\n\n{end}{rest.split(end)[1]}"


def write_page() -> None:
    """Put the tables of what is kept into the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write_page()
