import math
import warnings
from contextlib import AbstractContextManager

import numpy as np
import processes
import pytest
import torch
from functional import curvature_on_two_processes as script
from functional.small_networks import dense_hessian, flat, network, quadratic, seeded, whole_and_parts
from scipy.sparse.linalg import eigsh
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap.functional import (
    UndefinedCurvatureError,
    hessian_eigenvalues,
    hessian_trace,
    hessian_vector_product,
    spectral_density,
)

# Eigenvalues


@pytest.mark.promise("eigenvalue")
@pytest.mark.parametrize(
    "spectrum", [[1.0, -3.0], [5.0], [-2.0], [2.0, 2.0, 2.0], [4.0, 0.0, 0.0, -1.0], [3.0, 2.0, 1.0]]
)
def test_a_quadratic_gives_its_known_ends(spectrum):
    x, loss_fn = quadratic(spectrum)
    found = hessian_eigenvalues(loss_fn, [x])
    assert found.largest == pytest.approx(max(spectrum), abs=1e-9)
    assert found.smallest == pytest.approx(min(spectrum), abs=1e-9)
    assert (found.converged, found.exact, found.products) == (True, True, len(set(spectrum)))
    assert (found.loss, found.gradient_norm) == (0.0, pytest.approx(math.sqrt(len(spectrum))))


@pytest.mark.promise("eigenvalue")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("form", [0, 1], ids=["whole", "parts"])
def test_eigenvalues_are_those_of_the_dense_hessian(seed, form):
    model, x, y = network(seed)
    expected = np.linalg.eigvalsh(dense_hessian(model, x, y).numpy())
    loss_fn = whole_and_parts(model, x, y)[form]
    found = hessian_eigenvalues(loss_fn, model.parameters(), tolerance=1e-6, generator=seeded(seed))
    assert found.largest == pytest.approx(expected[-1], rel=1e-9)
    assert found.smallest == pytest.approx(expected[0], rel=1e-6)
    assert found.converged
    loss = cross_entropy(model(x), y)
    assert found.loss == pytest.approx(float(loss.detach()), rel=1e-12)
    gradient = flat(torch.autograd.grad(loss, list(model.parameters())))
    assert found.gradient_norm == pytest.approx(float(gradient.norm()), rel=1e-10)


def test_the_default_tolerance_is_kept_in_float32():
    for seed in range(4):
        model, x, y = network(seed, dtype=torch.float32)
        found = hessian_eigenvalues(lambda model=model, x=x, y=y: cross_entropy(model(x), y), model.parameters())
        expected = np.linalg.eigvalsh(dense_hessian(model.double(), x.double(), y).numpy())
        assert found.converged
        assert found.largest == pytest.approx(expected[-1], rel=1e-3)
        assert abs(found.smallest - expected[0]) <= 1e-3 * expected[-1]


