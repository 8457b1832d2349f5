"""Which batch size the noise of the gradient calls for, smoothed over steps and kept within bounds."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

from .._validation import check_counts, flag, instance, one_of, real_number, whole_number
from ..noise_scale.noise_scale import RatioAverage
from .adaptive_sampling import GradientStatistics

TestName = Literal["norm", "inner_product", "augmented", "cabs", "noise_scale"]


class BatchSizeTest:
    """One of the tests of adaptive sampling, on averages over the steps instead of a single step's noisy numbers.

    Numerators and denominators are averaged separately. Each gives a batch size that would just pass:

    - ``norm``: ``tr Sigma / (theta^2 |g|^2)`` (Byrd et al., 2012)
    - ``inner_product``: ``Var(g_i . g) / (theta^2 |g|^4)`` (Bollapragada et al., 2018)
    - ``augmented``: the larger of it and the orthogonality test's, ``(tr Sigma - along) / (nu^2 |g|^2)``
    - ``cabs``: ``learning_rate tr Sigma / loss`` (Balles et al., 2017)
    - ``noise_scale``: ``tr Sigma / |G|^2`` (McCandlish et al., 2018)

    Here g is the gradient of the batch, G that of all samples, and Sigma the covariance of a single sample's.

    Args:
        test: ``"norm"``, ``"inner_product"``, ``"augmented"``, ``"cabs"`` or ``"noise_scale"``.
        theta: Noise allowed, relative to the norm of the gradient. Bollapragada et al. use 0.9.
        nu: Noise allowed across the gradient. Bollapragada et al. use 5.84.
        smoothing: Weight of the average against a new measurement, from 0 to below 1. Balles et al. use 0.95.

    Raises:
        ValueError: If the test is unknown or a number out of range.

    Reference:
        Sections as in `norm_test`, `inner_product_test`, `orthogonality_test`, `cabs`, `GradientNoise`.

    Example:
        >>> import torch
        >>> from lightning_gap.functional import gradient_statistics
        >>> test = BatchSizeTest("norm", theta=0.5)
        >>> gradients = [torch.tensor([3.0, 0.0]), torch.tensor([1.0, 2.0])]
        >>> test.update(gradient_statistics(gradients, samples_each=8), batch_size=16)
        >>> round(test.batch_size, 1)  # 32 / (0.25 * 5)
        25.6
    """

    def __init__(self, test: TestName, *, theta: float = 0.9, nu: float = 5.84, smoothing: float = 0.95) -> None:
        self.test: TestName = one_of("test", test, get_args(TestName))
        self.theta = real_number("theta", theta, above=0)
        self.nu = real_number("nu", nu, above=0)
        smoothing = real_number("smoothing", smoothing, at_least=0, below=1)
        self._main, self._across = RatioAverage(smoothing), RatioAverage(smoothing)

    @property
    def batch_size(self) -> float:
        """The size that would just pass, in samples; NaN where the averages do not say."""
        main = self._main.ratio / (1.0 if self.test in ("cabs", "noise_scale") else self.theta**2)
        return max(main, self._across.ratio / self.nu**2) if self.test == "augmented" else main

    def update(
        self,
        statistics: GradientStatistics,
        *,
        batch_size: int,
        learning_rate: float = math.nan,
        loss: float = math.nan,
    ) -> None:
        """Add one step's measurement; one that is not finite, for instance after an overflow, is left out.

        Args:
            statistics: Of the small gradients measured, which may be fewer than the batch had.
            batch_size: Samples of the step.
            learning_rate: Learning rate of SGD in this step, for ``cabs``.
            loss: Mean loss of the batch, for ``cabs``.
        """
        instance("statistics", statistics, GradientStatistics, hint="as gradient_statistics gives them")
        batch_size = whole_number("batch_size", batch_size, unit="samples")
        learning_rate = real_number("learning_rate", learning_rate, finite=False)
        loss = real_number("loss", loss, finite=False)
        noise = statistics.noise
        length = noise.gradient_norm_squared + noise.variance / batch_size  # |g|^2 of the whole batch
        pairs = {
            "norm": (statistics.variance, length),
            "inner_product": (statistics.variance_along, length**2),
            "augmented": (statistics.variance_along, length**2),
            "cabs": (learning_rate * statistics.variance, loss),
            "noise_scale": (noise.variance, noise.gradient_norm_squared),
        }
        if all(math.isfinite(number) for number in (*pairs[self.test], statistics.variance_across, length)):
            self._main.update(*pairs[self.test])
            self._across.update(statistics.variance_across, length)

    def state_dict(self) -> dict[str, Any]:
        """The averages, in plain numbers."""
        return {"main": self._main.state_dict(), "across": self._across.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the averages."""
        self._main.load_state_dict(state["main"])
        self._across.load_state_dict(state["across"])


def next_batch_size(
    wanted: float,
    current: int,
    *,
    smallest: int,
    largest: int,
    multiple_of: int = 1,
    max_growth: float = 2.0,
    monotone: bool = True,
) -> int:
    """The batch size to train with next, given the one that a test wants.

    Args:
        wanted: Samples; NaN keeps the current size.
        current: Samples per step now.
        smallest: Least samples.
        largest: Most samples.
        multiple_of: What the size must be divisible by; it is rounded up to it, or at the limit down.
        max_growth: Most growth, and without ``monotone`` most shrinkage, at once.
        monotone: Never shrink.

    Returns:
        Samples per optimizer step.

    Raises:
        ValueError: If a size is not a whole number of at least 1, or ``max_growth`` is below 1.

    Example:
        >>> [next_batch_size(wanted, 64, smallest=32, largest=1000, multiple_of=8) for wanted in (10, 70, 900)]
        [64, 72, 128]
    """
    wanted = real_number("wanted", wanted, finite=False)
    current, smallest, largest, multiple_of = check_counts(
        current=current, smallest=smallest, largest=largest, multiple_of=multiple_of
    )
    max_growth, monotone = real_number("max_growth", max_growth, at_least=1), flag("monotone", monotone)
    if math.isnan(wanted) or (monotone and wanted <= current):
        return current
    low = current if monotone else max(smallest, math.ceil(current / max_growth))
    bounded = min(max(wanted, low), current * max_growth, largest)
    rounded = math.ceil(bounded / multiple_of) * multiple_of
    limit = min(largest, int(current * max_growth)) // multiple_of * multiple_of
    return max(min(rounded, limit), multiple_of) if limit >= low else current
