# ruff: noqa: NPY002 - the legacy generator is the global one, which transforms draw from
"""A stream without length: sizes, order, workers, processes, random transforms, and resuming from every batch."""

import random
import threading
from itertools import chain
from unittest import mock

import numpy as np
import pytest
import tiny
import torch
from lightning.pytorch import Callback
from torch.utils.data import IterableDataset

from lightning_gap import ResumableStream, ResumeExactly

SAMPLES = 43


def shards_of(epoch, shard, shards):
    """A sharded source: each shard a consecutive part, another order in each epoch."""
    part = range(SAMPLES * shard // shards, SAMPLES * (shard + 1) // shards)
    return iter([torch.tensor(i) for i in (part if epoch % 2 == 0 else reversed(part))])


class Counting(IterableDataset):
    """A data set with a state, that notes how often it was asked for a sample."""

    def __init__(self):
        self.next, self.asked = 0, 0

    def __iter__(self):
        while self.next < SAMPLES:
            self.next, self.asked = self.next + 1, self.asked + 1
            yield torch.tensor(self.next - 1)
        self.next = 0

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


class Noisy(IterableDataset):
    """Samples with noise from all three global generators."""

    def __iter__(self):
        for i in range(SAMPLES):
            yield torch.tensor([i, float(torch.rand(())), random.random(), np.random.rand()], dtype=torch.float64)


SOURCES = {"function": lambda: shards_of, "iterable": lambda: range(SAMPLES), "state": Counting}


def batches(stream, epoch=0):
    stream.set_epoch(epoch)
    return [batch.tolist() for batch in stream]


@pytest.mark.promise("samples")
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("source", SOURCES)
def test_each_sample_comes_once_in_batches_of_the_sizes_asked_for(source, num_workers):
    stream = ResumableStream(SOURCES[source](), batch_size=4, num_workers=num_workers)
    stream.plan_sizes(4, ((8, 3), (20, 10)))
    for epoch in range(2):
        found = batches(stream, epoch)
        assert [len(batch) for batch in found] == [4, 4, 3, 3, 3, 3, 10, 10, 3]
        assert sorted(chain(*found)) == list(range(SAMPLES))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_change_nothing_of_an_iterable_not_even_random_transforms(num_workers):
    state = torch.get_rng_state()
    alone = batches(ResumableStream(Noisy(), batch_size=5, reseed=False))
    assert torch.equal(torch.get_rng_state(), state)
    assert batches(ResumableStream(Noisy(), batch_size=5, num_workers=num_workers)) == alone


class Shared(IterableDataset):
    """Shares itself out by worker, as torch's documentation has it."""

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return iter(range(first, 30, step))


def test_a_source_that_shares_itself_out_by_worker_is_not_shared_out_twice():
    one, two = (ResumableStream(Shared(), batch_size=4, num_workers=workers) for workers in (0, 2))
    for _ in range(2):
        assert [batch.tolist() for batch in two] == [batch.tolist() for batch in one]


def test_what_a_sample_looks_like_depends_on_seed_and_epoch():
    stream = ResumableStream(Noisy(), batch_size=5)
    assert batches(stream, 0) == batches(stream, 0) != batches(stream, 1)
    assert batches(ResumableStream(Noisy(), batch_size=5, seed=1), 0) != batches(stream, 0)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("source", [*SOURCES, "noise"])
def test_it_resumes_from_every_batch_in_a_plain_loop(source, num_workers):
    make = SOURCES.get(source, Noisy)
    stream, states, served = ResumableStream(make(), batch_size=7, num_workers=num_workers), [], []
    for epoch in range(2):
        for batch in stream:
            states.append(stream.state_dict())
            served.append(batch.tolist())
        assert stream.sampler.epoch == epoch + 1
    for position, state in list(enumerate(states))[:: 3 if num_workers else 1]:
        resumed = ResumableStream(make(), batch_size=7, num_workers=num_workers)
        resumed.load_state_dict(state)
        rest = [batch.tolist() for batch in resumed]
        if position < 7:
            rest += [batch.tolist() for batch in resumed]
        assert rest == served[position + 1 :]


def test_a_source_with_a_state_is_not_read_again():
    stream, taken = ResumableStream(Counting(), batch_size=20), []
    for batch in stream:
        taken.append(batch.tolist())
        state = stream.state_dict()
        break
    source = Counting()
    resumed = ResumableStream(source, batch_size=20)
    resumed.load_state_dict(state)
    taken += [batch.tolist() for batch in resumed]
    assert list(chain(*taken)) == list(range(SAMPLES))
    assert source.asked < SAMPLES - 20 + 16  # what was read ahead at most


def test_a_batch_before_the_last_served_can_be_sought():
    stream = ResumableStream(range(SAMPLES), batch_size=4)
    served = [batch.tolist() for _, batch in zip(range(5), stream, strict=False)]
    state = stream.state_dict()
    stream.load_state_dict(state)
    stream.seek(0, 3)
    assert next(iter(stream)).tolist() == served[3]
    with pytest.raises(ValueError, match="cannot begin with batch 1 of epoch 0"):
        stream.seek(0, 1)


def on_processes(sources, **settings):
    """The batches of each process, a thread here; what they agree on is gathered as `all_gather` would."""
    processes, local = len(sources), threading.local()
    streams, found = [ResumableStream(source, **settings) for source in sources], [[] for _ in sources]
    barrier, shared = threading.Barrier(processes), [None] * processes

    def gather(*own):
        shared[local.rank] = own
        barrier.wait(20)
        all_of_them = list(shared)
        barrier.wait(20)
        return all_of_them

    def run(rank):
        local.rank = rank
        for batch in streams[rank]:
            found[rank].append(batch.tolist())

    with (
        mock.patch("lightning_gap.data._stream_processes._of_all", gather),
        mock.patch("lightning_gap.data._planned_loader._processes", side_effect=lambda: (processes, local.rank)),
    ):
        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(processes)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    return found


@pytest.mark.promise("samples")
@pytest.mark.parametrize("samples", [40, 41, 42, 43])
def test_processes_have_equally_many_batches_and_each_sample_comes_once(samples):
    found = on_processes([range(samples)] * 3, batch_size=4)
    assert len({len(batches) for batches in found}) == 1
    assert sorted(i for batches in found for batch in batches for i in batch) == list(range(samples))
    together = [sorted(chain(*parts)) for parts in zip(*found, strict=True)]
    assert list(chain(*together)) == list(range(samples))  # the batches of one process, shared out
    assert {len(batch) for batch in together[:-1]} == {12}


def uneven(epoch, shard, shards):
    return iter(torch.arange(10 if shard else 4))


def test_a_stream_that_ends_early_on_one_process_ends_the_epoch_for_all_and_says_so():
    with pytest.warns(UserWarning, match="ended on process 0 before the others in epoch 0; .* left out"):
        found = on_processes([uneven] * 2, batch_size=3, reseed=False)
    assert found == [[[0, 1, 2], [3]], [[0, 1, 2], [3, 4, 5, 6]]]


def test_drop_last_serves_full_batches_alone():
    assert [len(b) for b in batches(ResumableStream(range(11), batch_size=4, drop_last=True))] == [4, 4]
    assert on_processes([range(9)] * 2, batch_size=2, drop_last=True) == [[[0, 2], [4, 6]], [[1, 3], [5, 7]]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ResumableStream(5, batch_size=2), "source must be .* got 5"),
        (lambda: ResumableStream("text", batch_size=2), "source must be"),
        (lambda: ResumableStream(iter([1, 2]), batch_size=2), "source .* not an iterator"),
        (lambda: ResumableStream(range(5), batch_size=0), "batch_size must be .* got 0"),
        (lambda: ResumableStream(range(5), batch_size=2, num_workers=-1), "num_workers"),
        (lambda: ResumableStream(range(5), batch_size=2).load_state_dict({"epoch": 1}), "another loader"),
    ],
)
@pytest.mark.bad_input(31)
def test_what_cannot_be_a_stream_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_state_of_other_settings_is_refused_inside_an_epoch_alone():
    stream = ResumableStream(range(SAMPLES), batch_size=4, seed=3)
    at_start = stream.state_dict()
    next(iter(stream))
    inside = stream.state_dict()
    other = ResumableStream(range(SAMPLES), batch_size=4, seed=4)
    with pytest.raises(ValueError, match="inside an epoch with seed=3, this loader has seed=4"):
        other.load_state_dict(inside)
    other.load_state_dict(at_start)
    assert batches(other) == batches(ResumableStream(range(SAMPLES), batch_size=4))


