import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_gap.data import BatchPlan

PLANS = st.builds(
    BatchPlan,
    samples=st.integers(8, 300),
    batch_size=st.integers(1, 40),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    processes=st.integers(1, 8),
)


def of_rank(plan, rank, **changes):
    terms = {name: getattr(plan, name) for name in ("samples", "batch_size", "shuffle", "seed", "processes")}
    return BatchPlan(**(terms | {"rank": rank} | changes))


@pytest.mark.promise("samples")
@settings(max_examples=1000)
@given(PLANS, st.integers(0, 200))
def test_over_all_processes_each_sample_comes_once_and_every_process_has_as_many_batches(plan, epoch):
    shares = [list(of_rank(plan, rank).batches(epoch)) for rank in range(plan.processes)]
    assert {len(batches) for batches in shares} == {len(plan)}
    assert sorted(int(i) for batches in shares for batch in batches for i in batch) == list(range(plan.samples))
    for batches in shares:
        assert [len(batch) for batch in batches[:-1]] == [plan.batch_size] * (len(plan) - 1)
        assert len(batches[-1]) >= 1
    last = [len(batches[-1]) for batches in shares]
    assert max(last) - min(last) <= 1


@given(PLANS, st.integers(0, 200))
def test_one_process_cuts_the_epoch_into_the_same_batches_as_many(plan, epoch):
    whole = list(BatchPlan(plan.samples, plan.samples_per_batch, plan.shuffle, plan.seed).batches(epoch))
    shares = [of_rank(plan, rank).batches(epoch) for rank in range(plan.processes)]
    together = [torch.cat(batches) for batches in zip(*shares, strict=True)]
    if plan.samples % plan.samples_per_batch >= plan.processes or len(whole) == len(together):
        assert all(torch.equal(a, b) for a, b in zip(whole, together, strict=True))
    else:  # a remainder too small to share
        assert torch.equal(torch.cat(whole), torch.cat(together))


@given(PLANS, st.integers(0, 50), st.integers(0, 300))
def test_a_pass_that_begins_later_goes_on_with_the_same_batches(plan, epoch, start):
    whole = list(plan.batches(epoch))
    rest = list(plan.batches(epoch, start))
    assert len(rest) == max(0, len(whole) - start)
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))
    assert [plan.size(position) for position in range(len(plan))] == [len(batch) for batch in whole]


@given(PLANS)
def test_drop_last_leaves_out_only_what_fills_no_batch(plan):
    if plan.samples < plan.samples_per_batch:
        with pytest.raises(ValueError, match=f"do not fill one of {plan.samples_per_batch}; use a smaller batch_size"):
            of_rank(plan, 0, drop_last=True)
        return
    kept = [of_rank(plan, rank, drop_last=True) for rank in range(plan.processes)]
    seen = [int(i) for one in kept for batch in one.batches(3) for i in batch]
    assert len(seen) == len(set(seen)) == plan.samples // plan.samples_per_batch * plan.samples_per_batch


def test_random_seeds_differ_between_epochs_positions_processes_seeds_and_purposes():
    plans = [BatchPlan(64, 4, seed=seed, processes=2, rank=rank) for seed in range(4) for rank in range(2)]
    drawn = [(plan, epoch, position) for plan in plans for epoch in range(20) for position in range(8)]
    seeds = [plan.random_seed(epoch, position, use) for plan, epoch, position in drawn for use in ("a", "b")]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"samples": 0}, "samples must be a whole number of samples, at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number of samples, at least 1, got 2.5"),
        ({"processes": True}, "processes must be a whole number of processes, at least 1, got True"),
        ({"rank": 2, "processes": 2}, "rank must be a whole number, at most 1, got 2"),
        ({"seed": None}, "seed must be a whole number, at least 0, got None"),
        ({"samples": 3, "processes": 4}, "3 samples cannot be shared by 4 processes"),
    ],
)
@pytest.mark.bad_input(31)
def test_a_plan_that_cannot_be_is_refused(terms, message):
    with pytest.raises(ValueError, match=message):
        BatchPlan(**({"samples": 10, "batch_size": 2} | terms))
