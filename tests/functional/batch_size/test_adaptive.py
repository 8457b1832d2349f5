import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_gap.functional import BatchSizeTest, gradient_statistics, next_batch_size

MEAN, STD, N = 0.1, 2.0, 50  # single samples' gradients: N numbers with this mean and standard deviation
TRACE, LENGTH = N * STD**2, N * MEAN**2


def steps(count, batch, micro=8, *, seed=0):
    """Statistics of micro-batches of samples drawn from the known distribution."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        small = MEAN + STD / math.sqrt(micro) * torch.randn(batch // micro, N, generator=generator, dtype=torch.float64)
        yield gradient_statistics(list(small), samples_each=micro)


def test_each_test_asks_for_what_the_known_distribution_gives():
    batch = 64
    length = LENGTH + TRACE / batch  # the mean of |g_S|^2
    norm, noise_scale, cabs = (
        BatchSizeTest(name, theta=0.5, smoothing=0.9999) for name in ("norm", "noise_scale", "cabs")
    )
    for statistics in steps(8000, batch):
        for test in (norm, noise_scale, cabs):
            test.update(statistics, batch_size=batch, learning_rate=0.1, loss=4.0)
    assert norm.batch_size == pytest.approx(TRACE / (0.25 * length), rel=0.03)
    assert noise_scale.batch_size == pytest.approx(TRACE / LENGTH, rel=0.05)
    assert cabs.batch_size == pytest.approx(0.1 * TRACE / 4.0, rel=0.03)


def test_on_a_step_that_is_all_there_is_it_asks_for_the_papers_sizes():
    """Written out from Byrd et al. and Bollapragada et al., for one batch of which all gradients are known."""
    (statistics,) = steps(1, 64)
    generator = torch.Generator().manual_seed(0)
    small = MEAN + STD / math.sqrt(8) * torch.randn(8, N, generator=generator, dtype=torch.float64)
    mean = small.mean(0)
    variance = 8 * ((small - mean) ** 2).sum() / 7
    along = 8 * ((small @ mean - mean @ mean) ** 2).sum() / 7
    rest = small - torch.outer(small @ mean / (mean @ mean), mean)
    across = 8 * (rest**2).sum() / 7
    norm, inner = variance / (0.49 * mean @ mean), along / (0.49 * (mean @ mean) ** 2)
    for name, expected in {
        "norm": norm,
        "inner_product": inner,
        "augmented": max(inner, across / (0.04 * mean @ mean)),
    }.items():
        test = BatchSizeTest(name, theta=0.7, nu=0.2)
        test.update(statistics, batch_size=64)
        assert test.batch_size == pytest.approx(float(expected), rel=1e-9), name


def test_a_part_of_the_batch_tells_of_the_whole():
    """As on several processes, where one micro-batch of each is left out."""
    test = BatchSizeTest("norm", theta=0.5, smoothing=0.9995)
    for statistics in steps(2000, 48):
        test.update(statistics, batch_size=64)
    assert test.batch_size == pytest.approx(TRACE / (0.25 * (LENGTH + TRACE / 64)), rel=0.03)


def test_what_is_not_finite_is_left_out_and_the_state_goes_on():
    first, second = BatchSizeTest("norm"), BatchSizeTest("norm")
    assert math.isnan(first.batch_size)
    for index, statistics in enumerate(steps(6, 64)):
        first.update(statistics, batch_size=64)
        if index == 2:
            broken = gradient_statistics([torch.full((N,), math.inf), torch.zeros(N)], samples_each=8)
            first.update(broken, batch_size=16)
            second.load_state_dict(first.state_dict())
        elif index > 2:
            second.update(statistics, batch_size=64)
    assert first.batch_size == second.batch_size > 0


SIZES = st.integers(1, 4096)


@given(st.floats(0.1, 1e7), SIZES, SIZES, SIZES, st.integers(1, 64), st.floats(1.01, 8), st.booleans())
def test_the_next_size_keeps_to_all_its_bounds(wanted, a, b, c, multiple, growth, monotone):
    smallest, current, largest = sorted(multiple * size for size in (a, b, c))
    size = next_batch_size(
        wanted, current, smallest=smallest, largest=largest, multiple_of=multiple, max_growth=growth, monotone=monotone
    )
    assert size % multiple == 0
    assert smallest <= size <= largest
    assert size <= max(current, growth * current)
    assert size >= (current if monotone else current / growth - 1e-9)
    if current <= wanted <= min(largest, int(growth * current) // multiple * multiple):
        assert wanted <= size < wanted + multiple


def test_an_unknown_need_changes_nothing():
    assert next_batch_size(math.nan, 48, smallest=16, largest=64) == 48


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test": "gut"}, "test must be one of 'norm', 'inner_product', 'augmented', 'cabs', 'noise_scale', got 'gut'"),
        ({"theta": 0}, "theta must be a positive number, got 0"),
        ({"nu": math.nan}, "nu must be a positive number, got nan"),
        ({"smoothing": 1.0}, "smoothing must be a number, at least 0 and below 1"),
    ],
)
def test_a_test_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        BatchSizeTest(**({"test": "norm"} | arguments))