class Draws(tiny.TinyClassifier):
    def training_step(self, batch, batch_idx):
        ids = batch[:, 0] if batch.dim() == 2 else batch
        return super().training_step(
            (torch.sin(ids.float()[:, None] * torch.arange(1.0, 9)), ids.long() % 3), batch_idx
        )


class Reads(Draws):
    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches  # which makes the loader too soon
        return super().configure_optimizers()


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize("source", ["state", "noise"])
def test_a_trainer_resumes_from_every_batch_to_the_bit(tmp_path, source, reads):
    """Where Lightning has fetched the next batch already, and where it loses the state of the loader (20550)."""

    def run(*more, **fit):
        module = (Reads if reads else Draws)()
        trainer = tiny.trainer(ResumeExactly(), *more, max_epochs=-1, max_steps=8)
        trainer.fit(module, ResumableStream(SOURCES.get(source, Noisy)(), batch_size=8), **fit)
        return tiny.state_of(module)

    class Saves(Callback):
        def on_train_batch_end(self, trainer, *rest):
            trainer.save_checkpoint(tmp_path / f"{trainer.global_step}.ckpt")

    whole = run(Saves())
    for step in range(1, 9):
        assert tiny.same(run(ckpt_path=tmp_path / f"{step}.ckpt"), whole), step
