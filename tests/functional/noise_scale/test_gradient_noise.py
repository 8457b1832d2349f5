import math
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
import torch.distributed as dist
from functional.noisy_quadratic import SIGMA, A, G, draw

from lightning_gap.functional import (
    DatasetLoss,
    UndefinedCurvatureError,
    UndefinedNoiseError,
    gradient_noise,
    noise_from_norms,
)


def quadratic(x, sizes):
    """The weights, and the loss in parts of these sizes."""
    w = torch.zeros(6, dtype=torch.float64, requires_grad=True)

    def parts():
        for rows in x.split(list(sizes)):
            yield torch.einsum("ni,ij,nj->", w - rows, A, w - rows) / 2 / len(x)

    return w, parts


def by_hand(x, sizes):
    """Each part's mean gradient, one sample at a time."""
    gradients = [torch.stack([A @ -sample for sample in rows]).mean(0) for rows in x.split(list(sizes))]
    return torch.stack(gradients), torch.stack([A @ -sample for sample in x]).mean(0)


def measured(x, sizes, **terms):
    w, parts = quadratic(x, sizes)
    return gradient_noise(parts, [w], sizes=sizes, **terms)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_scales_are_within_five_percent_of_those_on_paper(seed):
    generator = torch.Generator().manual_seed(seed)
    bend, deviation = torch.rand(2, 400, generator=generator, dtype=torch.float64) * 1.5 + 0.5
    minimum = torch.randn(400, generator=generator, dtype=torch.float64) / 15
    x = minimum + deviation * torch.randn(40_000, 400, generator=generator, dtype=torch.float64)
    w = torch.zeros(400, dtype=torch.float64, requires_grad=True)

    def parts():
        for rows in x.split(400):
            yield (bend * (w - rows).square()).sum() / 2 / len(x)

    found = gradient_noise(parts, [w], sizes=[400] * 100, probes=30)
    gradient, covariance = -bend * minimum, (bend * deviation).square()
    simple, critical = covariance.sum() / (gradient @ gradient), bend @ covariance / (bend @ gradient.square())
    assert 100 < simple < 3000
    assert found.simple_scale == pytest.approx(float(simple), rel=0.05)
    assert found.critical_batch == pytest.approx(float(critical), rel=0.05)


def test_parts_of_different_sizes_give_what_a_loop_over_samples_gives():
    sizes = [7, 3, 9, 1]
    x = draw(20, 2)
    each, mean = by_hand(x, sizes)
    n = torch.tensor(sizes, dtype=torch.float64)
    spread = each - mean
    variance = float((n * spread.square().sum(1)).sum() / 3)
    found = measured(x, sizes)
    assert found.variance == pytest.approx(variance, rel=1e-12)
    assert found.gradient_norm_squared == pytest.approx(float(mean @ mean) - variance / 20, rel=1e-12)
    exact = float((n * torch.einsum("mi,ij,mj->m", spread, A, spread)).sum()) / 3
    for probes in (3, 8):  # as many as there are contrasts between four parts, and more
        found = measured(x, sizes, probes=probes)
        assert found.curvature_variance == pytest.approx(exact, rel=1e-12)
        assert found.gradient_curvature == pytest.approx(float(mean @ A @ mean) - exact / 20, rel=1e-12)


@pytest.mark.parametrize("sizes", [[1, 1], [50, 50], [51, 50], [1, 1000]])
@pytest.mark.parametrize("probes", [1, 2, 3, 20])
def test_two_parts_give_the_curvature_of_their_difference_whatever_the_probes(sizes, probes):
    x = draw(sum(sizes), 3)
    each, mean = by_hand(x, sizes)
    expected = sum(size * float((row - mean) @ A @ (row - mean)) for size, row in zip(sizes, each, strict=True))
    for seed in range(5):
        found = measured(x, sizes, probes=probes, generator=torch.Generator().manual_seed(seed))
        assert found.curvature_variance == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("sizes", "probes"), [([4] * 3, 1), ([1, 2, 30], 1), pytest.param([5] * 9 + [4], 4, marks=pytest.mark.slow)]
)
def test_fewer_probes_than_contrasts_are_right_on_average_and_never_vanish(sizes, probes):
    x = draw(sum(sizes), 6)
    n = torch.tensor(sizes, dtype=torch.float64)
    each, mean = by_hand(x, sizes)
    exact = float((n * torch.einsum("mi,ij,mj->m", each - mean, A, each - mean)).sum()) / (len(sizes) - 1)
    values = np.array(
        [
            measured(x, sizes, probes=probes, generator=torch.Generator().manual_seed(seed)).curvature_variance
            for seed in range(150)
        ]
    )
    assert abs(values.mean() - exact) < 4 * values.std() / math.sqrt(len(values))
    assert values.min() > 1e-4 * exact


