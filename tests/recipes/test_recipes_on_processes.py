"""Two processes train a recipe to the weights of one, in float64, augmentation included."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from recipes_on_processes import CASES

pytestmark = pytest.mark.slow  # test_cli_running has one run on two processes

SCRIPT = Path(__file__).with_name("recipes_on_processes.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    started = [
        subprocess.Popen(
            [sys.executable, SCRIPT, folder, processes], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for processes in "12"
    ]
    for process in started:
        said, _ = process.communicate(timeout=230)
        assert process.returncode == 0, said
    return {name: torch.load(folder / f"{name}.pt", weights_only=False) for name in ("1-0", "2-0", "2-1")}


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_two_processes_train_to_the_weights_of_one(found, case):
    alone, first, second = (found[name][case] for name in ("1-0", "2-0", "2-1"))
    assert alone["steps"] == first["steps"] == 5 * 4
    assert len(alone["weights"]) > 10
    for name, weight in alone["weights"].items():
        assert weight.dtype == torch.float64
        assert float((weight - first["weights"][name]).abs().max()) <= 1e-12, name
        assert torch.equal(first["weights"][name], second["weights"][name])


@pytest.mark.parametrize("name", ["1-0", "2-0", "2-1"])
def test_an_epoch_resumed_in_its_middle_tells_the_means_of_the_whole(found, name):
    assert found[name]["whole"]["train/loss"] > 0
    assert found[name]["resumed"] == pytest.approx(found[name]["whole"], rel=1e-6)
    assert found[name]["whole"] == pytest.approx(found["2-0"]["whole"], rel=1e-6) or name == "1-0"


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_sample_looks_the_same_on_whichever_process_it_comes(found, case):
    alone, first, second = (found[name][case]["looks"] for name in ("1-0", "2-0", "2-1"))
    assert not first.keys() & second.keys()
    shared = first | second
    assert shared.keys() == alone.keys() == {(epoch, sample) for epoch in range(5) for sample in range(64)}
    assert all(torch.equal(shared[key], alone[key]) for key in alone)
    varied = sum(not torch.equal(alone[0, sample], alone[1, sample]) for sample in range(64))
    assert varied == 0 if case[1] == "none" else varied > 56
