import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_gap.functional import RandomSubspace, sharpness
from lightning_gap.functional.sharpness import random_subspace as module
from lightning_gap.functional.sharpness.random_subspace import SubspaceBasis


def tensors(*shapes, dtype=torch.float64):
    return [
        torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate(shapes)
    ]


def dense(basis, p):
    """``A``, shape (n, p), column by column from what it makes of the unit vectors."""
    columns = [torch.cat([part.flatten() for part in basis.expand(e)]) for e in torch.eye(p, dtype=torch.float64)]
    return torch.stack(columns, 1)


shapes_and_dimension = st.tuples(st.lists(st.integers(1, 20), min_size=1, max_size=4), st.integers(1, 12)).filter(
    lambda drawn: sum(drawn[0]) > drawn[1]
)


@settings(max_examples=40, deadline=None)
@given(shapes_and_dimension, st.integers(0, 1000), st.sampled_from([1.0, 0.25, 3.0]))
def test_the_basis_is_one_signed_entry_a_row_in_columns_of_equal_shares(drawn, seed, scale):
    shapes, p = drawn
    n = sum(shapes)
    basis = SubspaceBasis(RandomSubspace(p, seed, scale), tensors(*shapes))
    a = dense(basis, p)
    assert bool(((a != 0).sum(1) == 1).all())
    torch.testing.assert_close(a.abs().sum(1), torch.full((n,), scale * math.sqrt(p), dtype=torch.float64))
    counts = (a != 0).sum(0)
    assert {int(count) for count in counts} <= {n // p, math.ceil(n / p)}
    gram = a.T @ a
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), rtol=0, atol=1e-12)
    assert float((a**2).mean() * p) == pytest.approx(scale**2 * p)  # mean square of all n * p entries is scale^2
    if n % p == 0:
        torch.testing.assert_close(a.norm(dim=0), torch.full((p,), scale * math.sqrt(n), dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(shapes_and_dimension, st.integers(0, 1000), st.sampled_from([1.0, 0.25]))
def test_projecting_is_the_transpose_and_coordinates_are_the_pseudo_inverse(drawn, seed, scale):
    shapes, p = drawn
    x = tensors(*shapes)
    basis = SubspaceBasis(RandomSubspace(p, seed, scale), x)
    a, flat = dense(basis, p).numpy(), torch.cat(x).numpy()
    np.testing.assert_allclose(basis.project(x).numpy(), a.T @ flat, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(basis.coordinates(x).numpy(), np.linalg.pinv(a) @ flat, rtol=1e-10, atol=1e-12)


def test_shapes_and_dtypes_are_those_of_the_weights():
    weights = [torch.randn(2, 3, 4), torch.randn(5, dtype=torch.float64), torch.randn(())]
    basis = SubspaceBasis(RandomSubspace(3), weights)
    parts = list(basis.expand(torch.ones(3, dtype=torch.float64)))
    assert [part.shape for part in parts] == [weight.shape for weight in weights]
    assert [part.dtype for part in parts] == [weight.dtype for weight in weights]
    assert basis.project(weights).dtype == torch.float64
    assert basis.project(weights).shape == (3,)


def test_layout_in_memory_does_not_matter():
    straight = torch.randn(4, 5, dtype=torch.float64)
    turned = straight.t().contiguous().t()
    subspace = RandomSubspace(3)
    one, other = (SubspaceBasis(subspace, [w]) for w in (straight, turned))
    assert torch.equal(one.project([straight]), other.project([turned]))
    y = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert torch.equal(next(one.expand(y)), next(other.expand(y)))


def test_a_seed_fixes_the_draw_and_another_one_gives_another():
    x = tensors(40, 30)
    state = torch.get_rng_state()
    first, again, other = (SubspaceBasis(RandomSubspace(7, seed=seed), x) for seed in (3, 3, 4))
    assert torch.equal(dense(first, 7), dense(again, 7))
    assert not torch.equal(dense(first, 7), dense(other, 7))
    assert torch.equal(torch.get_rng_state(), state)


def test_columns_and_signs_are_random():
    """Chi-squared over columns of neighbours, and the sum of signs, far from what an ordered draw would give."""
    p, n = 10, 20_000
    a = dense(SubspaceBasis(RandomSubspace(p), tensors(n)), p)
    column, sign = a.abs().argmax(1), a.sum(1).sign()
    assert abs(float(sign.sum())) < 4 * math.sqrt(n)
    pairs = torch.bincount(column[0:-1:p] * p + column[1::p], minlength=p * p).double()
    expected = torch.where(torch.eye(p).bool().flatten(), 0.0, n / p / (p * (p - 1))).double()  # in one run all differ
    off = expected > 0
    assert float(((pairs - expected)[off] ** 2 / expected[off]).sum()) < 89 + 6 * math.sqrt(2 * 89)
    assert float(pairs[~off].sum()) == 0


def test_the_draw_in_blocks_of_rows_is_seamless(monkeypatch):
    monkeypatch.setattr(module, "_ROWS_AT_A_TIME", 8)
    a = dense(SubspaceBasis(RandomSubspace(3), tensors(50)), 3)
    assert {int(count) for count in (a != 0).sum(0)} <= {16, 17}


@pytest.mark.parametrize(("p", "bytes_a_weight"), [(100, 1), (127, 1), (128, 2), (1000, 2), (40_000, 4)])
def test_the_basis_weighs_few_bytes_a_weight(p, bytes_a_weight):
    n = 50_000
    basis = SubspaceBasis(RandomSubspace(p), tensors(n))
    held = {code.untyped_storage().data_ptr(): code.untyped_storage().nbytes() for code in vars(basis)["_codes"]}
    assert sum(held.values()) <= bytes_a_weight * (n + p)
    y = torch.zeros(p, dtype=torch.float64)
    y[[0, -1]] = torch.tensor([1.0, 2.0], dtype=torch.float64)
    (offset,) = basis.expand(y)
    torch.testing.assert_close(basis.coordinates([offset]), y)


def test_integer_codes_hold_the_last_column_at_every_width():
    for p in (126, 127, 128, 2**15 - 1, 2**15):
        basis = SubspaceBasis(RandomSubspace(p), [torch.zeros(p + 1)])
        y = torch.arange(1.0, p + 1, dtype=torch.float64)
        torch.testing.assert_close(basis.coordinates(list(basis.expand(y))), y, rtol=1e-6, atol=0)


@pytest.mark.parametrize("p", [4, 5, 100])
@pytest.mark.bad_input(46)
def test_a_dimension_that_is_not_below_the_weights_is_refused(p):
    with pytest.raises(ValueError, match=f"dimension={p} is not below the 4 weights; use the full space"):
        SubspaceBasis(RandomSubspace(p), tensors(3, 1))
    x = torch.ones(4, requires_grad=True)
    with pytest.raises(ValueError, match="use the full space, subspace=None"):
        sharpness(lambda: x.sum(), [x], subspace=RandomSubspace(p))


@pytest.mark.parametrize("p", [0, -1, 2.5, True, "100", None])
@pytest.mark.bad_input(46)
def test_a_dimension_that_is_no_count_is_refused(p):
    with pytest.raises(ValueError, match="dimension must be a whole number, at least 1"):
        RandomSubspace(p)


@pytest.mark.parametrize("scale", [0, -1.0, math.nan, math.inf])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(ValueError, match="scale must be a positive number"):
        RandomSubspace(scale=scale)


def test_the_default_is_the_papers_dimension_with_entries_of_unit_variance():
    assert RandomSubspace() == RandomSubspace(dimension=100, seed=0, scale=1.0)
