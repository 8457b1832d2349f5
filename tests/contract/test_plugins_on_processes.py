"""Each plugin on two processes, with accumulation and clipping, trains as one process does on the same batches."""

from pathlib import Path

import processes
import pytest
import tiny
import torch
from contract import plugins_on_processes as training
from torch.utils.data import DataLoader, Subset


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plugins")
    processes.run(Path(training.__file__), folder, 2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def batches_of(size):
    """What processes 0 and 1 take in turn, sixteen samples a step, in batches of so many."""
    even, odd = list(range(0, 48, 2)), list(range(1, 48, 2))
    step = 4 if size == 4 else 8
    order = [index for start in range(0, 24, step) for part in (even, odd) for index in part[start : start + step]]
    return DataLoader(Subset(tiny.dataset(48), order), batch_size=size)


@pytest.mark.parametrize("name", training.CASES)
def test_two_processes_train_as_one(found, name):
    make, size = training.CASES[name]
    expected = training.train(make(), batches_of(size), accumulate_grad_batches=16 // size)
    assert tiny.same(found[0][name], found[1][name])
    torch.testing.assert_close(found[0][name], expected, rtol=1e-11, atol=1e-12)
