"""Optimizers of the papers by name, and which parameters their weight decay leaves alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from lightning_gap.functional import no_decay_groups

from .lookup import lookup

ParameterGroups = list[dict[str, Any]]


def make_optimizer(
    name: str,
    network: nn.Module,
    *,
    learning_rate: float,
    momentum: float | None,
    weight_decay: float,
    decay_all: bool = True,
) -> Optimizer:
    """The optimizer of this name over all parameters of a network.

    Each parameter comes once, in one group, or with ``decay_all=False`` in two, the second without decay; a group of
    none is left out. Frozen parameters are among them, as always in torch: they move once they are thawed.

    Args:
        name: A key of `OPTIMIZERS`.
        network: What to train.
        learning_rate: Step size, before any scaling and schedule.
        momentum: Of ``"sgd"``, ``"nesterov"`` and ``"lars"``, where ``None`` means none; the others have no such
            number and take ``None`` only.
        weight_decay: Times a weight, this joins its gradient; with ``"lamb"`` its update, before that is scaled; with
            ``"adamw"`` the update alone, times the learning rate.
        decay_all: Whether biases, and the weights of normalisation layers, decay too; see `no_decay_groups`. Goyal
            et al. leave BatchNorm's weights and biases out (section 5.1). With a decay ``"lars"`` takes ``False``
            only: its library decays and scales no vectors, whatever they belong to.

    Raises:
        ValueError: If the name is unknown, a number out of range, or the optimizer cannot do what is asked.
        ImportError: If ``"lars"`` or ``"lamb"`` is asked for without the library they come from.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        >>> sgd = make_optimizer("sgd", network, learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay_all=False)
        >>> [(len(group["params"]), group["weight_decay"]) for group in sgd.param_groups]
        [(1, 0.0001), (3, 0.0)]
    """
    lookup("optimizer", name, OPTIMIZERS)
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate must be positive and finite, got {learning_rate!r}")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay must not be negative or infinite, got {weight_decay!r}; 0 means none")
    if momentum is not None and not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, got {momentum!r}; None means none")
    if name == "lars" and weight_decay and decay_all:
        raise ValueError(f"lars decays no vectors, so weight_decay={weight_decay!r} needs decay_all=False")
    everything = [{"params": list(network.parameters()), "weight_decay": weight_decay}]
    groups = everything if decay_all else no_decay_groups(network, weight_decay)
    return OPTIMIZERS[name](groups, learning_rate, momentum)


def adam(groups: ParameterGroups, learning_rate: float, momentum: float | None) -> Optimizer:
    """ADAM, betas 0.9 and 0.999, epsilon 1e-8 (Kingma and Ba 2015), as Keskar et al. 2017 used it."""
    _refuse_momentum("adam", momentum)
    return Adam(groups, lr=learning_rate)


def adamw(groups: ParameterGroups, learning_rate: float, momentum: float | None) -> Optimizer:
    """The same, weight decay apart from the gradient (Loshchilov and Hutter 2019)."""
    _refuse_momentum("adamw", momentum)
    return AdamW(groups, lr=learning_rate)


def sgd(groups: ParameterGroups, learning_rate: float, momentum: float | None) -> Optimizer:
    """Stochastic gradient descent, with momentum if given."""
    return SGD(groups, lr=learning_rate, momentum=momentum or 0.0)


def nesterov(groups: ParameterGroups, learning_rate: float, momentum: float | None) -> Optimizer:
    """The same with Nesterov's momentum (Goyal et al. 2017)."""
    if not momentum:
        raise ValueError(f"nesterov needs a momentum above 0, for instance 0.9, got {momentum!r}")
    return SGD(groups, lr=learning_rate, momentum=momentum, nesterov=True)


def adagrad(groups: ParameterGroups, learning_rate: float, momentum: float | None) -> Optimizer:
    """Adagrad (Duchi et al. 2011)."""
    _refuse_momentum("adagrad", momentum)
    return Adagrad(groups, lr=learning_rate)


def lars(groups: ParameterGroups, learning_rate: float, momentum: float | None) -> Optimizer:
    """SGD, step of each layer by its norms, trust coefficient 0.001 (You et al. 2017)."""
    try:
        from pytorch_optimizer import LARS
    except ImportError as error:
        raise _not_installed("lars") from error
    return LARS(groups, lr=learning_rate, momentum=momentum or 0.0)


def lamb(groups: ParameterGroups, learning_rate: float, momentum: float | None) -> Optimizer:
    """ADAM, step of each layer by its norms (You et al. 2020)."""
    _refuse_momentum("lamb", momentum)
    try:
        from pytorch_optimizer import Lamb
    except ImportError as error:
        raise _not_installed("lamb") from error
    # The paper's form. By default the library takes the decay out of what is scaled, and divides the rate by
    # 1 - 0.9^t: ten times the rate in the first step, since scaling cancels the smallness that this would mend.
    return Lamb(groups, lr=learning_rate, weight_decouple=False, adam_debias=True)


OPTIMIZERS: dict[str, Callable[[ParameterGroups, float, float | None], Optimizer]] = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
    "nesterov": nesterov,
    "adagrad": adagrad,
    "lars": lars,
    "lamb": lamb,
}


def _refuse_momentum(name: str, momentum: float | None) -> None:
    if momentum is not None:
        raise ValueError(f"{name} has no momentum to set, got momentum={momentum!r}; pass None")


def _not_installed(name: str) -> ImportError:
    return ImportError(
        f"{name} comes from the library pytorch_optimizer, which is not installed; "
        'pip install "lightning-gap[optimizers]"'
    )
