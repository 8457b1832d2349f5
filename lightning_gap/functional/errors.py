"""The errors of measurements that cannot be made: one per question, so that a caller can catch what it expects."""

from __future__ import annotations


class UnusedWeightsError(ValueError):
    """The loss does not depend on the weights: it uses none of them, or was computed without gradients."""


class UndefinedSharpnessError(ValueError):
    """Sharpness has no value: the loss at the weights is not finite or not above -1, or the search did not start."""


class UndefinedCurvatureError(ValueError):
    """The loss at the weights, or a product with its Hessian, is not finite."""


class UndefinedNoiseError(ValueError):
    """The loss at the weights, or the gradient of a part of it, is not finite."""


class RandomLossError(ValueError):
    """Two evaluations at the same weights gave different losses."""


class FailedElsewhereError(RuntimeError):
    """A measurement that processes share failed on another process; that process raises the cause."""
