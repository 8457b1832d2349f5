import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_gap.functional import weight_quantiles


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=9), min_size=1, max_size=4))
def test_the_quantiles_are_numpys(values):
    levels = (0.0, 0.05, 0.5, 0.95, 1.0)
    found = weight_quantiles([torch.tensor(v) for v in values], levels)
    flat = np.abs(np.concatenate([np.float32(v) for v in values]))
    assert found == pytest.approx([np.quantile(flat, q, method="inverted_cdf") for q in levels])


def test_levels_and_weights_that_are_none_are_refused():
    with pytest.raises(ValueError, match=r"levels must be a number, at least 0 and at most 1, got 1\.5"):
        weight_quantiles([torch.ones(2)], [1.5])
    with pytest.raises(ValueError, match="weights is empty"):
        weight_quantiles([])
