"""Start residual blocks as their shortcuts, by the weight of the last normalisation layer of each."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator

import torch
from torch import nn
from torch.fx import Graph, Node, Tracer
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from ._validation import instance
from .parameter_groups import NORMALISATION

_ADDITIONS = {operator.add, operator.iadd, torch.add, "add", "add_"}
_STOCHASTIC_DEPTH = ("StochasticDepth", "DropPath")  # torchvision's and timm's, neither of which torch brings


def zero_init_residual(module: nn.Module) -> list[str]:
    """Set the weight of the last normalisation layer of each residual branch to zero: blocks start as their shortcuts.

    Args:
        module: A network before training, changed in place; see `residual_norms` for the layers that are found.

    Returns:
        The names of the layers, in the module's order.

    Raises:
        ValueError: If ``module`` is no module, no layer is found, or one has no weight yet because it is lazy.

    Reference:
        Goyal et al. (2017), section 5.1 and Table 2b.

    Example:
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.first, self.last = nn.Linear(4, 4), nn.BatchNorm1d(4)
        ...
        ...     def forward(self, x):
        ...         return x + self.last(self.first(x))
        >>> network = nn.Sequential(Block(), nn.BatchNorm1d(4))
        >>> zero_init_residual(network)
        ['0.last']
        >>> network[0].last.weight.tolist(), network[1].weight.tolist()
        ([0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0])
    """
    found = residual_norms(module)
    if not found:
        raise ValueError(
            f"module must have residual blocks whose branch ends in a normalisation layer with a weight, found none in "
            f"{type(module).__name__}; blocks that end in a convolution, as pre-activation ones do, have no such weight"
        )
    weights = {name: layer.get_parameter("weight") for name, layer in found.items()}
    for name, weight in weights.items():
        if is_lazy(weight):
            raise ValueError(f"module must not be lazy: {name} has no weight yet; run a batch through it first")
    for weight in weights.values():
        nn.init.zeros_(weight)
    return list(weights)


def residual_norms(module: nn.Module) -> dict[str, nn.Module]:
    """The last normalisation layer of each residual branch, by name.

    They are found by what ``forward`` of each part does, not by names: an addition of two tensors, of which one, the
    branch, has passed more layers with weights than the other, the shortcut, and comes from a normalisation layer
    directly, but for dropout or stochastic depth. So torchvision's ``BasicBlock`` and ``Bottleneck``, their subclasses
    and ghost layers are found, and so are the blocks of MobileNet, EfficientNet and RegNet; the norm of a projection
    shortcut is not, nor that of two equally deep branches. To see an addition, ``forward`` is traced with `torch.fx`,
    on no data; a part for which that fails, since it branches on values, is taken for no block.

    Args:
        module: Any module; stays as it is.

    Returns:
        Layers with a weight, in the module's order.

    Raises:
        ValueError: If ``module`` is no module.

    Example:
        >>> from torchvision.models import resnet18
        >>> list(residual_norms(resnet18()))[:3]
        ['layer1.0.bn2', 'layer1.1.bn2', 'layer2.0.bn2']
    """
    names = {part: name for name, part in instance("module", module, nn.Module).named_modules()}
    ends = {end for part in names for end in _ends_of_branches(part)}
    return {name: part for part, name in names.items() if part in ends}


def _ends_of_branches(block: nn.Module) -> Iterator[nn.Module]:
    """The norms that end a branch which is added in this very block, not in a part of it."""
    graph = _trace(block) if any(isinstance(part, NORMALISATION) for part in block.modules()) else None
    depths: dict[Node, int] = {}
    for node in graph.nodes if graph is not None else ():
        inputs = node.all_input_nodes
        depths[node] = max((depths[before] for before in inputs), default=0) + _weight_layers(block, node)
        adds = node.op in ("call_function", "call_method") and node.target in _ADDITIONS
        if adds and len(inputs) == 2 and depths[inputs[0]] != depths[inputs[1]]:
            end = _norm_before(block, max(inputs, key=depths.__getitem__))
            if end is not None:
                yield end


class _Shallow(Tracer):
    """Traces one ``forward``, and calls none of the parts."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True


def _trace(block: nn.Module) -> Graph | None:
    """What ``forward`` does with the parts of a block; None where it is torch's own or depends on the data."""
    if type(block).__module__.startswith("torch."):
        return None
    try:
        return _Shallow().trace(copy.copy(block))  # a forward may keep something on its module
    except Exception:  # whatever code of the user's raises when it gets no tensor
        return None


def _weight_layers(block: nn.Module, node: Node) -> int:
    """How many layers with a weight matrix or kernel are in the part that is called here."""
    if node.op != "call_module":
        return 0
    layers = block.get_submodule(str(node.target)).modules()
    return sum(any(is_lazy(p) or p.dim() > 1 for p in layer.parameters(recurse=False)) for layer in layers)


def _norm_before(block: nn.Module, node: Node) -> nn.Module | None:
    """The norm whose output this is, as it is or with some of it dropped."""
    while node.op == "call_module":
        part = block.get_submodule(str(node.target))
        if not _only_drops(part):
            return _last_norm(part)
        node = node.all_input_nodes[0]
    return None


def _last_norm(part: nn.Module) -> nn.Module | None:
    """The norm with a weight that a part of the network ends in."""
    if isinstance(part, NORMALISATION):
        return part if isinstance(part.weight, nn.Parameter) else None
    if _is_sequence(part):
        layers = [layer for layer in part.children() if not _only_drops(layer)]
        return _last_norm(layers[-1]) if layers else None
    graph = _trace(part)
    if graph is None:
        return None
    (returned,) = (node.args[0] for node in graph.nodes if node.op == "output")
    return _norm_before(part, returned) if isinstance(returned, Node) else None


def _only_drops(part: nn.Module) -> bool:
    if _is_sequence(part):
        return all(map(_only_drops, part.children()))
    return isinstance(part, nn.Identity | _DropoutNd) or type(part).__name__ in _STOCHASTIC_DEPTH


def _is_sequence(part: nn.Module) -> bool:
    return isinstance(part, nn.Sequential) and type(part).forward is nn.Sequential.forward
