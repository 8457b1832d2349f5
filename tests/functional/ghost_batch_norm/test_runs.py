import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_gap.functional import ghost_runs


@pytest.mark.parametrize(
    ("samples", "size", "leftover", "positions", "runs"),
    [
        (1024, 128, "merge", 1, ((8, 128),)),
        (1000, 128, "merge", 1, ((7, 128), (1, 104))),
        (129, 128, "merge", 1, ((1, 129),)),
        (129, 128, "merge", 4, ((1, 128), (1, 1))),  # one sample, four values per channel: a ghost of its own
        (257, 128, "merge", 1, ((1, 128), (1, 129))),
        (101, 10, "merge", 1, ((9, 10), (1, 11))),
        (9, 4, "merge", 1, ((1, 4), (1, 5))),
        (127, 128, "merge", 1, ((1, 127),)),
        (1, 4, "merge", 1, ((1, 1),)),
        (0, 4, "merge", 1, ((1, 0),)),
        (1000, 128, "balance", 1, ((8, 125),)),
        (20, 8, "balance", 1, ((2, 7), (1, 6))),  # 2.5 ghosts are three
        (11, 8, "balance", 1, ((1, 11),)),
        (3, 2, "balance", 1, ((1, 3),)),  # two ghosts would leave one of a single value
        (3, 2, "balance", 4, ((1, 2), (1, 1))),
        (1024, 128, "error", 1, ((8, 128),)),
        (4, 1, "merge", 9, ((4, 1),)),
    ],
)
@pytest.mark.bad_input(4)
def test_leftovers_go_where_the_policy_says(samples, size, leftover, positions, runs):
    assert ghost_runs(samples, size, leftover, positions=positions) == runs


@given(
    samples=st.integers(1, 5000),
    size=st.integers(1, 600),
    leftover=st.sampled_from(["merge", "balance"]),
    positions=st.sampled_from([1, 9]),
)
def test_every_sample_is_in_one_ghost_that_has_a_variance(samples, size, leftover, positions):
    if size * positions == 1 and samples > 1:
        size = 2
    sizes = [length for count, length in ghost_runs(samples, size, leftover, positions=positions) for _ in range(count)]
    assert sum(sizes) == samples
    assert samples == 1 or all(length * positions > 1 for length in sizes)
    if leftover == "balance":
        assert max(sizes) - min(sizes) <= 1
        assert len(sizes) in {max(1, samples // size), samples // size + 1, samples // 2}
    else:
        assert all(length == size for length in sizes[:-1])


@pytest.mark.parametrize("samples", [1000, 5])
def test_a_leftover_can_be_refused(samples):
    with pytest.raises(
        ValueError, match=rf"a batch of {samples} samples leaves .* ghost_batch_size=128 .*drop_last=True"
    ):
        ghost_runs(samples, 128, "error")


@pytest.mark.bad_input(2)
def test_ghosts_of_a_single_value_are_refused():
    with pytest.raises(ValueError, match=r"Expected more than 1 value per channel.*ghost_batch_size=1.*at least 2"):
        ghost_runs(4, 1)


@pytest.mark.parametrize("size", [0, -4, 2.5, True])
@pytest.mark.bad_input(1)
def test_a_size_that_cannot_be_is_refused(size):
    with pytest.raises(ValueError, match=f"ghost_batch_size must be .* got {size}"):
        ghost_runs(10, size)


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="leftover must be one of 'merge', 'balance', 'error', got 'drop'"):
        ghost_runs(10, 4, "drop")
