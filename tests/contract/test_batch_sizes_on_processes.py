"""Batch sizes over time on several processes: what each sees, and that all of them train as one."""

import re
from itertools import chain

import batch_sizes_on_processes as training
import processes
import pytest
import torch


def run(folder, mode, ranks, *arguments):
    processes.run(training.__file__, folder, mode, ranks, *arguments, ranks=ranks)
    return [torch.load(folder / f"{mode}-{ranks}-{rank}.pt") for rank in range(ranks)]


@pytest.fixture(scope="module")
def followed(tmp_path_factory):
    return run(tmp_path_factory.mktemp("follow"), "follow", 2)


@pytest.mark.slow  # in `test_units_on_processes` sizes follow on two processes, inside epochs too
@pytest.mark.parametrize("name", training.SCHEDULES)
@pytest.mark.parametrize("source", training.SOURCES)
@pytest.mark.parametrize("loader", training.LOADERS)
def test_everything_follows_the_size_on_two_processes(followed, loader, source, name):
    ranks = [found[loader, source, name] for found in followed]
    for epoch in range(4):
        size = [size for begin, size in training.SCHEDULES[name].items() if begin <= epoch][-1]
        shares = [rank["seen"][epoch] for rank in ranks]
        assert [[len(batch) for batch in share] for share in shares] == [[size // 2] * (48 // size)] * 2
        assert sorted(chain(*shares[0], *shares[1])) == list(range(48))
        assert [rank["lengths"][epoch] for rank in ranks] == [48 // size] * 2
    orders = {tuple(chain(*ranks[0]["seen"][epoch])) for epoch in range(4)}
    assert len(orders) == 4  # shuffled anew in every epoch
    for rank in ranks:
        assert rank["validated"] == [0, 1, 2, 3]
        assert rank["rates"] == [0.05 * 0.5**epoch for epoch in range(1, 5)]


def test_a_weighted_sampler_keeps_its_weights_on_two_processes(followed):
    for seen in (rank["weighted"] for rank in followed):
        assert [[len(batch) for batch in seen[epoch]] for epoch in (0, 1)] == [[4] * 6, [8] * 3]
        assert all(index % 2 == 0 for epoch in seen.values() for batch in epoch for index in batch)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own batch sampler", "a Own as batch_sampler cannot be set on 2 processes, .* or a ResumableLoader"),
        ("odd size", "a batch of 17 cannot be shared equally by 2 processes"),
        ("too large", "a batch of 96 samples is larger than the 48 samples"),
        ("different", "BatchSizeScheduler has different settings on different processes"),
    ],
)
@pytest.mark.bad_input(37)
def test_what_cannot_work_is_refused_on_all_processes_before_the_first_step(followed, name, message):
    for steps, text in (rank["refused"][name] for rank in followed):
        assert steps == 0
        assert re.search(message, text)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return training.same(1, [1, 2, 4])


def apart(first, second, *, statistics):
    """Running statistics belong to each process; micro-batches of one share them."""
    names = [name for name in first if statistics or not any(kind in name for kind in ("running", "tracked"))]
    return max(float((first[name] - second[name]).abs().max()) for name in names)


@pytest.mark.promise("accumulation")
@pytest.mark.parametrize("kind", ["plain", "ghosts"])
def test_micro_batches_train_as_the_whole_batch(alone, kind):
    for accumulate in (2, 4):
        assert apart(alone[kind, 1], alone[kind, accumulate], statistics=True) <= 1e-12


@pytest.mark.promise("processes")
@pytest.mark.parametrize(("number", "accumulations"), [(2, (1, 4)), pytest.param(4, (1, 2, 4), marks=pytest.mark.slow)])
def test_processes_train_as_one(tmp_path, alone, number, accumulations):
    ranks = run(tmp_path, "same", number, *accumulations)
    start = training.Small(norm=False).state_dict()
    assert apart({f"net.{k}": v for k, v in alone["plain", 1].items()}, start, statistics=False) > 1e-2  # it did train
    for rank in ranks:
        for (kind, accumulate), state in rank.items():
            assert apart(alone[kind, 1], state, statistics=False) <= 1e-12, (kind, accumulate)


@pytest.mark.slow
def test_processes_decide_alike_and_much_as_one_alone_would(tmp_path):
    """They measure three of four micro-batches, the one alone all four: the same noise, by other samples."""
    alone, ranks = training.adapt(1), run(tmp_path, "adapt", 2)
    for every, expected in alone.items():
        first, second = (rank[every] for rank in ranks)
        assert first["seen"] == second["seen"]
        assert apart(first["weights"], second["weights"], statistics=True) == 0.0
        sizes = [int(size) for size, _ in first["seen"]]
        assert sizes[0] == 64 < sizes[-1] <= 512
        wanted = [sum(w for _, w in seen[15:]) / len(seen[15:]) for seen in (first["seen"], expected["seen"])]
        assert wanted[0] == pytest.approx(wanted[1], rel=0.3)
