"""One process here; real ones in sharpness_on_processes.py and curvature_on_two_processes.py, beside this file."""

import os
from unittest import mock

import pytest
import torch
from torch import distributed

from lightning_gap.functional._processes import sum_over_processes


@pytest.fixture
def group(tmp_path):
    with mock.patch.dict(os.environ):
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        yield distributed.group.WORLD
        distributed.destroy_process_group()


def test_one_process_sums_to_its_own(group):
    tensor = torch.arange(3.0)
    for chosen in (None, group):
        numbers, tensors = sum_over_processes(lambda: ([1.5, -2.0], [tensor]), numbers=2, process_group=chosen)
        assert numbers == [1.5, -2.0]
        assert torch.equal(tensors[0], tensor)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_its_own_failure_is_raised_as_it_is(group, error):
    def fails():
        raise error("mine")

    for chosen in (None, group):
        with pytest.raises(error, match="mine"):
            sum_over_processes(fails, numbers=1, process_group=chosen)


def test_a_tensor_that_comes_twice_is_summed_twice_and_the_callers_is_left_alone(group):
    tensor = torch.ones(2)
    _, (first, second) = sum_over_processes(lambda: ([], [tensor, tensor]), numbers=0, process_group=group)
    assert first.data_ptr() != second.data_ptr() != tensor.data_ptr()
