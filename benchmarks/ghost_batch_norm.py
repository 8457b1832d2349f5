"""Ghost batch norm beside plain BatchNorm, a chunk loop and the folding view: time and memory, forward and backward.

    python benchmarks/ghost_batch_norm.py                       # one CPU thread
    python benchmarks/ghost_batch_norm.py --allocator keeping   # without page faults
    python benchmarks/ghost_batch_norm.py --device cuda

In every round each variant runs twice and the second run counts, so that none meets another's caches; a ratio is the
median over rounds of a variant's time over plain BatchNorm's in the same round. Time is CPU time of one thread, or
CUDA events. Running statistics are left out: all variants but the view keep them in the same way.

With glibc's defaults large tensors go back to the operating system when they are freed, and their pages are faulted
in anew at the next step; that can cost as much as BatchNorm itself. It is what a user gets, and what the default
measures; ``--allocator keeping`` asks glibc to keep what it has, and so measures the arithmetic alone.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from measuring import Cells, command, keep_freed_memory, machine, ratio, say, table
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from lightning_gap.functional import ghost_batch_norm, ghost_runs

Variant = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def plain(x: Tensor, weight: Tensor, bias: Tensor, size: int) -> Tensor:  # noqa: ARG001
    """One BatchNorm over the whole batch: the yardstick."""
    return F.batch_norm(x, None, None, weight, bias, training=True)


def loop(x: Tensor, weight: Tensor, bias: Tensor, size: int) -> Tensor:
    """BatchNorm on each chunk, then `cat`: what most public code does."""
    return torch.cat([plain(chunk, weight, bias, size) for chunk in x.split(size)])


def view(x: Tensor, weight: Tensor, bias: Tensor, size: int) -> Tensor:
    """Ghosts folded into the channels: one kernel, but sample i joins ghost i mod k, and all ghosts must be full."""
    ghosts = len(x) // size
    folded = x.reshape(size, -1, *x.shape[2:])
    return plain(folded, weight.repeat(ghosts), bias.repeat(ghosts), size).reshape(x.shape)


def ours(x: Tensor, weight: Tensor, bias: Tensor, size: int) -> Tensor:
    """`lightning_gap.functional.ghost_batch_norm`, as the layers call it."""
    return ghost_batch_norm(x, ghost_runs(len(x), size, positions=x[0, 0].numel()), weight, bias).output


VARIANTS: dict[str, Variant] = {"plain": plain, "loop": loop, "view": view, "ours": ours}
OTHERS = list(VARIANTS)[1:]


@dataclass(frozen=True)
class Case:
    """An input shape, samples per ghost, and whether it lies in channels_last."""

    shape: tuple[int, ...]
    ghost: int
    channels_last: bool = False
    of: str = ""

    def cells(self) -> Cells:
        """How a row of the table begins."""
        of = f" ({self.of})" if self.of else ""
        return f"{'×'.join(map(str, self.shape))}{of}", self.ghost, "channels_last" if self.channels_last else "-"


CASES = [
    *(Case((4096, 512), ghost) for ghost in (128, 32)),
    *(
        Case(shape, ghost, layout)
        for layout in (False, True)
        for shape in ((1024, 256, 8, 8), (4096, 64, 16, 16))
        for ghost in (32, 128)
    ),
    Case((1000, 512), 128),
    Case((1024, 512), 128),
    Case((1000, 64, 16, 16), 128),
    Case((1024, 64, 16, 16), 128),
    Case((1000, 64, 16, 16), 128, channels_last=True),
    Case((1024, 64, 16, 16), 128, channels_last=True),
    *(Case((1024, *shape), 128, of="C1") for shape in ((64, 32, 32), (64, 16, 16), (384,), (192,))),
    *(
        Case((1024, *shape), 128, of="C2")
        for shape in ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2), (512,))
    ),
    *(
        Case((256, *shape), 32, layout, of="ResNet-50")
        for layout in (False, True)
        for shape in ((64, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7))
    ),
]


def measure(case: Case, device: torch.device, seconds: float) -> Cells:
    """Run every variant in turn until about ``seconds`` have passed, at least five rounds after one to warm up.

    Returns:
        Milliseconds of plain BatchNorm; the others' ratios to it: time, peak memory above input and output gradient.
    """
    steps = steps_of(case, device)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    began = time.perf_counter()
    while len(times["plain"]) < 5 or (time.perf_counter() - began < seconds and len(times["plain"]) < 200):
        for name, step in steps.items():
            step()
            times[name].append(timed(step, device))
    ratios = {name: ratio(found, times["plain"]) for name, found in times.items()}
    peaks = {name: peak_memory(step, device) for name, step in steps.items()}
    memory = {name: peak / peaks["plain"] for name, peak in peaks.items()}
    shares = (f"{found[name]:.2f}" if name in found else "-" for found in (ratios, memory) for name in OTHERS)
    return f"{1000 * statistics.median(times['plain']):.2f}", *shares


def steps_of(case: Case, device: torch.device) -> dict[str, Callable[[], Tensor]]:
    """Forward and backward of each variant that can take the case; each returns its output."""
    torch.manual_seed(0)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    x = torch.randn(case.shape, device=device).contiguous(memory_format=layout).requires_grad_()
    gradient = torch.randn_like(x)
    weight = torch.rand(case.shape[1], device=device, requires_grad=True)
    bias = torch.rand(case.shape[1], device=device, requires_grad=True)

    def step(variant: Variant) -> Tensor:
        output = variant(x, weight, bias, case.ghost)
        torch.autograd.grad(output, (x, weight, bias), gradient)
        return output.detach()

    foldable = case.shape[0] % case.ghost == 0 and not case.channels_last
    return {name: partial(step, variant) for name, variant in VARIANTS.items() if foldable or name != "view"}


def timed(run: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds: CPU time of this thread, or between two CUDA events."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000
    began = time.process_time()
    run()
    return time.process_time() - began


def peak_memory(run: Callable[[], Any], device: torch.device) -> int:
    """Most bytes allocated at once beyond what was there before; on the CPU by the profiler's trace."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        run()
    events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def main(
    device: str = "cpu",
    seconds: float = 10.0,
    allocator: Literal["default", "keeping"] = "default",
    output: Path | None = None,
) -> None:
    """Measure every case and print ratios to plain BatchNorm.

    Args:
        device: Where to run.
        seconds: About how long a case may take.
        allocator: On the CPU, glibc's: as it is, or keeping freed memory for the next round.
        output: Markdown file to write as well.
    """
    if device == "cpu" and allocator == "keeping":
        keep_freed_memory()
    torch.set_num_threads(1)
    rows: list[Cells] = []
    for case in CASES:
        rows.append((*case.cells(), *measure(case, torch.device(device), seconds)))
        say(*rows[-1])
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    header = ["shape", "ghost", "layout", "plain, ms", *OTHERS, *(f"{name}, memory" for name in OTHERS)]
    text = f"""# Ghost batch norm: ratios to plain BatchNorm, forward and backward

{machine(device)}; allocator: {allocator}, {faults:,} page faults. Made by `benchmarks/ghost_batch_norm.py`,
whose head says how. Columns are median ratios of time, then of peak memory beyond input and output gradient.

{table(" | ".join(header), rows)}
"""
    print(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    command(main)
