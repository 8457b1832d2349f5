from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_gap.functional import LateSwitch, LinearRamp


def test_the_ramp_of_megatrons_documentation():
    """[16, 8, 300000] to 1024: 126 increments of 2380.95 samples."""
    ramp = LinearRamp(16, 1024, increment=8, ramp=300_000)
    sizes = [ramp(samples) for samples in range(300_001)]
    changes = [samples for samples in range(1, 300_001) if sizes[samples] != sizes[samples - 1]]
    assert len(changes) == 126
    assert changes[-1] / 126 == pytest.approx(2380.95, abs=0.01)
    assert [ramp(samples) for samples in (0, 2380, 2381, 300_000, 10**9)] == [16, 16, 24, 1024, 1024]


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50), st.integers(1, 10**9), st.integers(0, 10**10))
def test_the_ramp_is_megatrons_formula(start, increment, increments, ramp, consumed):
    end = start + increments * increment
    passed = Fraction(consumed) // (Fraction(ramp) / increments)
    assert LinearRamp(start, end, increment=increment, ramp=ramp)(consumed) == min(end, start + increment * passed)


@given(st.integers(1, 10**12), st.sampled_from([0.25, 0.5, 0.75]))
def test_the_switch_comes_when_its_share_is_consumed(total, share):
    switch = LateSwitch(2, 5, total, share=share)
    first = -(-total * Fraction(share) // 1)
    assert (switch(max(0, int(first) - 1)), switch(int(first))) == (2 if first else 5, 5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LinearRamp(16, 16, 8, 100), "max_batch_size=16 must be"),  # where Megatron divides by zero
        (lambda: LinearRamp(16, 30, 8, 100), "max_batch_size=30 must be .* for instance 24"),
        (lambda: LinearRamp(16, 32, 0, 100), "increment must be a whole number"),
        (lambda: LinearRamp(16, 32, 8, 0), "ramp must be a whole number"),
        (lambda: LateSwitch(8, 16, 100, share=1.0), "share must be .* got 1.0"),
        (lambda: LateSwitch(8, 16, 0), "total must be a whole number"),
    ],
)
def test_what_cannot_be_planned_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
