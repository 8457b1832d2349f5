"""Mode connectivity: a curve between two solutions, trained at random points so that its loss is low."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any, get_args

import torch
from torch import Tensor, nn

from .._validation import function, instance, one_of, real_number, refusal, seed_number, whole_number
from ._places import Places, same_state
from .curve import CurveKind, WeightCurve
from .points import State, WeightPoints, check_same_network, checked_state


def connect(
    module: nn.Module,
    start: State,
    end: State,
    loss_fn: Callable[[Any, Any], Tensor],
    loader: Iterable[Any],
    *,
    kind: CurveKind = "bezier",
    bends: int = 1,
    epochs: int = 100,
    learning_rate: float = 0.03,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    seed: int = 0,
) -> WeightCurve:
    """Train a curve between two solutions on which the loss stays low.

    Minimises the mean of the loss over t, uniform from 0 to 1, one t for each batch, with SGD on the nodes between
    the ends, which start on the straight line. The ends stay. The learning rate is constant for half of the epochs and
    then falls linearly to 1 % at nine tenths.

    Args:
        module: Their network, trained in training mode; on return it is as before, also after an exception.
        start: `state_dict` of one solution.
        end: `state_dict` of the other.
        loss_fn: Mean loss of a batch, a function of (module, batch).
        loader: Batches, read once an epoch.
        kind: "bezier" or "chain"; see `WeightCurve`.
        bends: Nodes between the ends.
        epochs: Passes over ``loader``; the paper takes 200 to 600, and more than for the solutions.
        learning_rate: The paper's: 0.015 for VGG, 0.03 for residual networks.
        momentum: Of SGD.
        weight_decay: Of the point on the curve, not of the nodes: ``weight_decay / 2 * ||w(t)||**2`` is in the loss.
            The paper takes that of the solutions.
        seed: Of t, and of what ``loader`` and dropout draw from torch's own generator.

    Returns:
        The curve.

    Raises:
        ValueError: If the two are states of different networks, the loader is empty, or the loss is not finite.

    Reference:
        Garipov et al. (2018), sections 3 and 3.2.

    Example:
        >>> ring = lambda module, batch: (module.weight.norm() - batch.mean()).square()  # solutions at distance 1
        >>> ends = [{"weight": torch.tensor([[x, 0.1]])} for x in (-1.0, 1.0)]
        >>> curve = connect(nn.Linear(2, 1, bias=False), *ends, ring, [torch.ones(1)], epochs=300)
        >>> bool(curve.nodes[1]["weight"].norm() > 1.5)  # the curve goes around the hill in the middle
        True
    """
    module = instance("module", module, nn.Module)
    function("loss_fn", loss_fn, "(module, batch)")
    check_same_network(start=start, end=end)
    bends, epochs = whole_number("bends", bends), whole_number("epochs", epochs)
    learning_rate = real_number("learning_rate", learning_rate, above=0)
    momentum = real_number("momentum", momentum, at_least=0, below=1)
    weight_decay = real_number("weight_decay", weight_decay, at_least=0)
    seed = seed_number("seed", seed)
    if (
        hasattr(loader, "__array__")
        or isinstance(loader, Mapping | Set | str | bytes)
        or not isinstance(loader, Iterable)
    ):
        raise ValueError(refusal("loader", "must give batches, anew for each epoch", loader))
    if torch.is_inference_mode_enabled():
        raise ValueError("connect trains, and there are no gradients under torch.inference_mode; call it outside")
    nodes = _on_the_line(checked_state("start", start), checked_state("end", end), bends)
    curve = WeightCurve(nodes, one_of("kind", kind, get_args(CurveKind)))
    generator = torch.Generator().manual_seed(seed)
    with same_state(module), torch.enable_grad():
        torch.manual_seed(seed)
        module.train()
        Places(module, WeightPoints(curve.nodes, [curve.weights_at(0)])).move(0)  # buffers too
        weights = dict(module.named_parameters())
        trained = {name: weight for name, weight in weights.items() if weight.requires_grad}
        if not trained:
            raise ValueError("module has no trained parameters; a curve moves those that require grad")
        states = [{n: node[n].to(w, copy=True) for n, w in weights.items()} for node in curve.nodes]
        moved = [node[name] for node in states[1:-1] for name in trained]
        optimizer = torch.optim.SGD(moved, learning_rate, momentum=momentum)
        for epoch in range(epochs):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * _decay(epoch / epochs)
            batches = 0
            for batch in loader:
                factors = curve.weights_at(float(torch.rand((), generator=generator)))
                _move(weights, states, factors)
                loss = loss_fn(module, batch)
                if not bool(torch.isfinite(loss)):
                    raise ValueError(
                        f"the loss on the curve is {float(loss.detach())} in epoch {epoch}; lower learning_rate="
                        f"{learning_rate:g}"
                    )
                slopes = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
                for (name, weight), slope in zip(trained.items(), slopes, strict=True):
                    whole = weight_decay * weight.detach() + (0 if slope is None else slope)
                    for node, factor in zip(states[1:-1], factors[1:-1], strict=True):
                        node[name].grad = whole * factor  # as the point is a sum of nodes times factors
                optimizer.step()
                batches += 1
            if not batches:
                raise ValueError("loader gave no batch; pass one that can be read anew for each epoch")
        names = _first_names(module)
        inner = [
            {name: new[names[name]] if name in names else value for name, value in node.items()}
            for node, new in zip(curve.nodes[1:-1], states[1:-1], strict=True)
        ]
        for tensor in moved:
            tensor.grad = None
    return WeightCurve([curve.nodes[0], *inner, curve.nodes[-1]], curve.kind)


def _on_the_line(start: State, end: State, bends: int) -> list[State]:
    shares = [j / (bends + 1) for j in range(1, bends + 1)]
    between = [
        {name: torch.lerp(a, end[name].to(a), share) if a.is_floating_point() else a for name, a in start.items()}
        for share in shares
    ]
    return [start, *between, end]


@torch.no_grad()
def _move(weights: Mapping[str, Tensor], states: Sequence[State], factors: Sequence[float]) -> None:
    """Put the module's weights on the curve."""
    for name, weight in weights.items():
        weight.zero_()
        for factor, state in zip(factors, states, strict=True):
            weight.add_(state[name], alpha=factor)
    torch.clear_autocast_cache()


def _decay(progress: float) -> float:
    """Flat for half of the run, then linearly to 1 % at nine tenths."""
    if progress <= 0.5:
        return 1.0
    return 1.0 - 0.99 * min(1.0, (progress - 0.5) / 0.4)


def _first_names(module: nn.Module) -> dict[str, str]:
    """For every name of a parameter the first that it has: tied ones have several."""
    first = {id(weight): name for name, weight in module.named_parameters()}
    return {name: first[id(weight)] for name, weight in module.named_parameters(remove_duplicate=False)}
