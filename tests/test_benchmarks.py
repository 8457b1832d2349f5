"""The benchmarks' code runs, and their table has what it should; how fast anything is decides nothing here."""

import inspect
import re
import sys
from pathlib import Path

import pytest
from lightning.pytorch import Callback

import lightning_gap

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "benchmarks.md"


@pytest.fixture(scope="module")
def benchmarks():
    """The scripts of the folder, which import each other as they do when they are run; forgotten afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        import against_peers

        yield against_peers
    finally:
        sys.path.remove(str(FOLDER))
        for name in set(sys.modules) - before:
            if FOLDER in Path(getattr(sys.modules[name], "__file__", None) or "").parents:
                del sys.modules[name]


def callbacks_of_the_catalogue():
    public = (getattr(lightning_gap, name) for name in lightning_gap.__all__)
    return {found.__name__ for found in public if inspect.isclass(found) and issubclass(found, Callback)}


@pytest.mark.filterwarnings("ignore")
def test_every_callback_of_the_catalogue_has_a_row(benchmarks):
    rows = list(benchmarks.TOPICS["idle callback"].rows(1, quick=True, batches=8))
    assert {row.ours.split(",")[0] for row in rows} >= callbacks_of_the_catalogue()
    for row in rows:
        assert len(row.ratios) == 1 or row.found.startswith("never idle"), row.ours
    shown = benchmarks.page([("idle callback", row) for row in rows], load=0.5)
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    assert len(lines) == len(rows) + 2
    assert len({line.count("|") for line in lines}) == 1


def test_rows_compare_ours_with_each_peer_in_the_same_round(benchmarks):
    clock = iter(
        [0, 5, 5, 6, 6, 8, 8, 12, 12, 15, 15, 21, 21, 25, 25, 30]
    )  # one round that does not count, three that do
    from rows.row import in_turns

    (row,) = in_turns(
        {"ours": lambda: 2, "peer": lambda: 3}, 3, clock=lambda: next(clock), found=lambda a, b: f"{a}, {b}"
    )
    assert (row.ours, row.peer, row.found) == ("ours", "peer", "2, 3")
    assert row.ratios == (2 / 4, 3 / 6, 4 / 5)
    assert (row.median, row.quartiles) == (0.5, (0.5, 0.65))


def test_the_check_measures_twice_before_it_says_that_a_row_is_above_its_bound(benchmarks, monkeypatch):
    from bounds import Bound
    from rows import Topic
    from rows.row import Row

    told = {"slow once": iter([9.0, 1.0]), "slow": iter([9.0, 8.0]), "fast": iter([1.0])}

    def topic(name):
        return Topic(lambda rounds, *, quick: iter([Row(name, "peer", (next(told[name]),))]), rounds=1, in_ci=1)

    monkeypatch.setattr(benchmarks, "TOPICS", {name: topic(name) for name in told})
    bounds = {name: Bound(name, "", "peer", 2.0, "") for name in told}
    monkeypatch.setattr(benchmarks, "BOUNDS", tuple(bounds.values()))
    monkeypatch.setattr(benchmarks, "bound_of", lambda name, row: bounds[name])
    found = [(name, row.median, bound) for name, row, bound in benchmarks.exceeding()]
    assert found == [("slow", 8.0, 2.0)]
    assert next(told["fast"], None) is None


def test_every_bound_is_of_a_row_of_the_page(benchmarks):
    table = [line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for bound in benchmarks.BOUNDS:
        rows = [
            row
            for row in table
            if row[0] == f"| {bound.topic}" and row[1].startswith(bound.ours) and row[2].startswith(bound.peer)
        ]
        assert rows, bound
        assert bound.why, bound
        for row in rows:
            ratio = re.fullmatch(r"\*\*([\d.]+)\*\*", row[4])
            assert not ratio or float(ratio[1]) < bound.ratio, row
