import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_gap.functional import AccumulationWindow

MICRO_BATCHES = st.lists(st.tuples(st.integers(0, 500), st.integers(1, 16)), min_size=1, max_size=12)


@given(st.lists(MICRO_BATCHES, min_size=1, max_size=4), st.randoms())
def test_every_sample_of_every_process_weighs_one_over_their_number(processes, random):
    """Each micro-batch: its samples, which may be none, and what the loop happens to divide its loss by."""
    total = sum(samples for batches in processes for samples, _ in batches)
    of_one_sample = []
    for batches in processes:
        window = AccumulationWindow()
        weights = [window.add(samples, divisor=divisor) for samples, divisor in batches]
        scale = window.finish(total, processes=len(processes))
        for weight, (samples, divisor) in zip(weights, batches, strict=True):
            if samples:
                of_one_sample.append(weight * scale / divisor / samples / len(processes))
            else:
                assert weight == 0
        assert scale > 0 or total == 0 or not any(samples for samples, _ in batches)
    assert of_one_sample == pytest.approx([1 / max(1, total)] * len(of_one_sample), rel=1e-12)


@given(st.integers(1, 4096), st.integers(1, 64), st.integers(1, 64))
def test_a_full_window_of_equal_parts_changes_nothing_at_all(samples, micro_batches, processes):
    window = AccumulationWindow()
    assert {window.add(samples, divisor=micro_batches) for _ in range(micro_batches)} == {1.0}
    assert window.finish(samples * micro_batches * processes, processes=processes) == 1.0


@pytest.mark.parametrize("samples", [-1, float("nan"), float("inf")])
def test_what_is_no_number_of_samples_is_refused(samples):
    with pytest.raises(ValueError, match="samples must be a number, at least 0"):
        AccumulationWindow().add(samples, divisor=1)
