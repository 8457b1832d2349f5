"""Sharpness and curvature on F1: value, time and memory, beside SciPy's L-BFGS-B and public tools.

    lightning-gap experiment keskar-tables --data_dir DATA_DIR --weights CHECKPOINTS
    python benchmarks/sharpness.py DATA_DIR CHECKPOINTS --out benchmarks/results/sharpness-cpu.md
    python benchmarks/sharpness.py DATA_DIR CHECKPOINTS --rows time curvature --allocator keeping

Times are wall time. In every round each variant runs once, in turn, and a ratio is the median over rounds of the ratio
within a round. "SciPy" is `sharpness(method="lbfgsb")`: the paper's 10 iterations of L-BFGS-B, both tolerances 0, the
best value seen; "corner" is the default method. The peers are optional: PyHessian, hessian-eigenthings, curvlinops.
``--allocator keeping`` asks glibc to keep freed memory; by default it goes back to the operating system, and page
faults are part of the time.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from ghost_batch_norm import KEEPS_MEMORY, machine
from sharpness_bench import PAIR, Bench, Cells, Whole, interleaved, mean_loss, ratio, say, table
from sharpness_memory import WAYS, measured_apart
from sharpness_peers import curvature, over_starts, scipy_as_it_comes, versions
from torch import nn
from torch.utils.data import TensorDataset

from lightning_gap.functional import Sharpness, epsilon_name, sharpness, sharpness_profile
from lightning_gap.recipes import MNIST

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
            whole = sharpness_profile(Whole(loss), network.parameters(), EPSILONS, max_evaluations=7)
            for s, c, w in zip(scipy, corner, whole, strict=True):
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
        loss = bench.loss(network, bench.samples)
        corner = sharpness(loss, network.parameters())
        percent, evaluations, message = scipy_as_it_comes(network, bench.batches(bench.samples), epsilon=1e-3)
        rows.append((name, corner.largest_gradient, percent, evaluations, message, corner.percent))
        say(*rows[-1])
    return table("checkpoint | largest gradient | SciPy, own tolerances | evaluations | it says | corner, 7", rows)


def time_to_value(bench: Bench) -> str:
    """Time of SciPy's 10 iterations against that of the fewest evaluations by which corner is as high."""
    rows: list[Cells] = []
    for name, network in bench.networks(*PAIR):
        for samples in (bench.samples, bench.everything):
            loss = bench.loss(network, samples)
            run = partial(sharpness, loss, list(network.parameters()))
            highest = run(method="lbfgsb").highest_loss
            reached = next((k for k in BUDGETS if run(max_evaluations=k).highest_loss >= highest), None)
            variants: dict[str, Callable[[], Sharpness]] = {"SciPy": partial(run, method="lbfgsb")}
            if reached:
                variants[f"corner, {reached} evaluations"] = partial(run, max_evaluations=reached)
            else:
                variants[f"corner, does not reach it in {BUDGETS[-1]}"] = partial(run, max_evaluations=BUDGETS[-1])
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
                rows.append((name, samples, variant, result.evaluations, result.percent, share, seconds, less))
                say(*rows[-1])
    return table("checkpoint | samples | method | evaluations | value | to SciPy's | s | SciPy's time over it", rows)


