"""The command reproduce: real runs at the tiny scale, real processes, and what it refuses."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from rich.console import Console

from lightning_gap.recipes.experiments import experiments
from lightning_gap.recipes.experiments.scales import Choice
from lightning_gap.recipes.runner import telling
from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.measurement import Measurement
from lightning_gap.recipes.runner.records import read_record
from lightning_gap.recipes.runner.reproduce import Work
from lightning_gap.recipes.runner.run_store import RunStore
from lightning_gap.recipes.runner.side_by_side import InThisProcess, Task, finish

COMMAND = [sys.executable, "-m", "lightning_gap.recipes.runner.cli", "reproduce"]
TABLES = ["keskar-table-2", "keskar-distance"]
TINY = ["--scale", "tiny", "--networks", "f1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Both tables of F1 on digits, made by the command."""
    folder = tmp_path_factory.mktemp("reproduced")
    assert main(["reproduce", *TABLES, *TINY, "--output", str(folder)]) == 0
    return folder


def outcomes(folder):
    return {file.parent.name: read_record(file) | {"seconds": 0} for file in folder.glob("runs/*/outcome.json")}


def times(folder):
    return {file: file.stat().st_mtime_ns for file in folder.glob("runs/*/outcome.json")}


def test_both_tables_share_their_runs_and_one_report(made):
    assert len(outcomes(made)) == 4  # two batches, two seeds
    text = (made / "report" / "report.md").read_text()
    for name in ("Table 2", "distance", "digits", "seeds 0, 1", "scale", "97.81 ± 0.07"):
        assert name in text
    html = (made / "report" / "report.html").read_text()
    assert all(name in html for name in outcomes(made))


