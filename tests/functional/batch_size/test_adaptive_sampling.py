import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from functional import two_processes

from lightning_gap.functional import (
    GradientStatistics,
    augmented_inner_product_test,
    cabs,
    gradient_statistics,
    inner_product_test,
    norm_test,
    orthogonality_test,
)


def per_sample(samples=12, seed=0, dimensions=5):
    """Gradients of single samples, shape (samples, dimensions)."""
    generator = torch.Generator().manual_seed(seed)
    return 1 + torch.randn(samples, dimensions, generator=generator, dtype=torch.float64)


def brute_force(g):
    """The three variances of the papers, written out, for gradients of single samples."""
    g = g.numpy()
    mean = g.mean(axis=0)
    products = np.array([row @ mean for row in g])
    across = np.array([row - (row @ mean) / (mean @ mean) * mean for row in g])
    return {
        "norm": np.sum(g.var(axis=0, ddof=1)),
        "inner": np.sum((products - mean @ mean) ** 2) / (len(g) - 1),
        "across": np.sum(across**2) / (len(g) - 1),
        "squared": mean @ mean,
    }


# The tests


def test_each_test_is_the_inequality_of_its_paper():
    g = per_sample()
    expected, statistics, size = brute_force(g), gradient_statistics(list(g), samples_each=1), 12
    bounds = {
        "norm": 0.9**2 * expected["squared"],
        "inner": 0.9**2 * expected["squared"] ** 2,
        "across": 5.84**2 * expected["squared"],
    }
    for name, test in (("norm", norm_test), ("inner", inner_product_test), ("across", orthogonality_test)):
        found = test(statistics)
        assert found.statistic == pytest.approx(expected[name] / size / bounds[name], rel=1e-10)
        assert found.passes == (expected[name] / size <= bounds[name])
        assert found.batch_size == math.ceil(expected[name] / bounds[name])


@pytest.mark.parametrize("theta", [0.1, 0.3, 1.0, 3.0])
def test_with_the_batch_it_asks_for_the_inequality_holds_and_with_one_sample_less_it_does_not(theta):
    g = per_sample(seed=1)
    expected, statistics = brute_force(g), gradient_statistics(list(g), samples_each=1)

    def holds(size, name, bound, population=None):
        left = expected[name] / size
        return left * (population - size) / (population - 1) <= bound if population else left <= bound

    cases = [
        (norm_test(statistics, theta=theta), "norm", theta**2 * expected["squared"], None),
        (norm_test(statistics, theta=theta, population=50), "norm", theta**2 * expected["squared"], 50),
        (inner_product_test(statistics, theta=theta), "inner", theta**2 * expected["squared"] ** 2, None),
        (orthogonality_test(statistics, nu=theta, population=40), "across", theta**2 * expected["squared"], 40),
    ]
    for found, name, bound, population in cases:
        assert holds(found.batch_size, name, bound, population)
        assert found.batch_size == 1 or not holds(found.batch_size - 1, name, bound, population)
        assert found.passes == holds(12, name, bound, population)


def test_the_whole_population_passes_every_test():
    statistics = gradient_statistics(list(per_sample()), samples_each=1)
    assert norm_test(statistics, theta=1e-3, population=12).passes
    assert norm_test(statistics, theta=1e-9, population=12).batch_size == 12


def test_the_augmented_test_asks_for_the_larger_batch():
    statistics = gradient_statistics(list(per_sample()), samples_each=1)
    for theta, nu in ((0.05, 5.84), (0.9, 0.1)):
        along, across = inner_product_test(statistics, theta=theta), orthogonality_test(statistics, nu=nu)
        found = augmented_inner_product_test(statistics, theta=theta, nu=nu)
        assert found.batch_size == max(along.batch_size, across.batch_size)
        assert found.passes == (along.passes and across.passes)


def test_cabs_fits_the_noise_to_the_loss():
    g = per_sample()
    statistics = gradient_statistics(list(g), samples_each=1)
    expected = 0.1 * brute_force(g)["norm"] / 0.02
    found = cabs(statistics, learning_rate=0.1, loss=0.02)
    assert (found.batch_size, found.statistic) == (math.ceil(expected), pytest.approx(expected / 12, rel=1e-10))
    assert not found.passes
    assert cabs(statistics, learning_rate=0.1, loss=2.0).passes


# Micro-batches


def test_micro_batches_estimate_the_variances_of_single_samples():
    g = per_sample(samples=40_000, seed=2)
    single = gradient_statistics(list(g[:4000]), samples_each=1)
    micro = gradient_statistics(list(g.view(4000, 10, 5).mean(1)), samples_each=10)
    assert micro.batch_size == 40_000
    for name in ("variance", "variance_along", "variance_across"):
        assert getattr(micro, name) == pytest.approx(getattr(single, name), rel=0.1), name
    assert micro.variance == pytest.approx(5, rel=0.05)  # the identity, traced
    assert micro.variance_across == pytest.approx(4, rel=0.05)
    assert micro.variance_along == pytest.approx(micro.mean_norm_squared, rel=0.05)
    assert micro.noise.simple_scale == pytest.approx(1, rel=0.05)  # 5 over the squared length of five ones


