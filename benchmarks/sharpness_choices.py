"""What each choice that Metric 2.1 leaves open does to the number, on one small-batch and one large-batch solution.

python benchmarks/sharpness.py DATA_DIR CHECKPOINTS --rows '[choices]'
python benchmarks/sharpness.py DATA_DIR CHECKPOINTS --rows '[choices]' --only '[small-1/epoch-30, large-1/epoch-100]'
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from measuring import mean_loss, say, table
from sharpness_bench import Bench, whole
from torch import nn

from lightning_gap.functional import (
    DatasetLoss,
    RandomSubspace,
    average_sharpness,
    hessian_eigenvalues,
    hessian_trace,
    layer_sharpness,
    m_sharpness,
    sharpness,
    subspace_sharpness,
)
from lightning_gap.functional.sharpness.result import Method
from lightning_gap.recipes.networks import F1


def choices(bench: Bench) -> str:
    """What each choice that Metric 2.1 leaves open does to the number."""
    found: dict[str, list[str]] = {}
    for name, network in bench.networks("small-0/epoch-30", "large-0/epoch-100"):
        for choice, measured in _choices(bench, network):
            found.setdefault(choice, []).append(measured())
            say(name, choice, found[choice][-1])
    return table("choice | small | large", [(choice, *values) for choice, values in found.items()])


def _choices(bench: Bench, network: F1) -> Iterator[tuple[str, Callable[[], str]]]:
    """A name and what measures it, in the order of the table."""
    weights = dict(network.named_parameters())

    def loss(samples: int = bench.samples, chunk: int = 0, batch_norm: str = "running") -> DatasetLoss:
        return bench.loss(network, samples, chunk=chunk, batch_norm=batch_norm)

    def percent(measured: DatasetLoss, **terms: object) -> str:
        return f"{sharpness(measured, weights, **terms).percent:.4g}"  # type: ignore[arg-type]

    def at_scale(factor: float, **terms: object) -> str:
        _rescale(network, factor)
        value = sharpness(loss(), weights, **terms)  # type: ignore[arg-type]
        _rescale(network, 1 / factor)
        return f"{value.percent:.4g} (loss {value.loss:.3g})"

    def subspace(scale: float, method: Method = "lbfgsb") -> str:
        found = subspace_sharpness(loss(), weights, subspace=RandomSubspace(100, scale=scale), method=method)
        return f"{found.percent:.3g} ± {found.standard_deviation:.2g}"

    def groups(samples: int) -> str:
        batches = bench.batches(1000, chunk=samples)
        found = m_sharpness([DatasetLoss(network, mean_loss, [batch]) for batch in batches], weights)
        return f"{found.rise:.3g} ± {found.standard_error:.2g}"

    def layers() -> str:
        found = {name: s.percent for name, s in layer_sharpness(loss(), weights).items() if "layers." in name}
        sharpest = max(found, key=lambda name: found[name])
        return f"{found[sharpest]:.3g} ({sharpest})"

    yield (
        f"default: corner, 7 evaluations, {bench.samples} samples, running statistics, 1e-3",
        lambda: percent(loss()),
    )
    yield "without halves", lambda: percent(whole(loss()))
    yield "5 / 25 evaluations", lambda: " / ".join(percent(loss(), max_evaluations=k) for k in (5, 25))
    yield (
        "L-BFGS-B, 5 / 10 / 20 iterations",
        lambda: " / ".join(percent(loss(), method="lbfgsb", max_iterations=k) for k in (5, 10, 20)),
    )
    yield "epsilon 5e-4", lambda: percent(loss(), epsilon=5e-4)
    for mode in ("batch", "recomputed"):
        yield f"{mode} statistics", partial(lambda m: percent(loss(batch_norm=m)), mode)
    yield (
        "batch statistics of 100 / 2,000",
        lambda: " / ".join(percent(loss(chunk=c, batch_norm="batch")) for c in (100, 2000)),
    )
    yield "500 / 1,000 / 10,000 samples", lambda: " / ".join(percent(loss(n)) for n in (500, 1000, 10_000))
    yield "all 60,000 samples", lambda: percent(loss(60_000, 5000))
    yield "ascent on 10,000, loss on all", lambda: percent(loss(10_000, 5000), report_on=loss(60_000, 5000))
    yield "subspace of 100, entries of unit variance, 5 draws", lambda: subspace(1.0)
    size = sum(w.numel() for w in weights.values())  # L-BFGS-B may not leave its start where so little changes
    yield "the same, orthonormal columns, corner", lambda: subspace(size**-0.5, "corner")
    for factor in (0.5, 2.0, 10.0):
        yield f"weights before BatchNorm times {factor:g}", partial(at_scale, factor)
    yield "relative box, 0.02", lambda: percent(loss(), relative=True, epsilon=0.02)
    yield "relative box, weights times 10", partial(at_scale, 10.0, relative=True, epsilon=0.02)
    yield "ball of 0.05 / 0.1", lambda: " / ".join(percent(loss(), norm="l2", epsilon=r) for r in (0.05, 0.1))
    yield "m-sharpness, ball of 0.05, m = 20 / 500 (rise)", lambda: " / ".join(groups(m) for m in (20, 500))
    yield "average direction (rise)", lambda: f"{average_sharpness(loss(), weights).rise:.2g}"
    yield "sharpest layer alone", layers
    yield (
        "largest / smallest eigenvalue",
        lambda: "{0.largest:.3g} / {0.smallest:.2g}".format(hessian_eigenvalues(loss(), weights)),
    )
    yield "trace", lambda: "{0.trace:.3g} ± {0.standard_error:.2g}".format(hessian_trace(loss(), weights))


def _rescale(network: F1, factor: float) -> None:
    """Multiply weights and biases before every BatchNorm, and its statistics alike: the function stays the same."""
    linear = [layer for layer in network.layers if isinstance(layer, nn.Linear)][:-1]
    norms = [layer for layer in network.layers if isinstance(layer, nn.BatchNorm1d)]
    with torch.no_grad():
        for before, norm in zip(linear, norms, strict=True):
            before.weight.mul_(factor)
            before.bias.mul_(factor)
            norm.running_mean.mul_(factor)
            norm.running_var.add_(norm.eps).mul_(factor**2).sub_(norm.eps)
