import sys
from pathlib import Path

import processes
import pytest
import torch
import torch.distributed as dist

from lightning_gap.functional import gradient_statistics


def per_sample(samples=12, seed=0, dimensions=5):
    """Gradients of single samples, shape (samples, dimensions)."""
    generator = torch.Generator().manual_seed(seed)
    return 1 + torch.randn(samples, dimensions, generator=generator, dtype=torch.float64)


def test_the_noise_is_that_of_the_two_batch_estimators():
    g = per_sample(samples=24)
    small = g.view(6, 4, 5).mean(1)
    statistics = gradient_statistics(list(small), samples_each=4)
    squares, mean = float(small.square().sum(1).mean()), float(g.mean(0) @ g.mean(0))
    assert statistics.noise.gradient_norm_squared == pytest.approx((24 * mean - 4 * squares) / 20, rel=1e-10)
    assert statistics.noise.variance == pytest.approx((squares - mean) / (1 / 4 - 1 / 24), rel=1e-10)
    assert statistics.noise.variance == pytest.approx(statistics.variance, rel=1e-10)


def test_lists_of_tensors_and_flat_tensors_are_the_same():
    g = per_sample()
    lists = [[row[:2].view(1, 2), row[2:]] for row in g]
    assert gradient_statistics(lists, samples_each=3) == gradient_statistics(list(g), samples_each=3)


def test_half_precision_is_summed_in_single():
    g = (300 * per_sample()).half()
    found = gradient_statistics(list(g), samples_each=1)
    assert found.sum_of_norms_squared == pytest.approx(float(g.double().square().sum()), rel=1e-5)


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


# Processes: this file, run as a script, is one of two


def test_two_processes_count_their_gradients_together(tmp_path):
    processes.run(__file__, tmp_path)
    alone = vars(gradient_statistics(list(per_sample(samples=5)), samples_each=2))
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(alone, rel=1e-12)


def main(folder):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    own = list(per_sample(samples=5))[4 * rank : 4 + rank]  # four on the first, one on the second
    found = gradient_statistics(own, samples_each=2, process_group=dist.group.WORLD)
    torch.save(vars(found), Path(folder) / f"{rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
