import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_gap.functional import EpochBatch, batch_at, schedule_from_text
from lightning_gap.functional.batch_size.units import tokens_in


def test_megatrons_text_is_read_as_its_documentation_says():
    assert schedule_from_text("0:768 250B:1536") == {0: 768, 250 * 10**9: 1536}
    assert schedule_from_text(" 0:1  2k:2 3M:4 5T:1 ") == {0: 1, 2_000: 2, 3 * 10**6: 4, 5 * 10**12: 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:768 250G:1536", "THRESHOLD:BATCH, got '250G:1536'.* K, M, B, T"),
        ("0:768 250B", "THRESHOLD:BATCH, got '250B'"),
        ("0:7.5", "THRESHOLD:BATCH, got '0:7.5'"),
        ("1K:8", "begins at 1000 samples or tokens; say the batch size at 0 too"),
        ("0:8 2K:16 1K:32", r"rising order, .* got \(0, 2000, 1000\)"),
        ("0:8 1K:16 1000:32", "threshold 1000 twice"),
        ("0:8 1K:0", "schedule at 1000 samples or tokens must be a whole number of samples"),
        ("", "schedule"),
    ],
)
def test_other_text_is_refused_by_its_entry(text, message):
    with pytest.raises(ValueError, match=message):
        schedule_from_text(text)


@given(st.dictionaries(st.integers(1, 10**6), st.integers(1, 4096), max_size=5), st.integers(0, 10**6))
def test_a_threshold_that_is_reached_has_begun(later, consumed):
    schedule = {0: 7} | dict(sorted(later.items()))
    reached = [size for threshold, size in schedule.items() if consumed >= threshold]
    assert batch_at(schedule, "samples")(consumed) == EpochBatch(reached[-1])


def test_a_function_is_asked_what_was_consumed_and_checked_there():
    assert batch_at(lambda steps: 8 + steps, "steps")(3) == EpochBatch(11)
    with pytest.raises(ValueError, match="schedule at 3 steps must be a whole number of samples, at least 1, got 0"):
        batch_at(lambda steps: 3 - steps, "steps")(3)
    with pytest.raises(ValueError, match=r"unit .*'batches'"):
        batch_at({0: 8}, "batches")


LONG = torch.zeros(4, 16, dtype=torch.long)


@pytest.mark.parametrize(
    ("batch", "tokens"),
    [
        (LONG, 64),
        ((LONG, LONG.int()), 64),
        ({"ids": LONG, "mask": torch.ones(4, 16, dtype=torch.bool), "weights": torch.ones(4)}, 64),
        ([LONG, torch.zeros(4, dtype=torch.long)], 64),
        ((LONG, LONG[:, 1:]), None),  # of two lengths: which counts?
        ((torch.zeros(4, 16), torch.zeros(4, dtype=torch.long)), None),
        (torch.zeros(4, 16, 3, dtype=torch.long), None),
        ([], None),
    ],
)
def test_tokens_are_told_only_where_they_are_certain(batch, tokens):
    assert tokens_in(batch) == tokens
