# ruff: noqa: NPY002 - the legacy generator is the global one, which transforms draw from
import random

import numpy as np
import pytest
import tiny
import torch
from lightning.pytorch import Callback
from torch.utils.data import Dataset, IterableDataset, Subset

from lightning_gap import BatchPlan, InMemoryLoader, LearningRateScaling, ResumableLoader
from lightning_gap.data import _planned_loader


class Augmented(Dataset):
    """Samples with noise from all three global generators, as transforms draw it."""

    def __len__(self):
        return 21

    def __getitem__(self, index):
        return torch.tensor([index, float(torch.rand(())), random.random(), np.random.rand()], dtype=torch.float64)


def batches(loader, epoch):
    loader.set_epoch(epoch)
    return list(loader)


def same(first, second):
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("persistent_workers", [False, True])
@pytest.mark.bad_input(38)
def test_workers_change_nothing_not_even_random_transforms(persistent_workers):
    alone = ResumableLoader(Augmented(), batch_size=4, shuffle=True)
    workers = ResumableLoader(
        Augmented(), batch_size=4, shuffle=True, num_workers=2, persistent_workers=persistent_workers
    )
    for epoch in range(3):
        assert same(batches(alone, epoch), batches(workers, epoch))
    assert not same(batches(alone, 0), batches(alone, 1))


def looks(monkeypatch, epoch, dataset=None, *, processes=1, **settings):
    """What each sample looks like to all processes together, by index."""
    seen = {}
    for rank in range(processes):
        monkeypatch.setattr(_planned_loader, "_processes", lambda rank=rank: (processes, rank))
        for batch in batches(ResumableLoader(dataset or Augmented(), shuffle=True, **settings), epoch):
            assert not seen.keys() & set(batch[:, 0].tolist())
            seen |= {index: tuple(rest) for index, *rest in batch.tolist()}
    return seen


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("batch_size", [4, 7])
def test_a_sample_looks_the_same_in_every_batch_on_every_process_and_worker(
    monkeypatch, batch_size, processes, num_workers
):
    found = looks(monkeypatch, 3, batch_size=batch_size, processes=processes, num_workers=num_workers)
    expected = {}
    for index in range(21):
        seed = BatchPlan(21, 1).sample_seed(3, index)
        generator, legacy = torch.Generator().manual_seed(seed), np.random.RandomState(seed)
        expected[index] = (float(torch.rand((), generator=generator)), random.Random(seed).random(), legacy.rand())
    assert found == expected


def test_a_sample_looks_different_in_another_epoch_and_with_another_seed_and_unlike_the_others(monkeypatch):
    runs = [looks(monkeypatch, epoch, batch_size=4, seed=seed) for epoch in range(3) for seed in range(2)]
    numbers = [number for run in runs for look in run.values() for number in look]
    assert len(set(numbers)) == len(numbers) == 3 * 2 * 21 * 3


def test_a_subset_of_samples_made_one_by_one_is_no_data_set_of_batches(monkeypatch):
    nested = Subset(Subset(Augmented(), range(21)), list(range(21)))
    found = [looks(monkeypatch, 0, dataset, batch_size=size) for dataset in (nested, None) for size in (4, 7)]
    assert found[0] == found[1] == found[2] == found[3]


class Batched(Augmented):
    """Draws for a whole batch."""

    def __getitems__(self, indices):
        return [torch.tensor([index, noise]) for index, noise in zip(indices, torch.rand(len(indices)), strict=True)]


@pytest.mark.parametrize("dataset", [Batched(), Subset(Batched(), range(21))])
def test_a_data_set_that_makes_batches_is_seeded_once_for_each(monkeypatch, dataset):
    small, again, workers = (looks(monkeypatch, 0, dataset, batch_size=4, num_workers=workers) for workers in (0, 0, 2))
    assert small == again == workers
    assert len(set(small.values())) == 21
    assert small != looks(monkeypatch, 0, dataset, batch_size=7)


def test_the_collate_function_draws_for_the_batch_and_not_what_its_last_sample_drew():
    def drawn(samples):
        return samples[-1][1:].tolist(), [float(torch.rand(())), random.random(), np.random.rand()]

    seen = batches(ResumableLoader(Augmented(), batch_size=4, collate_fn=drawn), 0)
    numbers = [number for last, own in seen for number in (*last, *own)]
    assert len(set(numbers)) == len(numbers) == 6 * 6


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_was_handed_out_counts_and_not_what_workers_prepared(num_workers):
    loader = ResumableLoader(Augmented(), batch_size=4, shuffle=True, num_workers=num_workers)
    whole = batches(loader, 2)
    for taken in range(len(whole) + 1):
        served = iter(loader)
        for _ in range(taken):
            next(served)
        state = loader.state_dict()
        del served
        other = ResumableLoader(Augmented(), batch_size=4, shuffle=True)
        other.load_state_dict(state)
        assert state["position"] == taken or taken == 0
        assert same(batches(other, 2), whole[state["position"] :])  # nothing is served twice
        assert same(batches(other, 3), batches(loader, 3))  # the position was that of one epoch only
        loader.set_epoch(2)


def test_reading_in_the_main_process_leaves_the_generators_as_they_were():
    loader = ResumableLoader(Augmented(), batch_size=4, reseed=False)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    list(loader)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]


