"""Ours beside peers, in one run and one table: ratios of time and memory, written into docs/benchmarks.md.

    make benchmarks           # all of it; installs the peers first
    make benchmarks-check     # what CI runs: fewer rows, against the bounds of bounds.py, in under 20 seconds
    python benchmarks/against_peers.py --only '[ghost norm, SAM]'     # shown, and not written

Ours and the peers take turns, and a ratio is taken within a round, so that what else the machine does meets all alike.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from bounds import BOUNDS, bound_of
from measuring import Cells, command, machine, say, table
from rows import TOPICS, Topic
from rows.row import Row

from lightning_gap.recipes.lookup import lookup

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- by benchmarks/against_peers.py -->", "<!-- end -->"
PACKAGES = (
    *("lightning", "torchvision", "scipy", "curvlinops-for-pytorch", "PyHessian", "hessian-eigenthings"),
    "pytorch_optimizer",
)
Measured = list[tuple[str, Row]]
HEADER = "topic | ours | beside | ours alone | ours / beside | quartiles | and | CI fails above"


def measured(names: Sequence[str]) -> Measured:
    """Every row of these topics."""
    found = []
    for name in names:
        for row in TOPICS[name].rows(TOPICS[name].rounds, quick=False):
            found.append((name, row))
            say(*cells(name, row))
    return found


def cells(topic: str, row: Row) -> Cells:
    """A line of the table."""
    bound = bound_of(topic, row)
    if not row.ratios:
        return topic, row.ours, row.peer, "", "", "", row.found, ""
    first, third = row.quartiles
    share, quartiles = f"**{_digits(row.median)}**", f"{_digits(first)} to {_digits(third)}"
    return topic, row.ours, row.peer, row.amount, share, quartiles, row.found, bound.ratio if bound else ""


def _digits(share: float) -> str:
    """Three places where a ratio is near one and counts in parts of a hundred."""
    return f"{share:.3f}" if 0.9 < share < 1.1 else f"{share:.2g}" if share < 1 else f"{share:.2f}"


def page(found: Measured, load: float) -> str:
    """The table, what it was made on, and how each topic is measured."""
    topics = dict.fromkeys(name for name, _ in found)
    how = "\n".join(f"- *{name}*, {_how(TOPICS[name])}" for name in topics)
    return f"""{machine(packages=PACKAGES)}; {os.cpu_count()} cores, load {load:.1f} before.

{table(HEADER, [cells(*each) for each in found])}

{how}
"""


def _how(topic: Topic) -> str:
    rounds = "1 round" if topic.rounds == 1 else f"{topic.rounds} rounds"
    return f"{rounds}: {' '.join((topic.rows.__doc__ or '').split())}"


def exceeding() -> Iterator[tuple[str, Row, float]]:
    """What is above its bound in CI's rows, with the bound; measured once more before it counts.

    Raises:
        RuntimeError: If a bound is of no row.
    """
    bounded = set()
    for name, topic in TOPICS.items():
        if not topic.in_ci:
            continue
        best: dict[tuple[str, str], Row] = {}
        for _ in range(2):
            for row in topic.rows(topic.in_ci, quick=True):
                key = (row.ours, row.peer)
                if row.ratios and (key not in best or row.median < best[key].median):
                    best[key] = row
            bounds = {key: bound_of(name, row) for key, row in best.items()}
            above = [key for key, bound in bounds.items() if bound and best[key].median > bound.ratio]
            if not above:
                break
        for key, bound in bounds.items():
            if bound:
                bounded.add(bound)
                say(name, *key, best[key].median, f"at most {bound.ratio}")
                if key in above:
                    yield name, best[key], bound.ratio
    if unused := set(BOUNDS) - bounded:
        raise RuntimeError(f"no row of CI's check has this bound: {sorted(map(str, unused))}; see benchmarks/bounds.py")


def main(check: bool = False, only: list[str] = []) -> None:  # noqa: B006
    """Measure, and write the table into docs/benchmarks.md; or check CI's rows.

    Args:
        check: Only CI's rows; the exit status is 1 if one is above its bound.
        only: Topics to measure, by their names in the table, which is then shown and not written.
    """
    torch.set_num_threads(1)
    if check:
        found = list(exceeding())
        for name, row, bound in found:
            print(f"{name}: {row.ours} is {row.median:.2f} times {row.peer}; at most {bound}, see benchmarks/bounds.py")
        sys.exit(bool(found))
    load = os.getloadavg()[0]
    text = page(measured([lookup("topic", name, TOPICS) for name in only or TOPICS]), load)
    print(text)
    if not only:
        before, _, after = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text}{END}{after.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    command(main)
