"""Does the gap close, and does sharpness go when it does? Every remedy on Keskar et al.'s networks.

Ours: nobody has published it. Each remedy's test accuracy beside the small and the large batch, the share of the gap
that it brings back, how sharp the solution is by four measures, and whether any of them ranks the remedies as the gap
does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..intervals import mean_interval
from ..regimes import REGIMES
from ..reports.drawing import blank, label, legend_below, look
from ..reports.parts import Chart, Numbers, Part, Table
from ..runner.measurement import Measurement
from ..runner.run_store import RunSpec
from .experiment import Experiment, Findings
from .gap_table import gap_table, gaps_of
from .measures import other_sharpness
from .ranks import rank_table
from .scales import Choice

_MAIN = ("small", "large", "sqrt-lr", "linear-lr", "ghost", "ghost-lr", "growing", "piggyback", "longer")
_OF_NETWORK: dict[str, tuple[str, ...]] = {
    "digits": tuple(name for name in REGIMES if name not in ("augmented", "goyal")),  # images, residual networks
    "c1": (*_MAIN, "sam", "sam-late", "conservative", "penalty", "adversarial"),
    "c3": ("small", "large", "ghost-lr", "sam-late"),
}
_FEWER = {"longer": 2}  # as long as sixteen others
SHARPNESS = {
    "box, batch BN": "Metric 2.1 at 1e-3, corner ascent, the statistics of each chunk",
    "box, running BN": "the same, running statistics",
    "adaptive box": "the same in a box relative to |x| alone at 1e-2, the statistics of each chunk",
    "largest eigenvalue": "of the Hessian, running statistics",
}


def run(choice: Choice, network: str, regime: str, seed: int) -> RunSpec:
    """Of the experiment."""
    return choice.run(network, regime, seed)


def other(spec: RunSpec) -> Measurement:
    """The measures of sharpness that a run does not have already."""
    return Measurement("other-sharpness", (spec,), other_sharpness)


def seeds_of(choice: Choice, network: str, regime: str) -> tuple[int, ...]:
    """Of a regime: fewer of what is as long as many others."""
    fewer = _FEWER.get(regime) if network != "digits" else None
    return choice.seeds_of(network)[:fewer]


def needs(choice: Choice) -> Iterator[RunSpec | Measurement]:
    for network in choice.networks:
        for regime in _OF_NETWORK[network]:
            for seed in seeds_of(choice, network, regime):
                yield other(run(choice, network, regime, seed))


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    for network in choice.networks:
        regimes = _OF_NETWORK[network]
        results = {
            regime: {seed: found[run(choice, network, regime, seed)] for seed in seeds_of(choice, network, regime)}
            for regime in regimes
        }
        measured = {regime: _measures(choice, found, network, regime) for regime in regimes}
        gaps = {regime: gap.by_seed for regime, gap in gaps_of(results).items()}
        yield gap_table(f"{network.upper()}: does it close?", results)
        yield _figure(network, gaps, measured, "box, batch BN", "sharpness, Metric 2.1 at 1e-3, batch BN (%)")
        yield _figure(network, gaps, measured, "largest eigenvalue", "largest eigenvalue of the Hessian")
        rows: list[Sequence[str | Numbers]] = [
            (regime, *(Numbers(tuple(values[name].values()), 1) for name in SHARPNESS))
            for regime, values in measured.items()
        ]
        yield Table(f"{network.upper()}: how sharp", ["regime", *SHARPNESS], rows, "Percent; the eigenvalue as it is.")
        yield from rank_table(network, gaps, measured, SHARPNESS)


def _measures(choice: Choice, found: Findings, network: str, regime: str) -> dict[str, dict[int, float]]:
    """Each measure by seed."""
    values = dict[str, dict[int, float]]({name: {} for name in SHARPNESS})
    for seed in seeds_of(choice, network, regime):
        spec = run(choice, network, regime, seed)
        result, others = found[spec], found[other(spec)]
        for name, value in zip(
            SHARPNESS,
            (result.sharpness_batch["1e-3"], result.sharpness["1e-3"], others["adaptive"], others["eigenvalue"]),
            strict=True,
        ):
            values[name][seed] = value
    return values


def _figure(
    network: str,
    gaps: Mapping[str, Mapping[int, float]],
    measured: Mapping[str, Mapping[str, Mapping[int, float]]],
    name: str,
    label_of_measure: str,
) -> Chart:
    figure, (axes,) = blank(4.8)
    for regime, gap in gaps.items():
        like, own = look(regime), [measured[regime][name][seed] for seed in gap]
        x, y = mean_interval(own), mean_interval(tuple(gap.values()))
        axes.plot([x.mean], [y.mean], like.marker, color=like.color, markersize=7, label=regime, zorder=3)
        axes.plot([x.low, x.high], [y.mean] * 2, color=like.color, linewidth=1.2)
        axes.plot([x.mean] * 2, [y.low, y.high], color=like.color, linewidth=1.2)
    axes.axhline(0, color="0.6", linewidth=0.8)
    label(axes, label_of_measure, "gap to the small batch (points)", log="x")
    legend_below(figure, axes, columns=4)
    return Chart(
        f"{network.upper()}: gap against {name}",
        figure,
        f"The gap to the small batch against {name} of the solution, by regime.",
        "Means over the seeds, bars: 95 % intervals. If flat minima were what generalises, marks would rise from the "
        "lower left to the upper right.",
    )


EXPERIMENT = Experiment(
    "Does the gap close, and does sharpness go when it does?",
    tuple(_OF_NETWORK),
    needs,
    show,
    {"settings of the remedies": "their papers' own, none tuned", **SHARPNESS},
)