def test_the_table_says_what_the_runs_found(made):
    found = outcomes(made)
    runs = {
        seed: [Choice("tiny", ("f1",)).run("f1", regime, seed).name for regime in ("small", "large")] for seed in (0, 1)
    }
    gaps = [100 * (found[small]["test_accuracy"] - found[large]["test_accuracy"]) for small, large in runs.values()]
    (file,) = (made / "report").glob("keskar-table-2*.csv")
    with file.open() as opened:
        cells = [cell for row in csv.reader(opened) for cell in row]
    numbers = [float(cell) for cell in cells if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", cell)]
    for gap in gaps:
        assert any(number == pytest.approx(gap, rel=1e-9) for number in numbers)


def test_what_is_there_is_used_again_from_a_moved_folder_too(made, tmp_path, capsys):
    shutil.copytree(made, tmp_path / "moved")
    before = times(tmp_path / "moved")
    assert main(["reproduce", "keskar-table-2", *TINY, "--output", str(tmp_path / "moved")]) == 0
    assert times(tmp_path / "moved") == before
    assert "4 of 4 runs and measurements are there" in capsys.readouterr().out


@pytest.mark.slow
def test_workers_give_the_same_numbers(made, tmp_path):
    assert (
        main(["reproduce", "keskar-table-2", *TINY, "--workers", "2", "--seeds", "0", "--output", str(tmp_path)]) == 0
    )
    both = outcomes(tmp_path)
    assert both
    assert {name: outcomes(made)[name] for name in both} == both


def test_a_dry_run_tells_and_makes_nothing(made, tmp_path, capsys):
    words = ["reproduce", "keskar-table-2", *TINY, "--dry_run", "--output"]
    assert main([*words, str(tmp_path / "new")]) == 0
    out = capsys.readouterr().out
    assert "4 runs, 4 to be trained for 24 epochs" in out
    assert "is not known before" in out
    assert not (tmp_path / "new").exists()
    before = sorted(made.rglob("*"))
    assert main([*words, str(made), "--seeds", "0", "1", "2"]) == 0
    out = capsys.readouterr().out
    assert "6 runs, 2 to be trained for 12 epochs" in out
    assert "minutes of one worker, as the finished runs did" in out
    assert sorted(made.rglob("*")) == before


def test_two_experiments_that_keep_other_weights_share_a_run():
    store, choice = RunStore(Path("nowhere"), Path("data")), Choice("small", ("c1",))
    from lightning_gap.recipes.experiments import keskar_figure_2, keskar_figure_6

    needs = [*keskar_figure_2.EXPERIMENT.needs(choice), *keskar_figure_6.EXPERIMENT.needs(choice)]
    work = Work.of(store, needs)
    assert len(work.runs) == 6
    assert len(work.measurements) == 12
    assert all({0, 1, 2, 20} <= set(spec.kept_epochs) for spec in work.runs)
    assert [spec.seed for spec in work.runs] == sorted(spec.seed for spec in work.runs)


def divided(data_dir, *, by):
    return 1 / by


def test_what_fails_does_not_end_the_rest_and_is_told_at_the_end(tmp_path):
    store = RunStore(tmp_path, tmp_path)
    asked = [Measurement(f"by-{by}", (), divided, {"by": by}) for by in (0, 1, 0.0, 2)]
    work = Work(store, (), tuple(asked))
    with pytest.raises(ValueError, match=r"2 of 4 failed, the first of them by-0-.* \(ZeroDivisionError: division by"):
        work.make(Console(quiet=True), workers=None, threads=1)
    assert [made.is_made(store) for made in asked] == [False, True, False, True]
    assert [task.name for task in work.tasks()] == [made.file(store).stem for made in (asked[0], asked[2])]


def slow(data_dir):
    time.sleep(0.3)


def test_in_a_pipe_what_takes_long_is_said_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(telling, "FIRST", 0.01)
    work = Work(RunStore(tmp_path, tmp_path), (), (Measurement("slow", (), slow),))
    work.make(Console(), workers=None, threads=1)
    assert capsys.readouterr().err == "1 runs and measurements to make ...\n"


def test_what_needs_a_task_that_failed_is_left_out():
    tasks = [
        Task("a", lambda: 1 / 0),
        Task("b", list, frozenset({"a"})),
        Task("c", list),
        Task("d", list, frozenset({"c"})),
        Task("e", list, frozenset({"b"})),
    ]
    for pool in (InThisProcess(), ThreadPoolExecutor(2)):
        pool.slots = 1 if isinstance(pool, InThisProcess) else 2
        failed = {}
        assert [task.name for task in finish(tasks, pool, failed)] == ["c", "d"]
        assert list(failed) == ["a"]
        with pytest.raises(ZeroDivisionError):
            list(finish(tasks, pool))


# Refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["keskar-tabel-2"], r"unknown experiment 'keskar-tabel-2'; did you mean 'keskar-table-2'"),
        (["keskar-table-2", "--scale", "smal"], r"unknown scale 'smal'; did you mean 'small'"),
        (["keskar-table-2", "--networks", "f9"], r"networks=f9: keskar-table-2 has none of them; it has f1, f2, c1"),
        (["keskar-table-2", "--networks", "f1", "f11"], r"unknown network of these experiments 'f11'"),
        (["keskar-table-2", "--seeds", "0", "1", "0"], r"seeds must name each once, got 0 2 times"),
        (["keskar-table-2", "keskar-table-2"], r"experiments must name each once, got keskar-table-2 2 times"),
        (["keskar-table-2", "--seeds", "-1"], r"--seeds.*-1"),
        (["keskar-table-2", "--workers", "0"], r"--workers.*0"),
        (
            ["keskar-table-2", "--scale", "small", "--networks", "c1", "--data_dir", "none"],
            r"data_dir=.*none. does not exist: put cifar-10",
        ),
        ([], r""),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["reproduce", *words])
    except SystemExit as refused:
        status = refused.code
    assert status == (2 if words else 0)
    assert re.search(message, capsys.readouterr().err)
    assert not list(tmp_path.rglob("runs"))


def test_an_output_that_is_a_file_is_refused_and_left(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main(["reproduce", "keskar-table-2", *TINY, "--output", str(tmp_path / "file")]) == 2
    assert re.search("output=.*file.*no folder", capsys.readouterr().err)
    assert (tmp_path / "file").read_text() == "mine"


HOLD = "import fcntl, sys; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX); print(); sys.stdin.read()"


def test_two_commands_on_one_folder_are_refused(tmp_path, capsys):
    pytest.importorskip("fcntl")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / ".lock"], text=True, **pipes) as first:
        first.stdout.readline()
        assert main(["reproduce", "keskar-table-2", *TINY, "--output", str(tmp_path)]) == 2
        first.stdin.close()
    assert "another command works in it" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_without_a_name_the_experiments_are_told(capsys):
    assert main(["reproduce"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in experiments())


# Interruptions


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stopped_command_continues(number, made, tmp_path):
    """Stopped after its first run, by force and as by Ctrl-C; then the rest is made, and the first run is not again."""
    words = ["keskar-table-2", *TINY, "--output", str(tmp_path)]
    process = subprocess.Popen([*COMMAND, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not times(tmp_path):
        assert time.monotonic() < end
        time.sleep(0.02)
    os.kill(process.pid, number)
    _, told = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command continues" in told
    first = times(tmp_path)
    assert len(first) < 4
    assert main(["reproduce", *words]) == 0
    assert first.items() <= times(tmp_path).items()
    assert outcomes(tmp_path) == outcomes(made)
