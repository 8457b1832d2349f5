"""Sharpness of F1 on MNIST: value and time, beside SciPy's L-BFGS-B.

    python benchmarks/sharpness_checkpoints.py DATA_DIR CHECKPOINTS
    python benchmarks/sharpness.py DATA_DIR CHECKPOINTS --out benchmarks/results/sharpness-cpu.md
    python benchmarks/sharpness.py DATA_DIR CHECKPOINTS --rows '[time, log]' --allocator keeping

Times are wall time. In every round each variant runs once, in turn, and a ratio is the median over rounds of the ratio
within a round. "SciPy" is `sharpness(method="lbfgsb")`: the paper's 10 iterations of L-BFGS-B, both tolerances 0, the
best value seen; "corner" is the default method. Curvature beside public tools, and memory: `against_peers.py`.
``--allocator keeping`` asks glibc to keep freed memory; by default it goes back to the operating system, and page
faults are part of the time.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from measuring import Cells, command, interleaved, keep_freed_memory, machine, mean_loss, ratio, say, table
from sharpness_bench import Bench, Section, section, whole
from sharpness_choices import choices
from sharpness_peers import scipy_as_it_comes
from torch import nn
from torch.utils.data import TensorDataset

from lightning_gap.functional import Sharpness, epsilon_name, sharpness, sharpness_profile
from lightning_gap.recipes import MNIST
from lightning_gap.recipes.lookup import lookup
from lightning_gap.recipes.networks import F1

EPSILONS = (1e-3, 5e-4)
BUDGETS = (3, 4, 5, 6, 7, 10, 13)


def value(bench: Bench) -> str:
    """Corner with 7 evaluations against SciPy with 10 iterations, on every checkpoint."""
    rows: list[Cells] = []
    found: dict[tuple[str, str], list[float]] = {}
    kinds = sorted(bench.folder.glob("*-*/epoch-*.pt"), key=lambda p: (p.parent.name, int(p.stem.split("-")[1])))
    for name, network in bench.networks(*(f"{path.parent.name}/{path.stem}" for path in kinds)):
        for mode in ("running", "batch"):
            loss = bench.loss(network, bench.samples, batch_norm=mode)
            scipy = sharpness_profile(loss, network.parameters(), EPSILONS, method="lbfgsb")
            corner = sharpness_profile(loss, network.parameters(), EPSILONS, max_evaluations=7)
            alone = sharpness_profile(whole(loss), network.parameters(), EPSILONS, max_evaluations=7)
            for s, c, w in zip(scipy, corner, alone, strict=True):
                ratios = [r.percent / s.percent if s.percent else math.nan for r in (c, w)]
                epsilon = epsilon_name(s.epsilon)
                cells = (s.largest_gradient, s.percent, s.evaluations, c.percent, ratios[0], w.percent, ratios[1])
                rows.append((name, mode, epsilon, *cells))
                say(*rows[-1])
                for group in (f"all, {mode}, {epsilon}", f"{name.split('-')[0]}, {mode}, {epsilon}", "all"):
                    for method, r in zip(("default", "no halves"), ratios, strict=True):
                        if r > 0:
                            found.setdefault((group, method), []).append(r)
                        else:
                            say("no ratio", method, r)
    header = "checkpoint | BN | epsilon | largest gradient | SciPy | evaluations | default | ratio | no halves | ratio"
    best = [(*key, len(r), min(r), statistics.geometric_mean(r)) for key, r in sorted(found.items())]
    summary = table("checkpoints | method | number | lowest ratio | geometric mean", best)
    return f"{summary}\n\n{table(header, rows)}\n\n{false_zero(bench)}"


def false_zero(bench: Bench) -> str:
    """What SciPy's own tolerances make of well-converged large-batch solutions."""
    late = sorted(f"{path.parent.name}/{path.stem}" for path in bench.folder.glob("large-*/epoch-100.pt"))
    rows: list[Cells] = []
    for name, network in replace(bench, only=[name for name in bench.only or late if name in late]).networks():
        corner = sharpness(bench.loss(network, bench.samples), network.parameters())
        percent, evaluations, message = scipy_as_it_comes(network, bench.batches(bench.samples), epsilon=1e-3)
        rows.append((name, corner.largest_gradient, percent, evaluations, message, corner.percent))
        say(*rows[-1])
    return table("checkpoint | largest gradient | SciPy, own tolerances | evaluations | it says | corner, 7", rows)


