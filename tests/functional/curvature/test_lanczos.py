import numpy as np
import pytest
import torch

from lightning_gap.functional.curvature._lanczos import lanczos


def symmetric(n, seed=0, dtype=torch.float64):
    root = torch.randn(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (root + root.T).to(dtype)


def vector(n, seed=1, dtype=torch.float64):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("n", [1, 2, 7, 40])
def test_as_many_products_as_rows_give_all_eigenvalues(n):
    matrix = symmetric(n)
    steps = list(lanczos(lambda v: matrix @ v, vector(n), n + 5))
    assert len(steps) == n
    np.testing.assert_allclose(steps[-1].values, np.linalg.eigvalsh(matrix.numpy()), rtol=1e-9, atol=1e-9)
    assert not steps[-1].residuals.any()


def test_float32_gives_them_to_its_precision_and_no_ghosts():
    matrix = torch.diag(torch.linspace(1, 2, 60) ** 20)  # converges fast at one end, where ghosts would appear
    *_, last = lanczos(lambda v: matrix @ v, vector(60, dtype=torch.float32), 60)
    expected = np.linalg.eigvalsh(matrix.double().numpy())
    np.testing.assert_allclose(last.values[-30:], expected[-30:], atol=1e-6 * expected[-1])


def test_residuals_are_those_of_the_ritz_vectors():
    """The vectors are rebuilt here from the products that were asked for, which are the basis."""
    matrix, basis = symmetric(30), []

    def product(v):
        basis.append(v)
        return matrix @ v

    for ritz in lanczos(product, vector(30), 12):
        tridiagonal = ritz.alphas.diag() + ritz.betas[:-1].diag(1) + ritz.betas[:-1].diag(-1)
        values, inner = np.linalg.eigh(tridiagonal.numpy())
        vectors = torch.stack(basis, 1) @ torch.from_numpy(inner)
        residuals = (matrix @ vectors - vectors * torch.from_numpy(values)).norm(dim=0)
        np.testing.assert_allclose(ritz.values, values, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(ritz.residuals, residuals, rtol=1e-8, atol=1e-10)


def test_an_eigenvalue_lies_within_each_residual():
    matrix = symmetric(50)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    for ritz in lanczos(lambda v: matrix @ v, vector(50), 30):
        distances = (ritz.values[:, None] - eigenvalues).abs().min(dim=1).values
        assert bool((distances <= ritz.residuals + 1e-10).all())


def test_the_basis_stays_orthonormal():
    matrix, basis = torch.diag(torch.logspace(-8, 4, 80, dtype=torch.float64)), []

    def product(v):
        basis.append(v)
        return matrix @ v

    list(lanczos(product, vector(80), 60))
    gram = torch.stack(basis) @ torch.stack(basis).T
    torch.testing.assert_close(gram, torch.eye(len(basis), dtype=torch.float64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_quadrature_is_exact_up_to_its_degree(steps):
    matrix, start = symmetric(20), vector(20)
    unit = start / start.norm()
    *_, last = lanczos(lambda v: matrix @ v, start, steps)
    for power in range(2 * steps):
        expected = float(unit @ torch.linalg.matrix_power(matrix, power) @ unit)
        assert float((last.weights * last.values**power).sum()) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_it_ends_where_the_products_lead_nowhere_new():
    spectrum = torch.tensor([5.0, 5.0, 5.0, -1.0, -1.0, 2.0], dtype=torch.float64)
    *_, last = lanczos(lambda v: spectrum * v, vector(6), 6)
    np.testing.assert_allclose(last.values, [-1, 2, 5], rtol=1e-12)
    assert not last.residuals.any()


@pytest.mark.parametrize("scale", [0.0, 1e-30, 3.0, 1e30])
def test_a_multiple_of_the_identity_takes_one_product(scale):
    (only,) = lanczos(lambda v: scale * v, vector(5), 5)
    assert only.values.tolist() == pytest.approx([scale])
    assert only.residuals.tolist() == [0.0]
    assert only.weights.tolist() == [1.0]


def test_a_start_in_a_subspace_sees_only_its_eigenvalues():
    spectrum = torch.tensor([1.0, -3.0, 7.0], dtype=torch.float64)
    *_, last = lanczos(lambda v: spectrum * v, torch.tensor([1.0, 1.0, 0.0]).double(), 3)
    np.testing.assert_allclose(last.values, [-3, 1], rtol=1e-12)


def test_what_the_product_returns_is_left_alone():
    seen = []

    def product(v):
        seen.append((2 * v.flip(0), 2 * v.flip(0)))
        return seen[-1][0]

    list(lanczos(product, vector(4), 4))
    assert all(torch.equal(returned, copy) for returned, copy in seen)
