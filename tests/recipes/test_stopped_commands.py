"""Real commands that are stopped from outside, or started from outside: what they leave, and how they go on."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.records import read_record

COMMAND = [sys.executable, "-m", "lightning_gap.recipes.runner.cli"]
TINY = ["--epsilon", "[1e-3]", "--width", "8", "--depth", "1"]


def start(*words, **environment):
    return subprocess.Popen(
        [*COMMAND, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # as a shell starts it: Ctrl-C reaches it and its workers
        env=os.environ | environment,
    )


def wait_for(condition, seconds=200):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def found(folder):
    """Every result and the table, all but the seconds and their standard deviation."""
    results = {
        str(file.relative_to(folder)): read_record(file) | {"seconds": 0}
        for file in folder.glob("runs/*/*/outcome.json")
    }
    table = [line.rsplit(",", 2)[0] for line in (folder / "table.csv").read_text().splitlines()]
    return results, table


def children(process):
    """Of a process that trains in workers; their own tracker of resources ends when they do."""
    text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in text.split()]


def is_running(pid):
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.promise("killed")
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_a_comparison_in_workers_that_is_stopped_again_and_again_ends_as_one_that_is_not(tmp_path):
    compare = ["compare", "f1", "small", "large", "--epochs", "50", "--measure_every_n_epochs", "50", *TINY]
    compare += ["--trials", "2", "--threads", "1"]
    options = []
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cut/runs/*/*/*")}
        process = start(*compare, "--workers", "2", "--output", tmp_path / "cut", *options)

        def has_moved_on(before=before, process=process):
            now = {path: path.stat().st_mtime_ns for path in tmp_path.glob("cut/runs/*/*/*.ckpt")}
            assert process.poll() is None
            return any(before.get(path) != time for path, time in now.items())

        wait_for(has_moved_on)
        workers = children(process)
        assert len(workers) >= 2
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        _, error = process.communicate(timeout=60)
        assert process.returncode == status
        if status > 0:
            *_, line = error.strip().splitlines()  # after what took more than two seconds
            assert line.startswith("lightning-gap compare: stopped; kept: ")
            assert str(tmp_path / "cut") in line
        wait_for(lambda workers=workers: not any(map(is_running, workers)), seconds=20)
        options = ["--resume"]
    assert not (tmp_path / "cut" / "table.csv").exists()
    assert main([*compare, "--output", str(tmp_path / "cut"), "--resume"]) == 0
    assert main([*compare, "--output", str(tmp_path / "whole")]) == 0
    assert found(tmp_path / "cut") == found(tmp_path / "whole")


@pytest.mark.promise("killed")
@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds processes in /proc")
def test_a_worker_that_is_killed_ends_the_command_in_one_line_and_what_is_saved_is_kept(tmp_path):
    compare = ["compare", "f1", "small", "large", "--epochs", "5000", "--measure_every_n_epochs", "5000", *TINY]
    process = start(*compare, "--workers", "2", "--output", tmp_path / "run")
    wait_for(lambda: len(list(tmp_path.glob("run/tensorboard/*/*/events*"))) == 2)
    workers = children(process)
    os.kill(workers[-1], signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 2
    *_, line = error.strip().splitlines()  # after what took more than two seconds
    assert "one of workers=2 was killed" in line
    assert "--resume" in line
    wait_for(lambda: not any(map(is_running, workers)), seconds=20)
    assert (tmp_path / "run" / "config.yaml").exists()


@pytest.mark.slow
def test_a_real_process_that_is_terminated_while_it_trains_exits_with_143_and_locks_its_folder_until_then(tmp_path):
    run = ["run", "f1", "--regime", "small", "--epochs", "500", "--measure_every_n_epochs", "1", *TINY]
    process = start(*run, "--output", tmp_path / "run")
    wait_for(lambda: list(tmp_path.rglob("*.ckpt")))
    second = start(*run, "--output", tmp_path / "run", "--resume")
    _, error = second.communicate(timeout=120)
    assert second.returncode == 2
    *_, line = error.strip().splitlines()  # after what took more than two seconds
    assert f"output={str(tmp_path / 'run')!r} cannot be locked" in line
    assert "another command" in line
    process.terminate()
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    assert error.strip().splitlines()[-1].startswith("lightning-gap run: stopped; kept: small up to epoch=")


@pytest.mark.slow
def test_processes_that_are_started_from_outside_are_one_run(tmp_path):
    run = ["run", "f1", "--regime", "small", "--epochs", "2", "--small_batch_size", "160", *TINY]
    run += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [start(*run, "--output", tmp_path / "run", RANK=r, LOCAL_RANK=r, **shared) for r in "01"]
    said = [rank.communicate(timeout=200) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert "small: 16 steps" in said[0][0]
    assert said[1][0] == ""
    assert len(found(tmp_path / "run")[0]) == 1
    assert [path.name for path in (tmp_path / "run" / "tensorboard").iterdir()] == ["small"]


@pytest.mark.parametrize(
    ("devices", "output", "reason"),
    [
        ("2", [], "output must be given where 2 processes are started from outside"),
        ("1", [], "trainer.devices asks for 1"),
        ("1", ["--output", "run"], "trainer.devices asks for 1"),
        ("3", ["--output", "run"], "WORLD_SIZE=2 processes are started from outside"),
    ],
)
def test_processes_from_outside_that_would_write_to_different_places_or_all_to_one_are_refused(
    devices, output, reason, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    run = ["run", "f1", "--regime", "small", "--epochs", "1", *TINY, "--trainer.accelerator", "cpu"]
    assert main([*run, "--trainer.devices", devices, *output]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert reason in line
    assert not list(tmp_path.iterdir())
