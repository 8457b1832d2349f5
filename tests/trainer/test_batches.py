"""What loaders state of their batches, against what they serve."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from lightning_gap import InMemoryLoader, ResumableLoader
from lightning_gap.trainer.batches import (
    last_micro_batch_size,
    micro_batch_size,
    samples_per_process,
    stated_micro_batch_size,
)
from lightning_gap.trainer.stated_batches import stated_batches


class Rows(torch.utils.data.Dataset):
    """Takes one index, or a list of them for a whole batch."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return self.samples

    def __getitem__(self, rows):
        return torch.as_tensor(rows)


class Forever:
    """Begins its batch sampler anew whenever it ends."""

    def __init__(self, batches):
        self.sampler = batches

    def __len__(self):
        return len(self.sampler)

    def __iter__(self):
        while True:
            yield from self.sampler


class NeverEnding(DataLoader):
    """Cuts its endless batches into passes."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        vars(self)["batch_sampler"] = Forever(Forever(self.batch_sampler))

    def __len__(self):
        return len(self.batch_sampler)

    def __iter__(self):
        return (batch for batch, _ in zip(super().__iter__(), range(len(self)), strict=False))


class Prefetches:
    """Another kind of loader around a DataLoader."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return iter(list(self.loader))


def bulk(samples, size, **options):
    return DataLoader(
        Rows(samples), batch_size=None, sampler=BatchSampler(RandomSampler(Rows(samples)), size, **options)
    )


LOADERS = {
    "stock": lambda samples, size: DataLoader(Rows(samples), batch_size=size, shuffle=True),
    "drops the last": lambda samples, size: DataLoader(Rows(samples), batch_size=size, drop_last=True),
    "weighted": lambda samples, size: DataLoader(
        Rows(99), batch_size=size, sampler=WeightedRandomSampler([1.0] * 99, samples)
    ),
    "in bulk": lambda samples, size: bulk(samples, size, drop_last=False),
    "in bulk, drops the last": lambda samples, size: bulk(samples, size, drop_last=True),
    "never ending": lambda samples, size: NeverEnding(Rows(samples), batch_size=size),
    "wrapped": lambda samples, size: Prefetches(DataLoader(Rows(samples), batch_size=size)),
    "resumable": lambda samples, size: ResumableLoader(Rows(samples), batch_size=size, shuffle=True),
    "in memory": lambda samples, size: InMemoryLoader((torch.arange(samples),), batch_size=size, drop_last=True),
}


def trainer_with(loader):
    terms = {"world_size": 1, "max_steps": -1, "accumulate_grad_batches": 1, "datamodule": None}
    return SimpleNamespace(
        train_dataloader=loader, num_training_batches=len(loader), lightning_module=tiny.TinyClassifier(), **terms
    )


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(("samples", "size"), [(44, 8), (48, 8), (5, 3), (64, 64)])
def test_each_batch_of_each_pass_has_as_many_samples_as_was_stated(kind, samples, size):
    loader = LOADERS[kind](samples, size)
    for _ in range(2):
        served = [len(batch[0] if isinstance(batch, list | tuple) else batch) for batch in loader]
        stated = stated_batches(loader)
        assert served == [stated.at(position) for position in range(len(served))]
    trainer = trainer_with(loader)
    assert micro_batch_size(trainer) == stated_micro_batch_size(trainer) == served[0]
    assert last_micro_batch_size(trainer) == served[-1]
    assert samples_per_process(trainer) == samples


def test_a_loader_that_knows_no_batch_states_none():
    class Buckets(BatchSampler):
        """Batches of whatever size."""

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(20))

    own = DataLoader(Rows(20), batch_sampler=Buckets(SequentialSampler(range(20)), 8, drop_last=False))
    for loader in (own, DataLoader(Rows(5), batch_size=None), [torch.zeros(8)], None):
        assert stated_batches(loader) is None
    assert (micro_batch_size(trainer_with(own)), stated_micro_batch_size(trainer_with(own))) == (8, None)
    assert samples_per_process(trainer_with(own)) == 20
    assert samples_per_process(trainer_with(DataLoader(Rows(5), batch_size=None))) is None  # ready batches
    stream = stated_batches(DataLoader(Stream(), batch_size=8))
    assert (stream.size, stream.at(0), stream.samples) == (8, None, None)  # who knows when it ends


def test_a_loader_of_ready_batches_does_not_contradict_who_knows_better():
    ready = DataLoader(Rows(5), batch_size=1, collate_fn=lambda rows: rows[0])
    assert stated_micro_batch_size(trainer_with(ready)) is None
    assert stated_micro_batch_size(trainer_with(DataLoader(Rows(5), batch_size=1))) == 1


@pytest.mark.parametrize("make", [DataLoader, ResumableLoader])
def test_a_loader_of_ready_batches_states_nothing_to_anyone(make):
    trainer = trainer_with(make(Rows(5), batch_size=1, collate_fn=lambda rows: rows[0]))
    assert stated_batches(trainer.train_dataloader) is None
    for of in (micro_batch_size, stated_micro_batch_size, last_micro_batch_size, samples_per_process):
        assert of(trainer) is None
