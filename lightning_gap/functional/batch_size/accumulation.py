"""Weights that make a gradient, accumulated over micro-batches, the mean over all samples of a window."""

from __future__ import annotations

from .._validation import real_number, whole_number


class AccumulationWindow:
    """One optimizer step's micro-batches on one process, as they come.

    A loop that accumulates divides each loss, a mean over ``n_i`` samples, by the number of micro-batches ``k`` and
    sums the gradients; processes then average them. That is the mean over all samples only if all ``n_i`` are equal
    and there are ``k`` of them on every process. It always is if each loss is multiplied by the weight that `add`
    returns, and at the last micro-batch of the window everything, what is accumulated already included, by `finish`.

    Attributes:
        samples: Samples of this process in the window so far.
        micro_batches: Micro-batches of this process in the window so far.

    Raises:
        ValueError: From `add` and `finish`, if a number is out of range.

    Reference:
        Goyal et al. (2017), section 3, remark 3: the loss is normalised by the whole batch.

    Example:
        >>> window = AccumulationWindow()  # 8, 8 and 4 samples in a loop that divides by 4
        >>> [window.add(samples, divisor=4) for samples in (8, 8, 4)]
        [1.0, 1.0, 0.5]
        >>> scale = window.finish(20)
        >>> [weight / 4 * scale for weight in (1.0, 1.0, 0.5)]  # 8/20, 8/20, 4/20
        [0.4, 0.4, 0.2]
    """

    def __init__(self) -> None:
        self.samples = 0.0  # of this process so far
        self.micro_batches = 0
        self._unit = 0.0

    def add(self, samples: float, *, divisor: int) -> float:
        """Weight on the loss of the next micro-batch: ``n_i k_i / (n_1 k_1)``.

        Args:
            samples: Samples that the loss is a mean over. 0 for a micro-batch that counts for nothing: the mean of
                nothing is 0 / 0, so leave its gradient out instead of multiplying it by the weight.
            divisor: What the loop divides this loss by.

        Returns:
            The weight, dimensionless; 1 for the first micro-batch with samples, 0 for one without.

        Raises:
            ValueError: If ``samples`` is negative, infinite or NaN, or ``divisor`` is no whole number of at least 1.
        """
        samples, divisor = real_number("samples", samples, at_least=0), whole_number("divisor", divisor)
        if self._unit == 0:
            self._unit = samples * divisor
        self.micro_batches += 1
        self.samples += samples
        return samples * divisor / self._unit if samples else 0.0

    def finish(self, samples_of_all: float, *, processes: int = 1) -> float:
        """Factor on the whole window: ``W n_1 k_1 / N``.

        Args:
            samples_of_all: Samples of the window over all processes, N.
            processes: Processes W that average their gradients.

        Returns:
            The factor, dimensionless; 1 where all micro-batches are equal and none is missing, 0 where no process has
            a sample.

        Raises:
            ValueError: If ``samples_of_all`` is negative, infinite or NaN, or ``processes`` is below 1.
        """
        samples_of_all = real_number("samples_of_all", samples_of_all, at_least=0)
        processes = whole_number("processes", processes)
        if samples_of_all == 0:
            return 0.0
        return processes * self._unit / samples_of_all
