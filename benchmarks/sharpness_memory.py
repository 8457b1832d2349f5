"""Peak memory of one measurement of sharpness, in float32 numbers per weight: one process for each measurement.

    python benchmarks/sharpness_memory.py 3     # three of each way, as a dictionary; rows/sharpness.py asks for it

Resident memory, because SciPy's arrays are not torch's. Three things make it reliable: the peak is set back just before
the measurement (Linux), every large array gets pages of its own and gives them back when it is freed (glibc's
MALLOC_MMAP_THRESHOLD_), and the samples are few, so that activations do not count: F1 on 32 random ones
in chunks of 16.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import scipy.optimize  # noqa: F401  so that no measurement counts its import
import torch
from measuring import mean_loss
from torch import nn

from lightning_gap.functional import DatasetLoss, hessian_eigenvalues, sharpness
from lightning_gap.recipes.networks import F1

WAYS = ("corner", "lbfgsb", "eigenvalue", "one backward pass")


def measured_apart(rounds: int) -> dict[str, list[float]]:
    """Floats per weight of each way, so many times, measured in processes of their own."""
    own = {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, __file__, str(rounds)]
    done = subprocess.run(command, env=inherited | own, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"measuring the memory of sharpness failed: {done.stderr}")
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def forked(way: str) -> float:
    """What a process finds that is forked from this one, which has imported everything."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.write(writing, str(floats_per_weight(way)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as told:
        found = told.read()
    os.waitpid(child, 0)
    return float(found)


def resident(kind: str) -> int:
    """Bytes resident now ("VmRSS") or at most since the peak was set back ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(kind))


def floats_per_weight(way: str) -> float:
    """Peak beyond what was there before, over the size of the weights."""
    torch.manual_seed(0)
    network = F1().eval()
    batches = [(torch.randn(16, 784), torch.arange(16) % 10) for _ in range(2)]

    def measure(params: list[nn.Parameter]) -> None:
        loss = DatasetLoss(network, mean_loss, batches)
        if way == "one backward pass":
            torch.autograd.grad(mean_loss(network, batches[0]), params)
        elif way == "eigenvalue":
            hessian_eigenvalues(DatasetLoss(network, mean_loss, batches[:1]), params, max_products=7, tolerance=1e-9)
        elif way == "lbfgsb":
            sharpness(loss, params, method="lbfgsb")
        else:
            sharpness(loss, params)

    weights = list(network.parameters())
    measure(weights[-2:])  # buffers that stay
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    measure(weights)
    return (resident("VmHWM") - before) / sum(weight.numel() * 4 for weight in weights)


if __name__ == "__main__":
    print(json.dumps({way: [forked(way) for _ in range(int(sys.argv[1]))] for way in WAYS}))
