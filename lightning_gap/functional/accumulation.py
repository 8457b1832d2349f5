"""Weights that make a gradient, accumulated over micro-batches, the mean over all samples of a window."""

from __future__ import annotations


class AccumulationWindow:
    """One optimizer step's micro-batches on one process, as they come.

    A loop that accumulates divides each loss, a mean over ``n_i`` samples, by the number of micro-batches ``k`` and
    sums the gradients; processes then average them. That is the mean over all samples only if all ``n_i`` are equal
    and there are ``k`` of them on every process. It always is if each loss is multiplied by the weight that `add`
    returns, and at the last micro-batch of the window everything, what is accumulated already included, by `finish`.

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
            samples: Samples that the loss is a mean over.
            divisor: What the loop divides this loss by.

        Returns:
            The weight, dimensionless; 1 for the first.

        Raises:
            ValueError: If there are no samples.
        """
        if not samples > 0:
            raise ValueError(f"samples must be positive, got {samples!r}; a loss over nothing has no mean")
        if self.micro_batches == 0:
            self._unit = samples * divisor
        self.micro_batches += 1
        self.samples += samples
        return samples * divisor / self._unit

    def finish(self, samples_of_all: float, *, processes: int = 1) -> float:
        """Factor on the whole window: ``W n_1 k_1 / N``.

        Args:
            samples_of_all: Samples of the window over all processes, N.
            processes: Processes W that average their gradients.

        Returns:
            The factor, dimensionless; 1 where all micro-batches are equal and none is missing.
        """
        return processes * self._unit / samples_of_all
