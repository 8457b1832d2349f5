"""A process with all callbacks is killed at a hundred points; its run ends as one that was not, to the bit."""

import json
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

import kill_points
import pytest
import tiny
import torch
from kill_points import CASTS, HOOKS, Point
from lightning.pytorch import Callback
from processes import SERVER

import lightning_gap

KILLS = 26  # of each cast: more than a hundred together
# Torch writes a checkpoint whole to memory, Lightning to a temporary file, which is moved; to here it is copied.
OTHER_FILE_SYSTEM = Path("/dev/shm")


def point_of(cast, seed):
    """Every hook in turn; between them anywhere inside a pass, inside a save, and from outside at any instant."""
    chance = random.Random(f"{cast} {seed}")
    kind = (HOOKS[seed // 4 % len(HOOKS)], "forward", "file", "outside")[seed % 4]
    often = {"on_train_start": 1, "forward": 60, "file": 8}.get(kind, 4)
    return Point(kind, chance.randint(1, often)), chance.uniform(0.0, 0.3)


def live(folder, cast, point, printed, delay=0.0):
    """One life; whether it was killed."""
    steps = folder / "steps.jsonl"
    steps.touch()
    begun = steps.stat().st_size
    process = SERVER.Process(target=kill_points.process, args=(str(folder), cast, point, str(printed)))
    process.start()
    if point.what == "outside":
        while process.is_alive() and steps.stat().st_size == begun:
            time.sleep(0.001)
        time.sleep(delay)
        process.kill()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), printed.read_text()[-3000:]
    return process.exitcode != 0


def steps_of(folder):
    """What was logged, by step; the line that a kill cut short is left out."""
    found = {}
    for line in (folder / "steps.jsonl").read_text().splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        found.setdefault(values.pop("step"), []).append(values)
    return found


def assert_same_end(whole, folder):
    ends = [torch.load(place / "end.pt") for place in (whole, folder)]
    first, other = (end["weights"] for end in ends)
    assert [name for name in first if not torch.equal(first[name], other[name])] == []
    assert tiny.same(ends[0]["optimizer"], ends[1]["optimizer"])
    first, other = (end["metrics"] for end in ends)  # a life that began after the last step has logged less
    assert {key: repr(first[key]) for key in other} == {key: repr(other[key]) for key in other}
    expected = {step: values for step, (values,) in steps_of(whole).items()}
    for step, lives in steps_of(folder).items():
        for values in lives:  # of two lives that both made this step, both
            assert values["loss_step"] == expected[step]["loss_step"], step
            for key in values.keys() & expected[step].keys():
                assert repr(values[key]) == repr(expected[step][key]), (step, key)
    assert steps_of(folder).keys() == expected.keys()


def test_every_callback_is_in_a_cast():
    public = [getattr(lightning_gap, name) for name in lightning_gap.__all__]
    callbacks = {one for one in public if isinstance(one, type) and issubclass(one, Callback)}
    assert {type(callback) for make in CASTS.values() for callback in make()} == callbacks


@pytest.mark.promise("killed")
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cast", CASTS)
def test_it_ends_as_if_it_had_not_been_killed(cast, tmp_path, record_property):
    whole = tmp_path / "whole"
    whole.mkdir()
    printed = tmp_path / "printed.txt"
    assert not live(whole, cast, Point("never"), printed)
    folders = [tmp_path / "here"]
    if OTHER_FILE_SYSTEM.is_dir() and OTHER_FILE_SYSTEM.stat().st_dev != tmp_path.stat().st_dev:
        folders.append(Path(tempfile.mkdtemp(dir=OTHER_FILE_SYSTEM)))
    kills, torn, runs, seed = Counter(), 0, 0, 0
    try:
        while True:
            folder = folders[runs % len(folders)]
            folder.mkdir(exist_ok=True)
            point, delay = point_of(cast, seed) if kills.total() < KILLS else (Point("never"), 0.0)
            print(f"run {runs}, seed {seed}: {point}, after {delay:.3f} s")
            seed += 1
            assert seed < 4 * KILLS, kills
            if live(folder, cast, point, printed, delay):
                kills[point.what] += 1
                saved, cut = kill_points.newest_whole(folder)
                assert cut <= 1, f"{cut} checkpoints after {saved} cannot be read"  # the one that was being written
                torn += cut
            if (folder / "end.pt").exists():
                assert_same_end(whole, folder)
                shutil.rmtree(folder)
                runs += 1
                if kills.total() >= KILLS:
                    break
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
    record_property("cases", kills.total())
    record_property("figure", f"{cast}: {runs} runs, {kills['file']} kills inside a save, {torn} files cut short")