def test_many_parts_are_probed_with_random_signs_as_ever():
    sizes = [3] * 17 + [2]
    x = draw(sum(sizes), 8)
    each, mean = by_hand(x, sizes)
    roots = torch.tensor(sizes, dtype=torch.float64).sqrt()
    generator = torch.Generator().manual_seed(5)
    signs = torch.cat([2 * torch.randint(2, (1, 4), generator=generator) - 1 for _ in sizes]).double()
    v = (signs * roots[:, None]).T @ (each - mean)
    expected = float((v @ A * v).sum()) / 4 / 17
    found = measured(x, sizes, probes=4, generator=torch.Generator().manual_seed(5))
    assert found.curvature_variance == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("parts", [2, 6, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_gradients_have_no_noise_and_no_scale(parts, dtype):
    w = torch.full((7,), 0.3, dtype=dtype, requires_grad=True)
    found = gradient_noise(
        lambda: (torch.sin(w).sum() * 1.7 / parts for _ in range(parts)), [w], sizes=[3] * parts, probes=3
    )
    assert (found.variance, found.curvature_variance) == (0.0, 0.0)
    assert math.isnan(found.simple_scale)
    assert math.isnan(found.critical_batch)
    assert "equal up to rounding" in found.reason("simple_scale")
    assert "equal up to rounding" in found.reason("critical_batch")


def test_all_four_estimates_are_unbiased():
    truth = {
        "gradient_norm_squared": G @ G,
        "variance": SIGMA.trace(),
        "gradient_curvature": G @ A @ G,
        "curvature_variance": (A @ SIGMA).trace(),
    }
    found = [
        measured(draw(12, seed), [5, 4, 3], probes=1, generator=torch.Generator().manual_seed(seed))
        for seed in range(300)
    ]
    for name, expected in truth.items():
        values = np.array([getattr(noise, name) for noise in found])
        assert abs(values.mean() - float(expected)) < 3 * values.std() / math.sqrt(len(values)), name


def test_samples_of_a_finite_set_tell_the_gradient_of_the_set():
    population = draw(30, 3)
    _, mean = by_hand(population, [30])
    per_sample = -population @ A
    variance = float((per_sample - mean).square().sum() / 29)
    orders = [torch.randperm(30, generator=torch.Generator().manual_seed(seed))[:20] for seed in range(400)]
    found = [measured(population[order], [5] * 4, population=30) for order in orders]
    for name, expected in (("gradient_norm_squared", float(mean @ mean)), ("variance", variance)):
        values = np.array([getattr(noise, name) for noise in found])
        assert abs(values.mean() - expected) < 3 * values.std() / math.sqrt(len(values)), name
    whole = measured(population, [10] * 3, population=30)
    assert whole.gradient_norm_squared == pytest.approx(float(mean @ mean), rel=1e-12)


def test_equal_parts_give_what_the_two_batch_estimators_give():
    x = draw(40, 4)
    each, mean = by_hand(x, [8] * 5)
    expected = noise_from_norms(
        float(each.square().sum(1).mean()), float(mean @ mean), small_batch_size=8, large_batch_size=40
    )
    found = measured(x, [8] * 5)
    assert (found.gradient_norm_squared, found.variance) == pytest.approx(
        (expected.gradient_norm_squared, expected.variance), rel=1e-12
    )


def test_a_module_and_its_batches_are_measured_and_left_alone():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1)).double().train()
    x, y = torch.randn(24, 3, dtype=torch.float64), torch.randn(24, 1, dtype=torch.float64)
    unused = torch.ones(2, dtype=torch.float64, requires_grad=True)
    params = [*model.parameters(), unused]
    params[0].grad = torch.ones_like(params[0])
    before, state = [(p.detach().clone(), p.data_ptr(), p.grad) for p in params], torch.get_rng_state()
    loss = DatasetLoss(
        model, lambda m, b: (m(b[0]) - b[1]).square().mean(), list(zip(x.split(6), y.split(6), strict=True))
    )
    found = gradient_noise(loss, params, sizes=[6] * 4, probes=2)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    for p, (value, pointer, grad) in zip(params, before, strict=True):
        assert torch.equal(p, value)
        assert p.data_ptr() == pointer
        assert p.grad is grad
    rows = []
    for part in zip(x.split(6), y.split(6), strict=True):
        slopes = torch.autograd.grad((model(part[0]) - part[1]).square().mean(), params[:-1])
        rows.append(torch.cat([s.flatten() for s in slopes]))
    spread = torch.stack(rows) - torch.stack(rows).mean(0)
    assert found.variance == pytest.approx(float(6 * spread.square().sum() / 3), rel=1e-12)


