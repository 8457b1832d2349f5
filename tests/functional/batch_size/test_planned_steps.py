import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_gap.data import BatchPlan
from lightning_gap.functional import EpochBatch, MicroBatching, batch_at, planned_optimizer_steps
from lightning_gap.functional.batch_size.planned_steps import planned_steps

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=4)


@given(SIZES, st.integers(1, 300), st.integers(0, 200), st.booleans(), st.sampled_from(["steps", "samples"]))
def test_steps_are_those_of_a_loop_that_counts(sizes, samples, consumed, drop_last, unit):
    at = batch_at({25 * i: size for i, size in enumerate(sizes)}, unit)
    expected, left = [], samples
    while left:
        size = min(at(consumed).batch_size, left)
        if drop_last and size < at(consumed).batch_size:
            break
        expected.append((consumed, samples - left, size))
        left -= size
        consumed += 1 if unit == "steps" else size
    start = expected[0][0] if expected else consumed
    found = planned_steps(
        at,
        lambda size: MicroBatching(size, 1),
        consumed=start,
        per_step=int(unit == "steps"),
        per_sample=int(unit == "samples"),
        samples=samples,
        drop_last=drop_last,
    )
    assert [step[:3] for step in found] == expected


@example(3, 2, [13, 1], 3, True)  # the last step ends before the size falls: what is left is of its size, and left out
@given(st.integers(1, 4), st.integers(1, 4), SIZES, st.integers(0, 200), st.booleans())
def test_the_micro_batches_are_those_of_a_batch_plan(processes, accumulate, sizes, more, drop_last):
    """The plan that a loader is given cuts the epoch into the batches that the steps say."""
    schedule = {0: sizes[0]} | {31 * i + 7: size for i, size in enumerate(sizes)}
    samples = processes * max(sizes) + more
    steps = list(
        planned_steps(
            lambda consumed: EpochBatch(batch_at(schedule, "samples")(consumed).batch_size),
            lambda size: MicroBatching(size, accumulate),
            consumed=0,
            per_sample=1,
            samples=samples,
            processes=processes,
            drop_last=drop_last,
        )
    )
    later = [(step.samples_before, step.split.micro_batch_size) for step in steps[1:]]
    served = sum(step.samples for step in steps)
    if not steps or steps[-1].micro_batches == accumulate:  # drop_last=True may leave out what no more fills a batch
        later.append((served, batch_at(schedule, "samples")(served).batch_size))
    plans = [
        BatchPlan(samples, sizes[0], drop_last=drop_last, processes=processes, rank=rank, later_sizes=later)
        for rank in range(processes)
    ]
    position = 0
    for step in steps:
        own = [sum(plan.size(position + i) for plan in plans) for i in range(step.micro_batches)]
        assert sum(own) == step.samples
        assert set(own[:-1]) <= {step.split.micro_batch_size * processes}
        assert plans[0].samples_before(position) == step.samples_before
        position += step.micro_batches
    assert position == len(plans[0])


def test_a_run_has_as_many_steps_as_its_schedule_in_any_unit():
    assert planned_optimizer_steps({0: 10, 5: 50}, samples=100, epochs=2, unit="steps") == 5 + 1 + 2
    assert planned_optimizer_steps({0: 10, 60: 50}, samples=100, epochs=1, unit="samples") == 6 + 1
    by_tokens = planned_optimizer_steps({0: 10, 60 * 8: 50}, samples=100, epochs=1, unit="tokens", tokens_per_sample=8)
    assert by_tokens == 7
    with pytest.raises(ValueError, match=r"tokens_per_sample .* got None"):
        planned_optimizer_steps({0: 10}, samples=100, epochs=1, unit="tokens")
