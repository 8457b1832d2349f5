import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_gap.functional import largest_harmless_factor


@given(st.dictionaries(st.sampled_from([2, 4, 8, 16, 32]), st.floats(1, 2) | st.just(math.nan)), st.floats(1, 2))
def test_the_choice_is_that_of_the_definition(others, first):
    losses = {1: first, **others}
    known = {k: loss for k, loss in losses.items() if not math.isnan(loss)}
    expected = max(k for k in known if all(known[k] <= known[j] + 0.1 for j in known if j < k))
    assert largest_harmless_factor(losses, tolerance=0.1) == expected


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({2: 1.0}, "losses must have a finite loss of factor 1"),
        ({1: math.nan, 2: 1.0}, "losses must have a finite loss"),
        ({1: 1.0, 0: 1.0}, "a factor of losses must be .* at least 1, got 0"),
    ],
)
def test_losses_that_cannot_be_compared_are_refused(losses, message):
    with pytest.raises(ValueError, match=message):
        largest_harmless_factor(losses)