def test_reseeding_makes_what_the_model_draws_a_function_of_the_batch():
    def drawn(loader, start=0):
        torch.manual_seed(random.randrange(2**30))
        loader.seek(0, start)
        return [(float(torch.rand(())), random.random(), np.random.rand()) for _ in loader]

    for make in (
        lambda: ResumableLoader(Augmented(), batch_size=4, seed=3),
        lambda: InMemoryLoader((torch.arange(21),), batch_size=4, seed=3, reseed=True),
    ):
        whole = drawn(make())
        assert len(set(whole)) == len(whole) == 6
        assert drawn(make(), start=2) == whole[2:]


def test_it_collates_and_asks_the_data_set_as_a_data_loader_does():
    class Batched(Dataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            raise AssertionError("asked for one sample")

        def __getitems__(self, indices):
            return indices

    assert list(ResumableLoader(Batched(), batch_size=3, collate_fn=tuple)) == [(0, 1, 2), (3, 4)]
    first = next(iter(ResumableLoader(tiny.dataset(6), batch_size=4)))
    assert [tuple(part.shape) for part in first] == [(4, 8), (4,)]


def test_an_iterator_that_is_never_used_changes_nothing():
    loader = ResumableLoader(Augmented(), batch_size=4)
    loader.seek(0, 3)
    iter(loader)
    assert len(list(loader)) == 3
    assert len(list(loader)) == 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 5}, "samples_per_batch=4, this loader has samples_per_batch=5"),
        ({"seed": 1}, "seed=0, this loader has seed=1"),
        ({"tensors": (torch.arange(20),)}, "samples=21, this loader has samples=20"),
    ],
)
def test_a_state_of_other_batches_is_refused(changes, message):
    loader = InMemoryLoader((torch.arange(21),), batch_size=4)
    between = loader.state_dict()
    next(iter(loader))
    state = loader.state_dict()
    terms = {"tensors": (torch.arange(21),), "batch_size": 4} | changes
    other = InMemoryLoader(terms.pop("tensors"), **terms)
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"state of another loader than InMemoryLoader: \['_snapshot'\]"):
        other.load_state_dict({"_snapshot": 1})
    other.load_state_dict(between)
    assert len(list(other)) == len(other)


def test_what_the_model_draws_is_not_what_the_samples_drew():
    noise = [float(batch[0, 1]) for batch in ResumableLoader(Augmented(), batch_size=1)]
    drawn = [float(torch.rand((), dtype=torch.float32)) for _ in ResumableLoader(Augmented(), batch_size=1)]
    assert not set(noise) & set(drawn)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_collate_function_that_draws_is_repeated_too(num_workers):
    def mix(samples):
        return torch.stack(samples) * torch.rand(())

    def fresh(start):
        loader = ResumableLoader(Augmented(), batch_size=4, collate_fn=mix, num_workers=num_workers)
        loader.seek(0, start)
        torch.manual_seed(start)
        return list(loader)

    assert same(fresh(2), fresh(0)[2:])


@pytest.mark.parametrize("dataset", [iter([1]), {1, 2}])
def test_a_data_set_without_index_or_length_is_refused(dataset):
    with pytest.raises(ValueError, match="dataset must be a data set, with a length and samples by index"):
        ResumableLoader(dataset, batch_size=2)


def test_a_stream_is_refused():
    class Stream(IterableDataset):
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return index

        def __iter__(self):
            return iter(range(3))

    with pytest.raises(ValueError, match=r"dataset .*; a stream cannot be read from its middle"):
        ResumableLoader(Stream(), batch_size=2)


def test_the_batch_size_may_be_set_and_is_checked():
    loader = InMemoryLoader((torch.arange(10),), batch_size=4, drop_last=True)
    loader.batch_size = 5
    assert [len(batch) for (batch,) in loader] == [5, 5]
    for size, message in ((0, "batch_size must be a whole number"), (11, "drop_last=True leaves no batch")):
        with pytest.raises(ValueError, match=message):
            loader.batch_size = size


@pytest.mark.parametrize("changes", [{"shuffle": False}, {"drop_last": True}, {"reseed": False}])
@pytest.mark.parametrize("builds_the_loader_too_soon", [False, True])
def test_a_run_is_not_resumed_inside_an_epoch_with_another_rest(tmp_path, changes, builds_the_loader_too_soon):
    class Module(tiny.TinyClassifier):
        def configure_optimizers(self):
            if builds_the_loader_too_soon:  # Lightning then forgets the loader's state
                assert self.trainer.estimated_stepping_batches > 0
            return super().configure_optimizers()

    class Stops(Callback):
        def on_train_batch_end(self, trainer, *rest):
            if trainer.global_step == 2:
                trainer.save_checkpoint(tmp_path / "two.ckpt")

    def fit(*callbacks, ckpt_path=None, **settings):
        loader = ResumableLoader(tiny.dataset(44), batch_size=16, **({"shuffle": True} | settings))
        module, mends = Module(), LearningRateScaling(rule="none", warmup_epochs=0)
        tiny.trainer(mends, *callbacks).fit(module, loader, ckpt_path=ckpt_path)
        return tiny.state_of(module)

    whole = fit(Stops())
    assert tiny.same(fit(ckpt_path=tmp_path / "two.ckpt"), whole)
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=f"inside an epoch with {name}={not value}, this loader has {name}={value}"):
        fit(ckpt_path=tmp_path / "two.ckpt", **changes)
