"""Ways to sharpness-aware training in Lightning on one matrix of cases: which cases each gets right, by running them.

    python benchmarks/plugin_peers.py

{SAM, ASAM} x {accumulation 1, 4} x {float64, bf16-mixed, 16-mixed whose first step overflows} x {1, 2 processes} x
{BatchNorm, ghosts} x {clipping off, on} x {in one go, resumed}: each is a fit of six steps on the CPU. It is compared
with the loop of `plugin_loops.py`, and where it differs with loops that make a mistake on purpose. Writes
`benchmarks/results/plugin-peers.md`.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from measuring import command, machine, say, table
from plugin_cells import AXES, BESIDE, MATRIX, NAMES, Cell
from plugin_columns import COLUMNS
from plugin_verdicts import FOLDER, Verdict, judged
from torch.multiprocessing import spawn

PAGE = Path(__file__).parent / "results" / "plugin-peers.md"


def _work(rank: int, processes: int, port: int, folder: str) -> None:
    """All cells of so many processes, in one of them."""
    logging.disable(logging.WARNING)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    os.environ[FOLDER] = folder
    if processes > 1:
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "NODE_RANK": 0}
        os.environ |= {key: str(value) for key, value in (places | {"MASTER_PORT": port}).items()}
        os.environ["MASTER_ADDR"] = "127.0.0.1"
    found = {}
    for number, cell in enumerate(cell for cell in [*MATRIX, *BESIDE.values()] if cell.processes == processes):
        for column in COLUMNS:
            found[column.name, cell] = judged(column, cell)
        if rank == 0 and number % 8 == 0:
            say(processes, "processes, cell", number)
    if rank == 0:
        Path(folder, f"{processes}.pickle").write_bytes(pickle.dumps(found))


def run() -> dict[tuple[str, Cell], Verdict]:
    """The verdict of each column on each cell."""
    found: dict[tuple[str, Cell], Verdict] = {}
    for processes in AXES["processes"]:
        with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            probe.close()
            spawn(_work, (processes, port, folder), nprocs=processes)
            found |= pickle.loads(Path(folder, f"{processes}.pickle").read_bytes())
    return found


def page(found: dict[tuple[str, Cell], Verdict]) -> str:
    """What was found, in Markdown."""
    names = [column.name for column in COLUMNS]
    header = " | ".join(["", *names])

    def count(cells: list[Cell], right: Callable[[Verdict], bool]) -> list[str]:
        return [f"{sum(right(found[name, cell]) for cell in cells)} of {len(cells)}" for name in names]

    parts = {
        "all right": lambda v: not v.faults,
        "the weights": lambda v: not v.error and not v.weights,
        "running statistics": lambda v: not v.error and not v.statistics,
        "`global_step`": lambda v: not v.error and not v.counts,
    }
    rows: list[list[str]] = [[part, *count(MATRIX, right)] for part, right in parts.items()]
    for axis, values in AXES.items():
        for value in values:
            cells = [cell for cell in MATRIX if getattr(cell, axis) == value]
            rows.append([f"weights, {NAMES[axis].get(value, value)}", *count(cells, parts["the weights"])])
    faults = {
        name: Counter(each for cell in MATRIX for fault in found[name, cell].faults for each in fault.split("; "))
        for name in names
    }
    kinds = sorted({fault for counted in faults.values() for fault in counted}, key=_kind)
    reasons = [[fault, *(str(faults[name][fault] or "") for name in names)] for fault in kinds]
    beside = [[what, *("; ".join(found[name, c].faults) or "right" for name in names)] for what, c in BESIDE.items()]
    exact = [found["ours", cell].distance for cell in MATRIX if cell.precision == "float64"]
    others = [
        v.distance for (_, cell), v in found.items() if cell.precision == "float64" and not v.weights and not v.error
    ]
    wrong = [v.distance for v in found.values() if v.weights and v.distance == v.distance]
    return PROSE.format(
        machine=machine(packages=("lightning", "pytorch_optimizer")),
        columns=table("column | what runs", [(column.name, column.is_) for column in COLUMNS]),
        cells=len(MATRIX),
        right=table(header, rows),
        reasons=table(header, reasons),
        beside=table(header, beside),
        ours=f"{max(exact):.0e}",
        others=f"{max(others):.0e}",
        nearest=f"{min(wrong):.2f}",
    )


def _kind(fault: str) -> tuple[bool, bool, bool, str]:
    """Errors first, then weights, statistics and steps."""
    return "Error: " not in fault, "global_step" in fault, "running" in fault, fault


PROSE = """# Sharpness-aware training in Lightning: which cases each way gets right

`python benchmarks/plugin_peers.py` makes this page. {machine}.

The matrix has {cells} cells: SAM or ASAM, accumulation 1 or 4, float64, bf16-mixed or 16-mixed whose first step
overflows, 1 or 2 processes, BatchNorm or ghosts of `GhostBatchNormSwap`, without or with clipping by norm, in one go or
resumed after half of the steps. Each is a fit of six steps, on the CPU, of a small network with BatchNorm, trained by
SGD with momentum and weight decay.

{columns}

A cell is right if weights and running statistics end where those of a loop in plain torch do
(`benchmarks/plugin_loops.py`), and `global_step` counts each step once. That loop perturbs by the gradient of the
whole step, of all micro-batches and processes; takes the second gradient over the same; moves running statistics in the
first pass alone; clips the last gradient alone; puts the weights back bit for bit; and skips the step that overflows.

Distances are shares of the way trained. In float64 up to 1e-6 is right: ours are within {ours}, the others that are
right within {others}, as pytorch_optimizer keeps the norm in float32. In low precision up to 1e-2 is right; the nearest
wrong weights are at {nearest}. ASAM is that of each column's own documentation: theirs scales all weights by `|w|`,
ours, as Kwon et al.'s code, all but biases by `|w| + 0.01`.

## Right cells

{right}

## What goes wrong

In how many of the {cells} cells; a cell may have several. Errors are first lines. What is said of weights was tested:
they equal those of a loop that makes just these mistakes.

{reasons}

- The two optimizers want a gradient before `step(closure)`, as their documentation says; Lightning's automatic
  optimization takes it inside the closure. The first step finds none, and later ones what the step before has left.
- With accumulation, the closure is that of the last micro-batch alone, and the loop of Lightning's documentation keeps
  no batches either; neither it nor the READMEs speak of accumulation with two passes.
- With a gradient scaler, Lightning calls the closure itself, and then `step()` without one. In manual optimization
  `second_step` passes the scaler by; Lightning's documentation says that an own optimizer's step has no such support.
- Neither `first_step` nor `second_step` is the `step` that Lightning counts: `global_step` stays 0, and with it
  `max_steps`, schedules by steps and the steps of loggers.
- An optimizer built like davda54/sam leaves momentum to the optimizer inside, whose state its `state_dict` leaves out.

## Beside the matrix

In float64, SAM, accumulation 1 where nothing else is said, in one go. Both passes of Foret et al.'s code draw the same
masks; davda54/sam and pytorch_optimizer do not speak of them. In the last row each process is to be perturbed by its
own gradient, as in Foret et al.'s code and in a tip of davda54/sam's README: ours with `m=`, manual optimization with
that tip. To perturb by all processes together is a choice of the other columns there, not a mistake.

{beside}
"""


def main() -> None:
    """Run everything, and write the page; it takes about ten minutes."""
    torch.set_num_threads(1)
    PAGE.write_text(page(run()))
    print(PAGE)


if __name__ == "__main__":
    command(main)
