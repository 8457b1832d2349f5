"""Parameter groups of an optimizer: which weights decay, and which do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from ._validation import instance, real_number

NORMALISATION = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""torch's classes of normalisation layers; `_NormBase` is that of all batch and instance norms, lazy ones too."""


def no_decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimizer in which biases and the weights of normalisation layers do not decay.

    Normalisation layers are known by their class (batch, instance, group, layer and RMS norm, ghost layers and other
    subclasses), biases by the parameter's own name (``bias``, ``in_proj_bias``, ``bias_ih_l0``). The names of layers do
    not matter, and a vector of another kind, PReLU's slopes for instance, decays.

    Args:
        module: What to train. Each parameter comes once, also where modules share it; a shared one does not decay if it
            is a bias or of a normalisation layer anywhere. Frozen parameters are among them, as always in torch: they
            move once they are thawed.
        weight_decay: Decay of the other parameters, as the optimizer takes it. Goyal et al. use 1e-4.

    Returns:
        Two groups, of the parameters that decay and of those that do not, in the module's order; a group of none is
        left out.

    Raises:
        ValueError: If ``module`` is no module or has no parameters, or ``weight_decay`` is negative or not finite.

    Reference:
        Goyal et al. (2017), section 5.1.

    Example:
        >>> network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        >>> [(len(group["params"]), group["weight_decay"]) for group in no_decay_groups(network, 1e-4)]
        [(1, 0.0001), (3, 0.0)]
    """
    weight_decay = real_number("weight_decay", weight_decay, at_least=0, hint="0 means none")
    parameters = list(instance("module", module, nn.Module).parameters())  # those that modules share come once
    if not parameters:
        raise ValueError(f"module must have parameters to train, got a {type(module).__name__} without any")
    exempt = set(_exempt(module))
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in parameters if parameter not in exempt], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter in exempt], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _is_bias(name: str) -> bool:
    """Whether the parameter of this name is a bias: those of recurrent layers are ``bias_ih_l0`` and the like."""
    return "bias" in name.rpartition(".")[2].split("_")


def _exempt(module: nn.Module) -> Iterator[nn.Parameter]:
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            if isinstance(part, NORMALISATION) or _is_bias(name):
                yield parameter