def test_equal_seeds_give_equal_numbers():
    x = draw(40, 5)
    first = measured(x, [8] * 5, probes=2)
    assert first == measured(x, [8] * 5, probes=2, generator=torch.Generator().manual_seed(0))
    assert first != measured(x, [8] * 5, probes=2, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"sizes": [40]}, r"sizes must name at least one sample for each part of the loss, got \[40\]"),
        ({"sizes": [8] * 6}, r"sizes must be those of the 5 parts of the loss, got \[8, 8, 8, 8, 8, 8\]"),
        ({"sizes": [8, 8, 8, 8, 0]}, "sizes must be a whole number of samples, at least 1, got 0"),
        ({"probes": -1}, "probes must be a whole number, at least 0, got -1"),
        ({"probes": 1.5}, "probes must be a whole number, at least 0, got 1.5"),
        ({"population": 0}, "population must be a whole number, at least 1, got 0"),
        ({"population": 39}, "population must be at least the 40 samples behind the loss, got 39"),
    ],
)
def test_arguments_that_do_not_fit_the_loss_are_refused(terms, message):
    w, parts = quadratic(draw(40, 0), [8] * 5)
    with pytest.raises(ValueError, match=message):
        gradient_noise(parts, [w], **({"sizes": [8] * 5} | terms))


def test_a_single_part_and_a_loss_of_other_weights_are_refused():
    w, parts = quadratic(draw(8, 0), [8])
    with pytest.raises(ValueError, match=r"sizes must name at least two parts, got \[8\]; use smaller batches"):
        gradient_noise(parts, [w], sizes=[8])
    other = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match="does not depend on params"):
        gradient_noise(parts, [other], sizes=[8])


def test_a_random_loss_is_refused():
    w, values = torch.ones(2, requires_grad=True), iter(range(1, 100))
    with pytest.raises(ValueError, match="the loss is random"):
        gradient_noise(lambda: (next(values) * w.square().sum() for _ in range(2)), [w], sizes=[1, 1])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_or_curvature_that_is_not_finite_is_refused(value):
    w = torch.ones(2, requires_grad=True)
    with pytest.raises(UndefinedNoiseError, match="the loss at params and its gradients must be finite"):
        gradient_noise(lambda: (w.square().sum() * v for v in (value, 1.0)), [w], sizes=[1, 1])
    z = torch.zeros(2, requires_grad=True)
    with pytest.raises(UndefinedCurvatureError, match="is not finite"):
        gradient_noise(lambda: ((z.abs() ** 1.5).sum() + v * z.sum() for v in (1, 2)), [z], sizes=[1, 1], probes=1)


# Processes: this file, run as a script, is one of two

SIZES = [5, 3, 6, 2, 4]


@pytest.mark.slow
def test_two_processes_that_share_the_parts_give_what_one_gives(tmp_path):
    processes.run(__file__, tmp_path)
    alone = torch.tensor(vars_of(measured(draw(20, 0), SIZES, probes=3, population=50)))
    for rank in (0, 1):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), alone, rtol=1e-10, atol=0.0)


def vars_of(noise):
    return [noise.gradient_norm_squared, noise.variance, noise.gradient_curvature, noise.curvature_variance]


def main(folder):
    dist.init_process_group("gloo")
    x, group = draw(20, 0), dist.group.WORLD
    w = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    model = torch.nn.ParameterList([w])
    loss = DatasetLoss(
        model,
        lambda m, rows: torch.einsum("ni,ij,nj->", m[0] - rows, A, m[0] - rows) / 2 / len(rows),
        x.split(SIZES),
        process_group=group,
    )
    terms = {"probes": 3, "population": 50, "process_group": group}
    found = gradient_noise(loss, model.parameters(), sizes=loss.sizes, **terms)
    torch.save(torch.tensor(vars_of(found)), Path(folder) / f"{dist.get_rank()}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
