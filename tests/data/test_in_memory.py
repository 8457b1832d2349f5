import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_gap import InMemoryLoader


@given(st.integers(1, 200), st.integers(1, 70), st.integers(0, 2**32 - 1), st.integers(0, 300))
def test_every_epoch_serves_each_sample_once_in_batches_of_the_size(samples, batch_size, seed, epoch):
    loader = InMemoryLoader(
        (torch.arange(samples), -torch.arange(samples)), batch_size=batch_size, shuffle=True, seed=seed
    )
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert [len(x) for x, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert sorted(int(i) for x, _ in batches for i in x) == list(range(samples))
    assert all(torch.equal(x, -y) for x, y in batches)


def orders(seed, epochs=range(5), samples=50):
    loader = InMemoryLoader((torch.arange(samples),), batch_size=samples, shuffle=True, seed=seed)
    found = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        found.append(tuple(next(iter(loader))[0].tolist()))
    return found


def test_the_order_depends_on_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = orders(0)
    torch.manual_seed(2)
    assert orders(0) == first
    assert orders(0, epochs=[3]) == [first[3]]


def test_no_two_epochs_and_no_two_seeds_share_an_order():
    found = [order for seed in range(6) for order in orders(seed)]
    assert len(set(found)) == len(found)


def test_iterating_draws_no_global_random_number():
    loader = InMemoryLoader((torch.arange(9),), batch_size=2, shuffle=True)
    state = torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), state)


def test_unshuffled_it_keeps_the_order():
    assert torch.cat([b for (b,) in InMemoryLoader((torch.arange(7),), batch_size=3)]).tolist() == list(range(7))


def test_lightning_moves_it_from_epoch_to_epoch():
    seen = []

    class Sees(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            seen.append(batch[1].tolist())
            return super().training_step(batch, batch_idx)

    loader = InMemoryLoader(tiny.dataset(48).tensors, batch_size=48, shuffle=True, seed=4)
    tiny.trainer(max_epochs=3).fit(Sees(), loader)
    expected = []
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        expected.append(next(iter(loader))[1].tolist())
    assert seen == expected


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, True])
def test_a_batch_size_that_is_no_size_is_refused(batch_size):
    with pytest.raises(ValueError, match="batch_size must be a whole number of samples, at least 1"):
        InMemoryLoader((torch.arange(3),), batch_size=batch_size)


@pytest.mark.parametrize("tensors", [(), (torch.empty(0),), (torch.zeros(3), torch.zeros(4))])
def test_tensors_that_are_no_data_set_are_refused(tensors):
    with pytest.raises(ValueError, match="samples must be tensors of one length, at least 1"):
        InMemoryLoader(tensors, batch_size=2)