def accurate(bench: Bench) -> str:
    """Ascent on a sixth of the samples, loss on all, against ascent on all; time in epochs at batch 256."""
    rows: list[Cells] = []
    for name, network in bench.networks(*PAIR):
        whole, ten = bench.loss(network, bench.everything), bench.loss(network, bench.everything // 6)
        params, k = list(network.parameters()), bench.evaluations
        on_ten = partial(sharpness, ten, params, report_on=whole)
        variants: dict[str, Callable[[], Sharpness | None]] = {
            "epoch": bench.epoch(network),
            "on all": partial(sharpness, whole, params, max_evaluations=k),
            f"on {ten.samples}": partial(on_ten, max_evaluations=k),
        }
        times, results = interleaved(variants, bench.rounds)
        reference = results["on all"]
        for variant, result in results.items():
            if result is not None and reference is not None:
                share, epochs = result.percent / reference.percent, ratio(times[variant], times["epoch"])
                rows.append((name, variant, result.evaluations, result.percent, share, epochs))
                say(*rows[-1])
    return table("checkpoint | ascent | evaluations | value | of that on all | epochs", rows)


def per_epoch_log(bench: Bench) -> str:
    """The monitor's measurement, two epsilon on 768 samples in chunks of 192, as a share of an epoch at batch 256."""
    rows: list[Cells] = []
    for name, network in bench.networks(*PAIR):
        loss = bench.loss(network, 768, chunk=250)
        run = partial(sharpness_profile, loss, list(network.parameters()), EPSILONS)
        variants: dict[str, Callable[[], tuple[Sharpness, ...] | None]] = {
            "epoch": bench.epoch(network),
            **{f"{k} evaluations": partial(run, max_evaluations=k) for k in sorted({bench.evaluations, 7})},
        }
        times, results = interleaved(variants, bench.rounds)
        for variant, found in results.items():
            if found is not None:
                percents = ", ".join(f"{r.percent:.4g}" for r in found)
                seconds, share = statistics.median(times[variant]), ratio(times[variant], times["epoch"])
                rows.append((name, variant, ", ".join(str(r.evaluations) for r in found), percents, seconds, share))
                say(*rows[-1])
    return table("checkpoint | measurement | evaluations | values | s | of an epoch", rows)


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


def own_code(bench: Bench) -> str:
    """What `sharpness` takes beyond as many bare passes; and its peak memory."""
    rows: list[Cells] = []
    for name, network in bench.networks(*PAIR):
        params, batches = list(network.parameters()), bench.batches(bench.samples)
        loss = bench.loss(network, bench.samples)
        for k in (5, 7):
            found = sharpness(loss, params, max_evaluations=k)
            whole: Callable[[], Any] = partial(sharpness, loss, params, max_evaluations=k)
            passes: Callable[[], Any] = partial(bare_passes, network, batches, found)
            times, _ = interleaved({"whole": whole, "passes": passes}, bench.rounds)
            network.zero_grad()
            share = 1 - ratio(times["passes"], times["whole"])
            rows.append((name, found.evaluations, found.gradients, *map(statistics.median, times.values()), share))
            say(*rows[-1])
    time = table("checkpoint | evaluations | with gradient | s | s of bare passes | share of our own code", rows)
    memory = table("measured | floats per weight", [(way, measured_apart(way)) for way in WAYS])
    return f"{time}\n\nPeak of resident memory, see `sharpness_memory.py`:\n\n{memory}"


def subsets(bench: Bench) -> str:
    """The value on fewer samples against that on all; also the loss on all at the point that they name."""
    rows: list[Cells] = []
    for name, network in bench.networks(*PAIR):
        whole, params = bench.loss(network, bench.everything), list(network.parameters())
        reference = sharpness(whole, params, max_evaluations=bench.evaluations).percent
        for samples in (bench.everything // 60, bench.everything // 30, bench.everything // 6):
            run = partial(sharpness, bench.loss(network, samples), params, max_evaluations=bench.evaluations)
            own, on_all = run().percent, run(report_on=whole).percent
            rows.append((name, samples, own, own / reference, on_all / reference))
            say(*rows[-1])
    return table("checkpoint | samples | value | to that on all | ascent on them, value on all", rows)


SECTIONS: dict[str, tuple[str, Callable[[Bench], str]]] = {
    "value": ("Value", value),
    "time": ("Time to SciPy's value", time_to_value),
    "accurate": ("Accurate value", accurate),
    "log": ("Log of every epoch", per_epoch_log),
    "own": ("Own code beyond the passes", own_code),
    "curvature": ("Curvature", curvature),
    "starts": ("Curvature, nine random starts", over_starts),
    "samples": ("Samples", subsets),
}


def main() -> None:
    """Measure the sections asked for; the file is written anew after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path, help="folder that holds MNIST/raw")
    parser.add_argument("checkpoints", type=Path, help="folder that the experiment keskar-tables wrote")
    parser.add_argument("--rows", nargs="+", choices=SECTIONS, default=[s for s in SECTIONS if s != "samples"])
    parser.add_argument(
        "--only", nargs="+", default=[], help="checkpoints instead of a section's own: small-0/epoch-30"
    )
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--everything", type=int, default=60000, help="how many samples 'all' are; fewer for a trial")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--evaluations", type=int, default=7, help="in accurate, log and samples")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--allocator", choices=("default", "keeping"), default="default")
    parser.add_argument("--out", type=Path, help="Markdown file to write as well")
    given = parser.parse_args()
    if given.allocator == "keeping" and not os.environ.keys() >= KEEPS_MEMORY.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEPS_MEMORY)  # glibc reads them at start
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    mnist = MNIST(batch_size=1, data_dir=given.data_dir)
    mnist.setup()
    data = TensorDataset(*mnist.train.whole())
    bench = Bench(given.checkpoints, given.only, data, given.samples, given.everything, given.rounds, given.evaluations)
    text = "# Sharpness and curvature\n\n"
    text += f"{machine(torch.device('cpu'), given.threads)}; {versions()}; allocator: {given.allocator}. F1 on MNIST, "
    text += f"{given.samples} samples in chunks of {bench.chunk}, medians of {given.rounds} rounds. Made by "
    text += "`benchmarks/sharpness.py`, whose head says how.\n"
    for name in given.rows:
        title, section = SECTIONS[name]
        say(title)
        text += f"\n## {title}\n\n{section.__doc__}\n\n{section(bench)}\n"
        if given.out is not None:
            given.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