@section("samples | method | evaluations | value | to SciPy's | s | SciPy's time over it")
def time_to_value(bench: Bench, network: F1) -> Iterator[Cells]:
    """Time of SciPy's 10 iterations against that of the fewest evaluations by which corner is as high."""
    for samples in (bench.samples, bench.everything):
        loss = bench.loss(network, samples)
        run = partial(sharpness, loss, list(network.parameters()))
        highest = run(method="lbfgsb").highest_loss
        reached = next((k for k in BUDGETS if run(max_evaluations=k).highest_loss >= highest), None)
        corner = f"corner, {reached} evaluations" if reached else f"corner, does not reach it in {BUDGETS[-1]}"
        variants: dict[str, Callable[[], Sharpness]] = {
            "SciPy": partial(run, method="lbfgsb"),
            corner: partial(run, max_evaluations=reached or BUDGETS[-1]),
        }
        if samples == bench.everything:
            ten = bench.loss(network, samples // 6)
            on_ten = partial(sharpness, ten, list(network.parameters()), report_on=loss)
            variants |= {
                f"corner, {k} on {ten.samples}, value on all": partial(on_ten, max_evaluations=k) for k in (5, 7)
            }
        times, results = interleaved(variants, bench.rounds)
        for variant, result in results.items():
            share, less = result.percent / results["SciPy"].percent, ratio(times["SciPy"], times[variant])
            seconds = statistics.median(times[variant])
            yield samples, variant, result.evaluations, result.percent, share, seconds, less


@section("ascent | evaluations | value | of that on all | epochs")
def accurate(bench: Bench, network: F1) -> Iterator[Cells]:
    """Ascent on a sixth of the samples, loss on all, against ascent on all; time in epochs at batch 256."""
    on_all, ten = bench.loss(network, bench.everything), bench.loss(network, bench.everything // 6)
    params, k = list(network.parameters()), bench.evaluations
    variants: dict[str, Callable[[], Sharpness | None]] = {
        "epoch": bench.epoch(network),
        "on all": partial(sharpness, on_all, params, max_evaluations=k),
        f"on {ten.samples}": partial(sharpness, ten, params, max_evaluations=k, report_on=on_all),
    }
    times, results = interleaved(variants, bench.rounds)
    reference = results["on all"]
    for variant, result in results.items():
        if result is not None and reference is not None:
            share, epochs = result.percent / reference.percent, ratio(times[variant], times["epoch"])
            yield variant, result.evaluations, result.percent, share, epochs


@section("measurement | evaluations | values | s | of an epoch")
def per_epoch_log(bench: Bench, network: F1) -> Iterator[Cells]:
    """The monitor's measurement, two epsilon on 768 samples in chunks of 192, as a share of an epoch at batch 256."""
    run = partial(sharpness_profile, bench.loss(network, 768, chunk=250), list(network.parameters()), EPSILONS)
    variants: dict[str, Callable[[], tuple[Sharpness, ...] | None]] = {
        "epoch": bench.epoch(network),
        **{f"{k} evaluations": partial(run, max_evaluations=k) for k in sorted({bench.evaluations, 7})},
    }
    times, results = interleaved(variants, bench.rounds)
    for variant, found in results.items():
        if found is not None:
            evaluations, percents = [str(r.evaluations) for r in found], [f"{r.percent:.4g}" for r in found]
            seconds, share = statistics.median(times[variant]), ratio(times[variant], times["epoch"])
            yield variant, ", ".join(evaluations), ", ".join(percents), seconds, share


def bare_passes(network: nn.Module, batches: list[Any], like: Sharpness) -> None:
    """As many evaluations as this result took, the gradients left to add up in `.grad`, and nothing else."""
    network.eval()
    for i in range(like.evaluations):
        network.zero_grad()
        with torch.set_grad_enabled(i < like.gradients):
            for batch in batches:
                part = mean_loss(network, batch) / len(batches)
                if i < like.gradients:
                    part.backward()


@section("evaluations | with gradient | s | s of bare passes | share of our own code")
def own_code(bench: Bench, network: F1) -> Iterator[Cells]:
    """What `sharpness` takes beyond as many bare passes."""
    params, batches = list(network.parameters()), bench.batches(bench.samples)
    loss = bench.loss(network, bench.samples)
    for k in (5, 7):
        found = sharpness(loss, params, max_evaluations=k)
        ours: Callable[[], Any] = partial(sharpness, loss, params, max_evaluations=k)
        times, _ = interleaved({"ours": ours, "passes": partial(bare_passes, network, batches, found)}, bench.rounds)
        network.zero_grad()
        share = 1 - ratio(times["passes"], times["ours"])
        yield found.evaluations, found.gradients, *map(statistics.median, times.values()), share


@section("samples | value | to that on all | ascent on them, value on all")
def subsets(bench: Bench, network: F1) -> Iterator[Cells]:
    """The value on fewer samples against that on all; also the loss on all at the point that they name."""
    everything, params = bench.loss(network, bench.everything), list(network.parameters())
    reference = sharpness(everything, params, max_evaluations=bench.evaluations).percent
    for samples in (bench.everything // 60, bench.everything // 30, bench.everything // 6):
        run = partial(sharpness, bench.loss(network, samples), params, max_evaluations=bench.evaluations)
        own, on_all = run().percent, run(report_on=everything).percent
        yield samples, own, own / reference, on_all / reference


SECTIONS: dict[str, tuple[str, Section]] = {
    "value": ("Value", value),
    "time": ("Time to SciPy's value", time_to_value),
    "accurate": ("Accurate value", accurate),
    "log": ("Log of every epoch", per_epoch_log),
    "own": ("Own code beyond the passes", own_code),
    "samples": ("Samples", subsets),
    "choices": ("Choices", choices),
}
USUAL = [name for name in SECTIONS if name not in ("samples", "choices")]


def main(
    data_dir: Path,
    checkpoints: Path,
    rows: list[str] = USUAL,
    only: list[str] = [],  # noqa: B006
    samples: int = 2000,
    everything: int = 60_000,
    rounds: int = 3,
    evaluations: int = 7,
    threads: int = 1,
    allocator: Literal["default", "keeping"] = "default",
    out: Path | None = None,
) -> None:
    """Measure the sections asked for; the file is written anew after each.

    Args:
        data_dir: Folder that holds MNIST/raw.
        checkpoints: Folder that the experiment keskar-tables wrote.
        rows: Sections, by their keys in ``SECTIONS``.
        only: Checkpoints instead of a section's own: small-0/epoch-30.
        samples: Training samples.
        everything: How many samples "all" are; fewer for a trial.
        rounds: How often each variant takes its turn.
        evaluations: In accurate, log and samples.
        threads: CPU threads.
        allocator: glibc's: as it is, or keeping freed memory.
        out: Markdown file to write as well.
    """
    if allocator == "keeping":
        keep_freed_memory()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    mnist = MNIST(batch_size=1, data_dir=data_dir)
    mnist.setup()
    data = TensorDataset(*mnist.train.whole())
    bench = Bench(checkpoints, only, data, samples, everything, rounds, evaluations)
    text = f"# Sharpness\n\n{machine(packages=['numpy', 'scipy'])}; allocator: {allocator}. F1 on MNIST, "
    text += f"{samples} samples in chunks of {bench.chunk}, medians of {rounds} rounds. Made by "
    text += "`benchmarks/sharpness.py`, whose head says how.\n"
    for name in rows:
        title, measured = SECTIONS[lookup("section", name, SECTIONS)]
        say(title)
        text += f"\n## {title}\n\n{measured.__doc__}\n\n{measured(bench)}\n"
        if out is not None:
            out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    command(main)
