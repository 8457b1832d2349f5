"""Batch sizes that change inside epochs, on one process and two, with workers and without: what each step had."""

from itertools import chain

import processes
import pytest
import tiny
import torch
import units_on_processes as training


def run(folder, mode, ranks, number):
    processes.run(training.__file__, folder, mode, ranks, number, ranks=ranks)
    return [torch.load(folder / f"{mode}-{ranks}-{rank}.pt") for rank in range(ranks)]


def expected_sizes(unit):
    sizes, consumed = [], 0
    for _ in range(2):
        left = training.SAMPLES
        while left:
            size = min(left, [size for begin, size in training.SCHEDULES[unit].items() if begin <= consumed][-1])
            sizes.append(size)
            left -= size
            consumed += {"steps": 1, "samples": size, "tokens": size * training.LENGTH}[unit]
    return sizes


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((1, 2), marks=pytest.mark.slow),  # on one process without workers: test_batch_size_units.py
        (2, 0),
        pytest.param((2, 2), marks=pytest.mark.slow),
    ],
    ids=str,
)
def followed(request, tmp_path_factory):
    ranks, num_workers = request.param
    if ranks == 1:
        return [training.follow(1, num_workers)]
    return run(tmp_path_factory.mktemp("follow"), "follow", ranks, num_workers)


@pytest.mark.promise("samples")
@pytest.mark.parametrize("unit", training.SCHEDULES)
@pytest.mark.parametrize("kind", training.KINDS)
def test_each_step_has_its_size_and_each_sample_comes_once(followed, kind, unit):
    ranks = [found[kind, unit] for found in followed]
    together = [list(chain(*(step for _, step in steps))) for steps in zip(*(r["steps"] for r in ranks), strict=True)]
    assert [len(step) for step in together] == expected_sizes(unit)
    for epoch in range(2):
        own = [step for (e, _), step in zip(ranks[0]["steps"], together, strict=True) if e == epoch]
        assert sorted(chain(*own)) == list(range(training.SAMPLES))
    for rank in ranks[1:]:
        assert all(torch.equal(rank["weights"][name], weight) for name, weight in ranks[0]["weights"].items())


@pytest.mark.promise("killed")
@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_processes_resume_from_every_step_to_the_bit(tmp_path, num_workers):
    for rank in run(tmp_path, "resume", 2, num_workers):
        for kind in ("ResumableLoader", "ResumableStream"):
            whole = rank[kind, None]
            for step in range(len(whole["steps"])):
                assert rank[kind, step]["steps"] == whole["steps"][step + 1 :]
                assert tiny.same(rank[kind, step]["weights"], whole["weights"]), (kind, step)


@pytest.mark.promise("processes")
@pytest.mark.parametrize(("ranks", "accumulate"), [(2, 4), pytest.param(4, 2, marks=pytest.mark.slow)])
def test_processes_and_micro_batches_train_a_transformer_as_one(tmp_path, ranks, accumulate):
    alone = training.same(1, 8)
    for found in run(tmp_path, "same", ranks, accumulate):
        assert found["steps"] == alone["steps"]
        for name, weight in alone["weights"].items():
            assert float((found["weights"][name] - weight).abs().max()) <= 1e-12, name
    start = training.Transformer().state_dict()
    assert max(float((weight - start[name]).abs().max()) for name, weight in alone["weights"].items()) > 1e-2


@pytest.mark.promise("memory")
def test_a_process_that_runs_out_of_memory_makes_all_split_alike_for_the_same_weights(tmp_path):
    alone = training.auto(1)
    assert alone["largest"] == 16
    for found in run(tmp_path, "auto", 2, 0):
        assert found["largest"] == 2  # 8, 4 and then at most 2 on each
        for name, weight in alone["weights"].items():
            torch.testing.assert_close(found["weights"][name], weight, rtol=1e-12, atol=1e-12)
