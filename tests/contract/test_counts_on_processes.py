"""Batches that count for different numbers on two processes train as one large batch."""

import counts_on_processes as training
import processes
import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counts")
    processes.run(training.__file__, folder, 2)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_two_processes_train_as_the_large_batch_whatever_their_batches_count_for(ranks):
    """Graphs, of which the loader knows the number, and tokens, of which one process may have none."""
    whole = training.same(1)
    for rank in ranks:
        for name, weights in whole.items():
            for key, value in weights.items():
                assert torch.allclose(rank["same"][name][key], value, rtol=0, atol=1e-12), (name, key)


def test_batches_that_are_handed_to_processes_whole_follow_a_schedule(ranks):
    assert [rank["in bulk"] for rank in ranks] == [[4] * 6 + [12] * 2] * 2


def test_what_one_process_cannot_count_ends_on_both(ranks):
    first, second = (rank["refused"] for rank in ranks)
    for name, given in (("at the first batch", "-1"), ("later", "nan")):
        assert (
            f"count must return how much a batch counts for, a number of at least 0, but gave {given}" in second[name]
        )
        assert "failed on another process" in first[name]