@pytest.mark.promise("eigenvalue")
def test_a_public_tool_gives_the_same_over_unequal_batches():
    model, x, y = network(1)
    params = list(model.parameters())
    vector = np.random.default_rng(0).standard_normal(sum(p.numel() for p in params))
    data = list(zip(x.split([25, 20, 15]), y.split([25, 20, 15]), strict=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch.jit, which it uses
        from curvlinops import HessianLinearOperator

        operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), params, data).to_scipy()
        ends = eigsh(operator, k=2, which="BE", return_eigenvectors=False, tol=1e-8)
        expected = operator @ vector
    found = hessian_eigenvalues(whole_and_parts(model, x, y)[1], params, tolerance=1e-8, max_products=80)
    assert found.largest == pytest.approx(max(ends), rel=1e-6)
    assert found.smallest == pytest.approx(min(ends), rel=1e-4)
    pieces = torch.split(torch.from_numpy(vector), [p.numel() for p in params])
    pieces = [piece.view_as(p) for piece, p in zip(pieces, params, strict=True)]
    product = hessian_vector_product(whole_and_parts(model, x, y)[1], params, pieces)
    np.testing.assert_allclose(flat(product), expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("ends", ["both", "largest", "smallest"])
def test_the_residuals_of_the_ends_asked_for_are_within_the_tolerance(ends):
    model, x, y = network()
    found = hessian_eigenvalues(lambda: cross_entropy(model(x), y), model.parameters(), tolerance=1e-4, ends=ends)
    limit = 1e-4 * max(abs(found.largest), abs(found.smallest))
    assert found.converged
    assert found.largest_residual <= limit or ends == "smallest"
    assert found.smallest_residual <= limit or ends == "largest"


def test_one_end_needs_fewer_products_than_both():
    model, x, y = network()
    terms = {"loss_fn": lambda: cross_entropy(model(x), y), "tolerance": 1e-6}
    products = {
        e: hessian_eigenvalues(params=model.parameters(), ends=e, **terms).products for e in ("largest", "both")
    }
    assert products["largest"] < products["both"]


def test_running_out_of_products_is_reported():
    model, x, y = network()
    found = hessian_eigenvalues(lambda: cross_entropy(model(x), y), model.parameters(), max_products=2)
    assert (found.converged, found.products) == (False, 2)


def test_a_linear_loss_has_no_curvature():
    x = torch.ones(4, requires_grad=True)
    found = hessian_eigenvalues(lambda: 3 * x.sum(), [x])
    assert (found.largest, found.smallest, found.converged, found.exact) == (0.0, 0.0, True, True)
    assert (found.loss, found.gradient_norm) == (12.0, 6.0)
    assert hessian_trace(lambda: 3 * x.sum(), [x]).trace == 0.0
    assert not spectral_density(lambda: 3 * x.sum(), [x]).nodes.any()


# Trace


@pytest.mark.parametrize("probes", [1, 3])
def test_the_trace_of_a_diagonal_hessian_is_exact(probes):
    x, loss_fn = quadratic([1.0, -3.0, 0.5])
    found = hessian_trace(loss_fn, [x], probes=probes)
    assert found.trace == pytest.approx(-1.5, rel=1e-12)
    assert math.isnan(found.standard_error) if probes == 1 else found.standard_error < 1e-12
    assert (found.probes, found.exact) == (probes, True)


def test_the_trace_lies_within_its_error_as_often_as_it_should():
    model, x, y = network()
    expected = float(dense_hessian(model, x, y).trace())
    found = [
        hessian_trace(lambda: cross_entropy(model(x), y), model.parameters(), probes=20, generator=seeded(seed))
        for seed in range(100)
    ]
    errors = np.array([f.trace - expected for f in found])
    standard = np.array([f.standard_error for f in found])
    assert abs(errors.mean()) < 3 * errors.std() / 10
    assert standard.mean() == pytest.approx(errors.std(), rel=0.25)
    assert 0.55 < np.mean(np.abs(errors) < standard) < 0.8  # 68 % of a normal distribution, 67 % of Student's
    assert np.mean(np.abs(errors) < 3 * standard) > 0.95


# Spectral density


def test_the_mean_of_the_density_is_the_trace_from_the_same_probes():
    model, x, y = network()
    loss_fn, n = whole_and_parts(model, x, y)[0], sum(p.numel() for p in model.parameters())
    found = spectral_density(loss_fn, model.parameters(), steps=10, probes=4, generator=seeded(3))
    trace = hessian_trace(loss_fn, model.parameters(), probes=4, generator=seeded(3)).trace
    assert float(found.weights.sum()) == pytest.approx(1, rel=1e-12)
    assert float(found.weights @ found.nodes) == pytest.approx(trace / n, rel=1e-9)
    assert (len(found.nodes), found.exact) == (40, True)
    assert bool((found.nodes.diff() >= 0).all())


def test_moments_of_the_density_average_to_those_of_the_spectrum():
    model, x, y = network()
    loss_fn, hessian = whole_and_parts(model, x, y)[0], dense_hessian(model, x, y)
    found = spectral_density(loss_fn, model.parameters(), steps=4, probes=300)
    for power in (1, 2, 3):
        expected = float(torch.linalg.matrix_power(hessian, power).trace()) / len(hessian)
        assert float(found.weights @ found.nodes**power) == pytest.approx(expected, rel=0.1)


def test_the_weights_of_few_eigenvalues_are_their_multiplicities():
    x, loss_fn = quadratic([0.0] * 6 + [2.0] * 3 + [-1.0])  # signs have an equal part in every axis
    found = spectral_density(loss_fn, [x], probes=1)
    np.testing.assert_allclose(found.nodes, [-1, 0, 2], atol=1e-12)
    np.testing.assert_allclose(found.weights, [0.1, 0.6, 0.3], rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_smoothed_density_integrates_to_one(dtype):
    x, loss_fn = quadratic([1.0, -3.0, 0.5])
    grid = torch.linspace(-6, 4, 2000, dtype=dtype)
    density = spectral_density(loss_fn, [x]).density(grid, width=0.1)
    assert float(torch.trapezoid(density, grid.double())) == pytest.approx(1, abs=1e-6)
    normal = torch.distributions.Normal(torch.tensor([1.0, -3.0, 0.5]), 0.1)
    torch.testing.assert_close(density, normal.log_prob(grid[:, None].double()).exp().mean(1), rtol=1e-4, atol=1e-4)
    assert spectral_density(loss_fn, [x]).density(grid.view(20, 100), width=0.1).shape == (20, 100)


@pytest.mark.parametrize("width", [0, -1.0, math.nan, math.inf])
def test_a_width_that_is_not_positive_is_refused(width):
    x, loss_fn = quadratic([1.0])
    with pytest.raises(ValueError, match="width must be a positive number"):
        spectral_density(loss_fn, [x]).density(torch.zeros(1), width=width)


# Finite differences


# What is left behind, and what is refused

MEASURES = {
    "product": lambda loss_fn, params: hessian_vector_product(loss_fn, params, [torch.ones_like(p) for p in params]),
    "eigenvalues": lambda loss_fn, params: hessian_eigenvalues(loss_fn, params, max_products=3),
    "trace": lambda loss_fn, params: hessian_trace(loss_fn, params, probes=3),
    "density": lambda loss_fn, params: spectral_density(loss_fn, params, steps=2, probes=2),
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("differences", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, None])
def test_weights_come_back_bit_for_bit_whichever_evaluation_fails(measure, differences, error):
    model, x, y = network()
    params = list(model.parameters())
    params[0].grad = torch.ones_like(params[0])
    before = [(p.data_ptr(), p.detach().clone(), p.grad) for p in params]
    state = torch.get_rng_state()

    def loss_fn():
        nonlocal calls
        calls += 1
        if calls == failing:
            raise error("at this one")
        extra = script.Cube.apply(params[0]).square().sum() if differences else 0.0
        yield cross_entropy(model(x), y) + extra

    for failing in range(1, 20) if error else [0]:
        calls, outcome = 0, None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if differences else "error")
            try:
                MEASURES[measure](loss_fn, params)
            except (RuntimeError, KeyboardInterrupt) as raised:
                outcome = (type(raised), str(raised), calls)
        assert outcome == ((error, "at this one", failing) if 0 < failing <= calls else None)
        for p, (pointer, value, grad) in zip(params, before, strict=True):
            assert p.data_ptr() == pointer
            assert torch.equal(p, value)
            assert p.grad is grad
    assert torch.equal(torch.get_rng_state(), state)


def test_batch_norm_that_uses_the_batch_keeps_its_graph():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(20, 6, dtype=torch.float64), torch.randint(3, (20,))
    loss_fn = whole_and_parts(model, x, y, sizes=(20,))
    found = [hessian_trace(form, model.parameters(), generator=seeded(0)).trace for form in loss_fn]
    assert found[0] == pytest.approx(found[1], rel=1e-10)


def test_equal_seeds_give_equal_numbers():
    model, x, y = network()
    terms = (lambda: cross_entropy(model(x), y), list(model.parameters()))
    assert hessian_eigenvalues(*terms) == hessian_eigenvalues(*terms, generator=seeded(0))
    assert hessian_trace(*terms) == hessian_trace(*terms, generator=seeded(0))
    assert hessian_trace(*terms) != hessian_trace(*terms, generator=seeded(1))


def test_a_loss_that_is_a_context_manager_is_entered_once():
    model, x, y = network()

    class Loss(AbstractContextManager):
        entered = left = 0

        def __enter__(self):
            self.entered += 1

        def __exit__(self, *error):
            self.left += 1

        def __call__(self):
            assert (self.entered, self.left) == (1, 0)
            return cross_entropy(model(x), y)

    loss = Loss()
    hessian_trace(loss, model.parameters(), probes=2)
    assert (loss.entered, loss.left) == (1, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("measure", MEASURES)
def test_a_loss_that_is_not_finite_is_refused(measure, value):
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(UndefinedCurvatureError, match=f"the loss at params must be finite, got {value}"):
        MEASURES[measure](lambda: (x**2).sum() * value, [x])


def test_a_curvature_that_is_not_finite_is_refused():
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(UndefinedCurvatureError, match="product of the Hessian at params with a vector is not finite"):
        hessian_eigenvalues(lambda: (x.abs() ** 1.5).sum(), [x])


@pytest.mark.parametrize("in_parts", [False, True])
def test_a_random_loss_is_refused(in_parts):
    x, factors = torch.ones(2, requires_grad=True), iter(range(1, 100))

    def loss_fn():
        loss = next(factors) * (x**2).sum()
        return iter([loss]) if in_parts else loss

    with pytest.raises(ValueError, match="the loss is random"):
        hessian_trace(loss_fn, [x])


@pytest.mark.parametrize(
    ("loss", "message"), [(lambda x: x.detach().sum(), "does not depend on params"), (lambda x: x.exp(), "scalar")]
)
def test_losses_without_a_curvature_are_refused(loss, message):
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        hessian_trace(lambda: loss(x), [x])


@pytest.mark.parametrize(
    ("measure", "name", "values"),
    [
        (hessian_eigenvalues, "tolerance", [0, 1, -1e-3, math.nan, True, "1e-3"]),
        (hessian_eigenvalues, "max_products", [0, 2.0, True]),
        (hessian_eigenvalues, "ends", ["smallest magnitude", None]),
        (hessian_trace, "probes", [0, 2.0, True]),
        (spectral_density, "steps", [0, 2.0, True]),
        (spectral_density, "probes", [0, 2.0, True]),
    ],
)
def test_arguments_out_of_range_are_refused(measure, name, values):
    x, loss_fn = quadratic([1.0])
    for value in values:
        with pytest.raises(ValueError, match=f"^{name} must be .*{value}"):
            measure(loss_fn, [x], **{name: value})


# Processes


@pytest.fixture(scope="module")
def on_two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("curvature")
    processes.run(script.__file__, folder)
    return [torch.load(folder / f"rank-{rank}.pt") for rank in (0, 1)]


@pytest.mark.promise("measured processes")
@pytest.mark.slow
def test_two_processes_that_share_the_loss_give_what_one_gives(on_two_processes):
    alone = script.measure((0, script.SAMPLES))
    for rank in on_two_processes:
        torch.testing.assert_close(rank["exact"], alone, rtol=1e-8, atol=1e-10)
        assert bool(rank["exact"]["exact"].all())


def test_both_processes_fall_back_where_one_has_no_double_backward(on_two_processes):
    alone = script.measure((0, script.SAMPLES), cube=lambda w: w**3)
    for rank in on_two_processes:
        assert not bool(rank["differences"].pop("exact").any())
        for name, value in rank["differences"].items():
            torch.testing.assert_close(value, alone[name], rtol=1e-5, atol=1e-6, msg=name)


def test_what_fails_on_one_process_ends_on_both(on_two_processes):
    assert on_two_processes[0]["failure"] == "FailedElsewhereError: measuring failed on another process; see its error"
    assert on_two_processes[1]["failure"] == "OSError: no more data"
