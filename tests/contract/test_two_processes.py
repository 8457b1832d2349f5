"""Real processes: data-parallel training on two of them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
import refused_on_two_processes as different
import torch
from two_processes import critical


def found(script, folder, ranks):
    processes.run(Path(__file__).with_name(script), folder, ranks, ranks=ranks)
    return [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    ranks = found("two_processes.py", tmp_path_factory.mktemp("ddp"), 2)
    return {mode: [rank[mode] for rank in ranks] for mode in ranks[0]}


def test_both_processes_log_the_same_values(results):
    first, second = (rank["metrics"] for rank in results["monitors"])
    for key in ("sharpness/full_eps1e-3", "curvature/critical_multiple", "gap/loss", "gap/accuracy"):
        assert torch.equal(first[key], second[key]), key
    assert torch.equal(first["weights/distance_from_init"], second["weights/distance_from_init"])


def test_the_batch_is_that_of_all_processes(results):
    metrics = results["monitors"][0]["metrics"]
    sizes = float(metrics["batch/size"]), float(metrics["batch/effective"])
    assert (*sizes, float(metrics["lr/scale"])) == (16.0, 16.0, 2.0)


def test_the_monitors_change_no_bit_of_the_run(results):
    for plain, seen in zip(results["plain"], results["monitors"], strict=True):
        assert all(torch.equal(value, seen["weights"][name]) for name, value in plain["weights"].items())


@pytest.mark.promise("measured processes")
def test_what_two_processes_measure_together_is_what_one_measures_alone(results):
    assert_as_by_hand(results["exact"])


def test_the_critical_multiple_is_the_same_however_the_batch_is_split(results):
    alone = critical(devices=1, accumulate=1)
    assert len(alone) == 6
    assert critical(devices=1, accumulate=2) == pytest.approx(alone, rel=1e-6)
    for found in results["critical"]:
        assert found == pytest.approx(alone, rel=1e-6)  # metrics are float32


@pytest.mark.promise("measured processes")
@pytest.mark.slow
def test_what_four_processes_measure_together_is_what_one_measures_alone(tmp_path):
    assert_as_by_hand(found("exact_on_processes.py", tmp_path, 4))


def test_a_script_that_fails_on_one_process_fails_its_test(tmp_path):
    script = tmp_path / "script.py"
    script.write_text('import os\nif os.environ["LOCAL_RANK"] == "1":\n    raise OSError("no more data")\n')
    with pytest.raises(AssertionError, match="OSError: no more data"):
        processes.run(script)


def assert_as_by_hand(ranks):
    assert ranks[0]["found"] == pytest.approx(ranks[0]["expected"], rel=1e-8)
    assert all(rank["found"] == ranks[0]["found"] and rank["gap"] == ranks[0]["gap"] for rank in ranks)
    statistics = [rank["statistics"] for rank in ranks]
    assert len(statistics[0]["states"]) == 3  # two validations and the end
    for rank in statistics:
        torch.testing.assert_close(rank["states"], statistics[0]["expected"], rtol=1e-12, atol=1e-12)
        assert all(map(torch.equal, rank["states"], statistics[0]["states"]))


DIES = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import tiny
from lightning_gap import LearningRateScaling, SharpnessMonitor

class Dies(tiny.TinyClassifier):
    def on_train_batch_end(self, *rest):
        if self.global_step == 4 and self.global_rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)

monitor = SharpnessMonitor(samples=16, chunk_size=8)
trainer = tiny.trainer(LearningRateScaling(8), monitor, strategy="ddp", devices=2, max_epochs=1000)
trainer.fit(Dies(), tiny.loader())
"""


@pytest.mark.promise("rank dies")
def test_where_one_process_is_killed_the_other_ends_too(tmp_path, record_property):
    script = tmp_path / "script.py"
    script.write_text(DIES.format(tests=str(Path(__file__).parents[1])))
    begun = time.monotonic()
    with pytest.raises(AssertionError, match="RuntimeError"):  # of the one that is left
        processes.run(script)
    seconds = time.monotonic() - begun
    assert seconds < 60  # the figure that is promised
    record_property("figure", f"{seconds:.0f} s from the start until both had ended")


@pytest.mark.slow  # that all processes are told is tested below
@pytest.mark.bad_input(14)
def test_a_script_whose_fit_cannot_be_right_ends_on_both_processes():
    """Lightning starts the second."""
    command = [sys.executable, different.__file__, "large"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode != 0
    assert (
        "ghost_batch_size=9 is larger than the batch of 8 samples that each process normalises at a time" in done.stderr
    )


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("different")
    processes.run(different.__file__, folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.promise("ranks disagree")
@pytest.mark.parametrize("case", different.CASES)
def test_processes_that_were_given_something_different_are_refused_before_the_first_step(told, case):
    for rank in told:
        assert case in rank[case]
        assert case.startswith("ended") or ("different settings" in rank[case] and "[after 0 steps]" in rank[case])
