"""Adaptive sharpness of a classifier with normalised logits: rescaling weights or logits does not change it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .._validation import flag, function, instance
from ..dataset_loss import BatchNormMode, DatasetLoss
from ._neighbourhood import Norm
from .result import Method
from .variants import GroupedSharpness, m_sharpness

LogitsFunction = Callable[[Any, Any], tuple[Tensor, Tensor]]
"""Logits, classes on the second axis or on the only one, and targets of one batch: a function of (module, batch)."""

_FLOOR = 1e-10  # of the norm: logits that are all equal stay zero


def adaptive_sharpness(
    module: nn.Module,
    logits_of: LogitsFunction,
    batches: Sequence[Any],
    *,
    epsilon: float,
    norm: Norm = "max",
    normalize: bool = True,
    method: Method = "apgd",
    max_evaluations: int = 21,
    batch_norm: BatchNormMode = "running",
) -> GroupedSharpness:
    """Worst rise of the cross-entropy over ``|d_i| <= epsilon |w_i|``, the logits normalised; mean over the batches.

    Each batch has a maximum of its own, as in `m_sharpness`. Neither a larger last layer nor weights that are rescaled
    without changing the function change the value.

    Args:
        module: The classifier; all its parameters that require grad are perturbed.
        logits_of: Where the logits come from: a function of (module, batch) that returns logits and targets, for
            instance ``lambda module, batch: (module(batch[0]), batch[1])``.
        batches: One maximum each. The paper: 1024 training samples in batches of 128, without augmentation.
        epsilon: Size of the neighbourhood, relative to ``|w_i|``. In the paper's ball 0.25 to 2 for ResNets.
        norm: "max" for the box ``||d / |w| ||_inf <= epsilon``, "l2" for the ellipsoid ``||d / |w| ||_2 <= epsilon``.
        normalize: Normalise the logits as `normalize_logits` does; False for the plain cross-entropy.
        method: As in `sharpness`. "apgd" is the paper's. At small sizes, where a corner is the maximum, "corner" finds
            the same in a quarter of the evaluations; at large ones either may be a tenth below the other.
        max_evaluations: Most evaluations for each batch; 21 are the paper's 20 steps and one at the weights.
        batch_norm: As in `DatasetLoss`. The paper: "running".

    Returns:
        Mean over the batches, in units of the loss, its standard error, and each batch's result.

    Raises:
        ValueError: As in `sharpness`; if there is no batch, or ``logits_of`` does not return logits and targets.

    Reference:
        Andriushchenko, Croce, Müller, Hein and Flammarion (2023), arXiv 2302.07011. Their Auto-PGD projects onto the
        ellipsoid in the weights; here it steps and projects in ``d / |w|``, in which the ellipsoid is a ball.

    Example:
        >>> import torch
        >>> module = nn.Linear(2, 2, bias=False)
        >>> _ = module.weight.data.copy_(torch.eye(2))
        >>> batches = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> logits_of = lambda module, batch: (module(batch[0]), batch[1])
        >>> before = adaptive_sharpness(module, logits_of, batches, epsilon=1.5).rise
        >>> _ = module.weight.data.mul_(10)
        >>> round(adaptive_sharpness(module, logits_of, batches, epsilon=1.5).rise / before, 4)
        1.0
    """
    instance("module", module, nn.Module)
    function("logits_of", logits_of, "(module, batch)")
    loss_fn = normalized_logit_loss(logits_of) if flag("normalize", normalize) else _plain_loss(logits_of)
    sizes = DatasetLoss(module, loss_fn, batches, batch_norm=batch_norm).sizes  # refuses what are no batches
    losses = [
        DatasetLoss(module, loss_fn, [batch], sizes=[size], batch_norm=batch_norm)
        for batch, size in zip(batches, sizes, strict=True)
    ]
    params = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    return m_sharpness(
        losses, params, epsilon=epsilon, norm=norm, method=method, max_evaluations=max_evaluations, relative=True
    )


def normalized_logit_loss(logits_of: LogitsFunction) -> Callable[[Any, Any], Tensor]:
    """The mean cross-entropy of the normalised logits as a ``loss_fn`` of (module, batch).

    For `DatasetLoss`, and for ``SharpnessMonitor(relative=True, loss_fn=...)``.

    Args:
        logits_of: A function of (module, batch) that returns logits and targets, as `cross_entropy` takes them.

    Returns:
        A function of (module, batch).

    Raises:
        ValueError: If ``logits_of`` is no function or, when the loss is called, does not return a pair of tensors.

    Example:
        >>> import torch
        >>> loss_fn = normalized_logit_loss(lambda module, batch: (100 * batch, torch.tensor([0])))
        >>> round(float(loss_fn(None, torch.tensor([[3.0, 1.0]]))), 4)  # of 1 / sqrt(2) and -1 / sqrt(2)
        0.2176
    """
    return _plain_loss(function("logits_of", logits_of, "(module, batch)"), normalize_logits)


def normalize_logits(logits: Tensor) -> Tensor:
    """Subtract the mean over the classes and divide by the Euclidean norm, no smaller than 1e-10.

    Args:
        logits: Shape (N, C) or (N, C, ...), or (C,) for one sample.

    Returns:
        The same shape; each sample's logits have mean 0 and norm 1, or are 0 where all were equal.

    Raises:
        ValueError: If ``logits`` is no tensor of floating-point numbers with an axis of classes.

    Reference:
        Andriushchenko et al. (2023), arXiv 2302.07011, whose floor of the norm is the same.

    Example:
        >>> import torch
        >>> normalize_logits(torch.tensor([[7.0, 1.0, 1.0]]))
        tensor([[ 0.8165, -0.4082, -0.4082]])
    """
    instance("logits", logits, Tensor)
    if not (logits.ndim and logits.is_floating_point()):
        raise ValueError(
            f"logits must be floating-point numbers with an axis of classes, got {logits.dtype} of shape "
            f"{tuple(logits.shape)}; pass what the last layer gives"
        )
    classes = min(1, logits.ndim - 1)
    centred = logits - logits.mean(classes, keepdim=True)
    norm: Tensor = torch.linalg.vector_norm(centred, dim=classes, keepdim=True)
    return centred / norm.clamp_min(_FLOOR)


def _plain_loss(
    logits_of: LogitsFunction, change: Callable[[Tensor], Tensor] = lambda logits: logits
) -> Callable[[Any, Any], Tensor]:
    def loss_fn(module: Any, batch: Any) -> Tensor:
        found: Any = logits_of(module, batch)
        if not isinstance(found, tuple | list) or [isinstance(each, Tensor) for each in found] != [True, True]:
            got = [type(each).__name__ for each in found] if isinstance(found, tuple | list) else type(found).__name__
            raise ValueError(f"logits_of must return a pair of tensors, logits and targets, got {got}")
        logits, targets = found
        loss: Tensor = cross_entropy(change(logits), targets)
        return loss

    return loss_fn