def test_micro_batches_ask_on_average_for_the_batch_that_single_samples_ask_for():
    asked = {1: [], 8: []}
    for seed in range(300):
        g = per_sample(samples=64, seed=seed)
        for size, batches in asked.items():
            statistics = gradient_statistics(list(g.view(-1, size, 5).mean(1)), samples_each=size)
            batches.append(norm_test(statistics, theta=0.1).batch_size)
    means = {size: np.mean(batches) for size, batches in asked.items()}
    error = math.hypot(*(np.std(batches) / math.sqrt(300) for batches in asked.values()))
    assert abs(means[1] - means[8]) < 3 * error


def test_the_noise_is_that_of_the_two_batch_estimators():
    g = per_sample(samples=24)
    small = g.view(6, 4, 5).mean(1)
    statistics = gradient_statistics(list(small), samples_each=4)
    squares, mean = float(small.square().sum(1).mean()), float(g.mean(0) @ g.mean(0))
    assert statistics.noise.gradient_norm_squared == pytest.approx((24 * mean - 4 * squares) / 20, rel=1e-10)
    assert statistics.noise.variance == pytest.approx((squares - mean) / (1 / 4 - 1 / 24), rel=1e-10)
    assert statistics.noise.variance == pytest.approx(statistics.variance, rel=1e-10)


# What goes in


def test_lists_of_tensors_and_flat_tensors_are_the_same():
    g = per_sample()
    lists = [[row[:2].view(1, 2), row[2:]] for row in g]
    assert gradient_statistics(lists, samples_each=3) == gradient_statistics(list(g), samples_each=3)


def test_half_precision_is_summed_in_single():
    g = (300 * per_sample()).half()
    found = gradient_statistics(list(g), samples_each=1)
    assert found.sum_of_norms_squared == pytest.approx(float(g.double().square().sum()), rel=1e-5)


def test_gradients_that_agree_pass_every_test():
    statistics = gradient_statistics([torch.full((3,), 0.1)] * 5, samples_each=2)
    for found in (norm_test(statistics), inner_product_test(statistics), orthogonality_test(statistics)):
        assert (found.passes, found.batch_size) == (True, 1)


@pytest.mark.parametrize("gradient", [[1.0, -1.0], [0.0, 0.0], [math.nan, 1.0]], ids=["cancel", "zero", "nan"])
def test_a_gradient_that_is_zero_or_not_finite_asks_for_nothing_and_does_not_pass(gradient):
    statistics = gradient_statistics([torch.tensor([value]) for value in gradient], samples_each=4)
    for test in (norm_test, inner_product_test, orthogonality_test, augmented_inner_product_test):
        found = test(statistics)
        assert (found.passes, found.batch_size) == (False, None)


@pytest.mark.parametrize(
    ("gradients", "samples_each", "message"),
    [
        ([torch.ones(3)], 8, "gradients must be at least 2 to tell their noise, got 1"),
        ([], 8, r"gradients must all have the same shapes, got \[\] numbers"),
        ([torch.ones(3), torch.ones(4)], 8, r"gradients must all have the same shapes, got \[3, 4\] numbers"),
        ([torch.ones(3)] * 2, 0, "samples_each must be a whole number, at least 1, got 0"),
        ([torch.ones(3)] * 2, 2.0, r"samples_each must be a whole number, at least 1, got 2\.0"),
    ],
)
def test_gradients_that_cannot_be_compared_are_refused(gradients, samples_each, message):
    with pytest.raises(ValueError, match=message):
        gradient_statistics(gradients, samples_each=samples_each)


@pytest.mark.parametrize(
    ("test", "terms", "message"),
    [
        (norm_test, {"theta": 0}, "theta must be a positive number, got 0"),
        (inner_product_test, {"theta": -1.0}, r"theta must be a positive number, got -1\.0"),
        (orthogonality_test, {"nu": math.inf}, "nu must be a positive number, got inf"),
        (augmented_inner_product_test, {"nu": 0.0}, r"nu must be a positive number, got 0\.0"),
        (norm_test, {"population": 9}, "population must be at least the batch of 10, got 9"),
        (cabs, {"learning_rate": 0.0, "loss": 1.0}, r"learning_rate must be a positive number, got 0\.0"),
        (cabs, {"learning_rate": 0.1, "loss": -1.0}, r"loss must be a positive number, got -1\.0"),
    ],
)
def test_arguments_out_of_range_are_refused(test, terms, message):
    statistics = GradientStatistics(5, 2, 10.0, 1.5, 12.0)
    with pytest.raises(ValueError, match=message):
        test(statistics, **terms)


# Processes: this file, run as a script, is one of two


@pytest.mark.slow
def test_two_processes_count_their_gradients_together(tmp_path):
    two_processes.run(__file__, tmp_path)
    alone = vars(gradient_statistics(list(per_sample(samples=5)), samples_each=2))
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(alone, rel=1e-12)


def main(folder, rank):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    own = list(per_sample(samples=5))[4 * rank : 4 + rank]  # four on the first, one on the second
    found = gradient_statistics(own, samples_each=2, process_group=dist.group.WORLD)
    torch.save(vars(found), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
