import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset, TensorDataset, default_collate

from lightning_gap.functional import FixedSubset


class Numbers(Dataset):
    """Samples as dictionaries, counting how often one is asked for."""

    def __init__(self, length):
        self.length, self.asked = length, 0

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if not 0 <= index < self.length:
            raise IndexError
        self.asked += 1
        return {"x": torch.full((2,), float(index)), "y": index}


def chosen(subset):
    return [int(y) for batch in subset for y in (batch["y"] if isinstance(batch, dict) else batch[0])]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.none() | st.integers(1, 80), st.integers(1, 30), st.integers(0, 5))
def test_every_sample_is_there_once_in_nearly_equal_batches(length, samples, chunk_size, seed):
    subset = FixedSubset(TensorDataset(torch.arange(length)), samples=samples, chunk_size=chunk_size, seed=seed)
    size = min(samples or length, length)
    indices = chosen(subset)
    assert len(indices) == len(set(indices)) == size == sum(subset.sizes)
    assert len(subset) == math.ceil(size / chunk_size)
    assert max(subset.sizes) <= chunk_size
    assert max(subset.sizes) - min(subset.sizes) <= 1


def test_a_smaller_choice_is_the_beginning_of_a_larger_one():
    data = TensorDataset(torch.arange(50))
    small, large = (chosen(FixedSubset(data, samples=n, chunk_size=7, seed=2)) for n in (9, 31))
    assert large[:9] == small


def test_it_is_the_same_every_time_and_draws_no_global_random_numbers():
    data, state = Numbers(30), torch.get_rng_state()
    subset, twin = (FixedSubset(data, samples=10, chunk_size=4, seed=1) for _ in range(2))
    other = FixedSubset(data, samples=10, chunk_size=4, seed=2)
    assert chosen(subset) == chosen(subset) == chosen(twin) != chosen(other)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_tensor_dataset_gives_what_collating_its_samples_gives():
    data = TensorDataset(torch.randn(20, 3), torch.arange(20))
    subset = FixedSubset(data, samples=11, chunk_size=4)
    order = chosen(FixedSubset(TensorDataset(torch.arange(20)), samples=11, chunk_size=4))
    for batch, rows in zip(subset, torch.tensor(order).split(subset.sizes), strict=True):
        torch.testing.assert_close(batch, default_collate([data[int(i)] for i in rows]))


def test_a_subclass_of_tensor_dataset_keeps_its_own_samples():
    class Doubled(TensorDataset):
        def __getitem__(self, index):
            return tuple(2 * tensor for tensor in super().__getitem__(index))

    assert sorted(chosen(FixedSubset(Doubled(torch.arange(4))))) == [0, 2, 4, 6]


def test_samples_are_collated_when_asked_for_and_as_told():
    data = Numbers(10)
    subset = FixedSubset(data, samples=6, chunk_size=3, collate_fn=lambda samples: [s["y"] for s in samples])
    assert data.asked == 0
    assert len(subset[0]) == 3
    assert data.asked == 3
    assert isinstance(FixedSubset(data)[0]["x"], torch.Tensor)


def test_it_is_a_sequence():
    subset = FixedSubset(Numbers(10), chunk_size=3)
    batches = list(subset)
    assert len(batches) == len(subset) == 4
    assert torch.equal(subset[-1]["y"], batches[3]["y"])
    assert [b["y"].tolist() for b in subset[1:3]] == [b["y"].tolist() for b in batches[1:3]]
    assert [b["y"].tolist() for b in subset[::-1]] == [b["y"].tolist() for b in batches[::-1]]
    with pytest.raises(IndexError):
        subset[4]


@pytest.mark.bad_input(59)
def test_more_samples_than_there_are_gives_all_of_them():
    assert sum(FixedSubset(Numbers(5), samples=100).sizes) == 5


@pytest.mark.parametrize("name", ["samples", "chunk_size"])
@pytest.mark.parametrize("count", [0, -1, 2.5, True, "10"])
def test_a_number_that_is_no_count_is_refused(name, count):
    with pytest.raises(ValueError, match=f"{name} must be a whole number, at least 1"):
        FixedSubset(Numbers(5), **{name: count})


@pytest.mark.bad_input(47)
def test_an_empty_data_set_is_refused():
    with pytest.raises(ValueError, match="dataset is empty"):
        FixedSubset(Numbers(0))
