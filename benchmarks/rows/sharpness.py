"""Sharpness in the full space, ours beside SciPy's L-BFGS-B as the paper uses it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from measuring import interleaved, mean_loss
from sharpness_memory import measured_apart
from sharpness_peers import scipy_as_it_comes

from lightning_gap.functional import DatasetLoss, sharpness
from rows.row import Row, milliseconds, ratios
from rows.solutions import solution

SCIPY = "SciPy's L-BFGS-B, 10 iterations"
CASES = (("small", 128), ("small", 256), ("large", 256))  # regime, and units of a layer


def time_rows(rounds: int, *, quick: bool) -> Iterator[Row]:
    """F1, trained on digits with a small or a large batch, 500 samples, epsilon 1e-3: time, and the value reached.

    SciPy's tolerances are 0. Ours makes 7 evaluations by default; in the other row as many as SciPy's 10 iterations.
    """
    for regime, width in CASES[:1] if quick else CASES:
        network, chunks = solution(regime, width)
        loss, params = DatasetLoss(network, mean_loss, chunks), list(network.parameters())
        scipy = partial(scipy_as_it_comes, network, chunks, epsilon=1e-3, tolerance=0.0)
        name = f"sharpness, {regime} batch, {width} units"
        ours = {f"{name}, 7 evaluations": partial(sharpness, loss, params)}
        if not quick:
            as_many = partial(sharpness, loss, params, max_evaluations=scipy()[1])
            ours[f"{name}, as many evaluations"] = as_many
        times, found = interleaved({**ours, SCIPY: scipy}, rounds + 1, time.process_time)
        for name in ours:
            share = f"reaches {found[name].percent / found[SCIPY][0]:.2f} of its value"
            yield Row(name, SCIPY, ratios(times[name], times[SCIPY]), milliseconds(times[name]), share)


def memory_rows(rounds: int, *, quick: bool) -> Iterator[Row]:  # noqa: ARG001
    """Most resident memory of one measurement of F1 beyond what was there before, in copies of the weights.

    Each in a process of its own; few samples, so that activations do not count.
    """
    found = measured_apart(min(rounds, 3))
    for ours in ("corner", "eigenvalue"):
        for way, peer in {"lbfgsb": SCIPY, "one backward pass": "one backward pass"}.items():
            if (ours, way) != ("eigenvalue", "lbfgsb"):
                pairs = zip(found[ours], found[way], strict=True)
                name = "sharpness, 7 evaluations" if ours == "corner" else "largest eigenvalue, 7 products"
                yield Row(name, peer, tuple(a / b for a, b in pairs), f"{found[ours][0]:.3g} copies")
