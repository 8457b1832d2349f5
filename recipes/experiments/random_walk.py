"""Hoffer et al. (2017), section 3: a walk in a random potential gets as far as the logarithm of its steps.

Their model of the first phase of training: where losses at distance d differ by about ``d^(alpha / 2)``, the weights
are ``(log t)^(2 / alpha)`` from where they began. Here on a line, where it can be computed without walking: the
potential is fractional Brownian motion, and the mean time to reach a distance follows from it exactly.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from ..reports.drawing import SERIES, blank, label, legend_below, line_with_band
from ..reports.parts import Chart, Numbers, Part, Published, Table
from ..runner.measurement import Measurement
from .experiment import Experiment, Findings
from .scales import Choice

ALPHAS = (1.0, 1.5, 1.9)  # at 2, the paper's, potentials are straight lines, and there is nothing to average over
POTENTIALS = {"tiny": 20, "small": 400, "paper": 2000}
DISTANCES = tuple(2**i for i in range(4, 15))  # 16 to 16,384


def log_times(_: Path, *, alpha: float, seed: int, potentials: int, distances: Sequence[int]) -> list[float]:
    """Mean over potentials of the logarithm of the mean time to reach each distance first.

    Args:
        _: Folder of the data, of which there is none.
        alpha: ``E (V(i) - V(j))^2 = |i - j|^alpha``.
        seed: Of the potentials.
        potentials: How many.
        distances: Where the time is asked for.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = [fractional_brownian_motion(max(distances), alpha, generator) for _ in range(potentials)]
    times = log_mean_times(torch.stack(drawn)).mean(0)
    return [float(times[distance - 1]) for distance in distances]


def fractional_brownian_motion(length: int, alpha: float, generator: torch.Generator) -> torch.Tensor:
    """A path V(0) = 0, ..., V(length) with variance ``|i - j|^alpha`` of its differences (Davies and Harte 1987)."""
    lags = torch.arange(length + 1, dtype=torch.float64)
    covariance = ((lags + 1) ** alpha - 2 * lags**alpha + (lags - 1).abs() ** alpha) / 2  # of its steps
    circle = torch.cat([covariance, covariance[1:-1].flip(0)])
    spectrum = torch.fft.rfft(circle).real.clamp(min=0)  # not negative for this covariance; rounding may be
    normal = torch.randn(len(circle), generator=generator, dtype=torch.float64)
    steps = torch.fft.irfft(spectrum.sqrt() * torch.fft.rfft(normal), n=len(circle))[:length]
    return torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)])


def log_mean_times(potentials: torch.Tensor) -> torch.Tensor:
    """Logarithms of the mean numbers of steps from 0 to 1, 2, ..., L.

    The walker steps from i to i + 1 with probability ``1 / (1 + exp(V(i + 1) - V(i)))``, else back; at 0 always on.

    Args:
        potentials: V at 0, ..., L in each row, float64.

    Returns:
        One row for each potential, of length L.
    """
    up = potentials.diff(dim=1)
    # From i to i + 1 it takes h_i = 1 / p_i + q_i / p_i h_(i - 1) steps, where q_i / p_i = exp(V(i + 1) - V(i)).
    steps = [torch.zeros_like(up[:, 0])]
    for i in range(1, up.shape[1]):
        steps.append(torch.logaddexp(torch.nn.functional.softplus(up[:, i]), up[:, i] + steps[-1]))
    return torch.logcumsumexp(torch.stack(steps, dim=1), dim=1)


def measured(choice: Choice, alpha: float, seed: int) -> Measurement:
    """Of a seed's potentials."""
    options = {"alpha": alpha, "seed": seed, "potentials": POTENTIALS[choice.scale], "distances": list(DISTANCES)}
    return Measurement(f"walk-{alpha}", (), log_times, options)


def needs(choice: Choice) -> Iterator[Measurement]:
    for seed in choice.seeds_or(3):
        for alpha in ALPHAS:
            yield measured(choice, alpha, seed)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    figure, (axes,) = blank(4.4)
    rows = list[Sequence[str | Numbers]]()
    for alpha, like in zip(ALPHAS, SERIES, strict=False):
        curves = [found[measured(choice, alpha, seed)] for seed in choice.seeds_or(3)]
        line_with_band(axes, DISTANCES, curves, name=f"alpha {alpha}", like=like)
        below, above = (
            tuple(_exponent(DISTANCES[part], curve[part]) for curve in curves)
            for part in (slice(None, len(DISTANCES) // 2 + 1), slice(len(DISTANCES) // 2, None))
        )
        theory = Published(alpha / 2)
        rows.append((f"{alpha}", Numbers(below, 3, theory), Numbers(above, 3, theory), f"{2 / alpha:.2f}"))
    label(axes, "distance", "log of the mean time", log="xy")
    legend_below(figure, axes)
    yield Chart(
        "Time to reach a distance",
        figure,
        "The logarithm of the mean time against the distance, straight lines on logarithmic axes.",
        "Band: 95 % interval over seeds of the potentials.",
    )
    middle = DISTANCES[len(DISTANCES) // 2]
    head = ["alpha", f"exponent, distances up to {middle}", f"from {middle} on", "of log t in the distance, by theory"]
    note = (
        "Exponent of the distance in log t. By theory, and so in the paper's column, alpha / 2 where distances are "
        "large: at the paper's alpha of 2 time grows like e^d."
    )
    yield Table("Exponents", head, rows, note)


def _exponent(distances: Sequence[float], log_times: Sequence[float]) -> float:
    """Slope of the least-squares line through the logarithms."""
    x, y = (list(map(math.log, values)) for values in (distances, log_times))
    return float(statistics.linear_regression(x, y).slope)


EXPERIMENT = Experiment("Hoffer et al. (2017): a random walk on a random potential", (), needs, show)
