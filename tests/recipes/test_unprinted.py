"""What is kept, as told where standard output cannot be written to, or of an error; a closed pipe ends silently."""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

from lightning_gap.recipes.runner import runs
from lightning_gap.recipes.runner.cli import main

ROOM = 200_000  # for what commands write to files; as much is in the file that they print to
QUICK = ["--epochs", "1", "--small_batch_size", "160", "--epsilon", "[1e-3]", "--width", "16", "--depth", "1"]
QUICK += ["--trainer.logger", "false"]


@pytest.fixture
def on_full_disk(tmp_path, monkeypatch, full_disk, capsys):
    """Give the exit status of a command that prints to a file on a full disk, and what it says on stderr."""
    file = tmp_path / "printed.txt"
    file.write_bytes(b"x" * ROOM)

    def done(*words):
        with file.open("a", encoding="utf-8") as printed, monkeypatch.context() as patch, full_disk(ROOM):
            patch.setattr(sys, "stdout", printed)
            status = main([*map(str, words)])
        assert file.stat().st_size == ROOM
        return status, capsys.readouterr().err

    return done


@pytest.mark.parametrize(
    "words", ["list", "list f1", "--help", "--version", "list --help", "run f1 --help", "reproduce", "doctor --help"]
)
def test_what_a_full_disk_does_not_take_is_an_error_in_one_line(on_full_disk, words):
    status, told = on_full_disk(*words.split())
    assert status == 2
    assert told.count("\n") == 1
    assert "error: what was to be printed cannot be written to standard output (File too large)" in told


def test_of_an_error_that_is_not_foreseen_it_is_said_what_is_kept(tmp_path, monkeypatch, capsys):
    def lost(*_):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(runs, "show_results", lost)  # as torch has it of a process that was killed
    with pytest.raises(RuntimeError, match="closed by peer"):
        main(["run", "f1", "--regime", "small", *QUICK, "--output", str(tmp_path)])
    assert (
        f"kept: small finished; resume with the same command and --output {tmp_path} --res" in capsys.readouterr().err
    )


def test_of_a_copy_that_is_written_the_error_says_where(tmp_path, on_full_disk):
    status, told = on_full_disk("copy", "f1", tmp_path)
    assert status == 2
    assert f"written: {tmp_path / 'f1.py'}" in told
    assert (tmp_path / "f1.py").exists()


def test_of_runs_that_are_finished_and_of_their_report_the_error_says_where_they_are(tmp_path, on_full_disk):
    run, report = tmp_path / "run", tmp_path / "report"
    status, told = on_full_disk("run", "f1", "--regime", "small", *QUICK, "--output", run)
    assert status == 2
    assert told.endswith(f"kept: small finished; resume with the same command and --output {run} --resume\n")
    status, told = on_full_disk("report", run, "--output", report)
    assert status == 2
    assert told.endswith(f"the report is written to {report}\n")
    assert (report / "report.html").exists()


@pytest.mark.parametrize("buffered", ["", "1"])
@pytest.mark.parametrize(("reader", "status", "told"), [("full", 2, 1), ("closed", 141, 0)])
def test_nothing_is_left_for_python_to_fail_at_when_it_ends(buffered, reader, status, told):
    with nowhere(reader) as output:
        done = subprocess.run(
            [sys.executable, "-m", "lightning_gap.recipes.runner.cli", "list", "--help"],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"PYTHONUNBUFFERED": buffered},
        )
    assert (done.returncode, done.stderr.count("\n")) == (status, told)


@contextmanager
def nowhere(reader):
    """The end of a pipe that nobody reads, or a device that is always full."""
    if reader == "full" and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    read, write = (None, os.open("/dev/full", os.O_WRONLY)) if reader == "full" else os.pipe()
    if read is not None:
        os.close(read)
    try:
        yield write
    finally:
        os.close(write)
