import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_gap.functional import Seesaw, planned_optimizer_steps

RATES = {
    "cosine": lambda s: math.cos(math.pi * s / 2),
    "half_cosine": lambda s: (1 + math.cos(math.pi * s)) / 2,
    "linear": lambda s: 1 - s,
}


@given(
    st.sampled_from(sorted(RATES)),
    st.floats(1.05, 4.0),
    st.integers(0, 9_999),
    st.sampled_from(["adam", "sgd"]),
    st.sampled_from([1 << 12, 1 << 20]),
)
def test_rate_and_batch_keep_what_the_optimizer_sees_of_the_decay(decay, factor, consumed, optimizer, most):
    batch = Seesaw(1 << 10, most, total=10_000, decay=decay, factor=factor, optimizer=optimizer)(consumed)
    rate, ratio = batch.learning_rate_factor, batch.batch_size / 1024
    kept = rate / math.sqrt(ratio) if optimizer == "adam" else rate / ratio
    base = RATES[decay](consumed / 10_000)
    assert base * (1 - 1e-6) <= kept <= base * factor * (1 + 1e-6)  # the base schedule, in cuts of the factor
    assert kept == pytest.approx(factor ** -round(math.log(1 / kept, factor)))
    assert batch.batch_size <= most


def test_one_cut_divides_the_rate_by_the_root_and_multiplies_the_batch():
    adam, sgd = (Seesaw(100, 10_000, 300, factor=4.0, decay="linear", optimizer=name) for name in ("adam", "sgd"))
    assert [(grow(225).batch_size, grow(225).learning_rate_factor) for grow in (adam, sgd)] == [(400, 0.5), (400, 1.0)]
    capped = Seesaw(100, 200, 300, factor=4.0, decay="linear")(225)
    assert capped.learning_rate_factor == pytest.approx(0.25 * math.sqrt(2))


@pytest.mark.parametrize(
    ("decay", "factor", "saved"),
    [("cosine", 1.001, 1 - 2 / math.pi), ("cosine", 2.0, 0.220), ("cosine", 1.1, 0.338), ("half_cosine", 1.001, 0.5)],
)
def test_it_saves_as_many_steps_as_the_paper_says(decay, factor, saved):
    """A run of equal samples, counted step by step, against the closed form and frontier values."""
    samples = 2_000_000
    grow = Seesaw(400, samples, total=samples, decay=decay, factor=factor)
    steps = planned_optimizer_steps(grow, samples=samples, epochs=1, unit="samples")
    assert 1 - steps / (samples / 400) == pytest.approx(saved, abs=1.5e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": 1.0}, "factor must be .* above 1, got 1.0"),
        ({"max_batch_size": 4}, "max_batch_size=4 is below batch_size=8"),
        ({"total": 0}, "total must be a whole number"),
        ({"decay": "step"}, "decay .*'step'"),
        ({"optimizer": "lion"}, "optimizer .*'lion'"),
        ({"multiple_of": 3}, "batch_size=8 must be a multiple of multiple_of=3"),
    ],
)
def test_what_cannot_be_a_seesaw_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Seesaw(**{"batch_size": 8, "max_batch_size": 64, "total": 100} | change)


@pytest.mark.parametrize("rate", [0.0, -1.0, 1.5, None, True])
def test_a_decay_of_your_own_must_stay_between_0_and_1(rate):
    with pytest.raises(ValueError, match=r"decay at 0\.5 of the run must be a number above 0"):
        Seesaw(8, 64, total=2, decay=lambda share: rate)(1)
