"""One measurement and one training step of a fixed global batch, on 1, 2 and 4 processes."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from measuring import mean_loss
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

from lightning_gap.functional import DatasetLoss, sharpness
from lightning_gap.recipes.networks import F1
from rows.row import Row, ratios

WORLDS = (1, 2, 4)
SAMPLES = 768
MEASURING, TRAINING = "sharpness, 768 samples", "a training step, batch 768"


def rows(rounds: int, *, quick: bool) -> Iterator[Row]:  # noqa: ARG001
    """F1 on as many samples in all, whatever the number of processes: gloo, one thread each, the time by the wall.

    The measurement is SharpnessMonitor's for one epsilon, its chunks dealt out between the processes; the step is that
    of DistributedDataParallel. Work is shared between cores, not processes: more processes than cores cannot
    be faster.
    """
    with TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        # Forked from one that has imported everything once.
        start_processes(_work, (port, rounds + 1, folder), nprocs=max(WORLDS), start_method="forkserver")
        seconds = torch.load(Path(folder, "seconds.pt"))
    for what in (MEASURING, TRAINING):
        one, *more = (seconds[what, world] for world in WORLDS)
        for world, own in zip(WORLDS[1:], more, strict=True):
            amount = f"{1e3 * statistics.median(own[1:]):.3g} ms"
            yield Row(f"{what}, {world} processes", "1 process", ratios(own, one), amount)


def _work(rank: int, port: int, rounds: int, folder: str) -> None:
    """Every process is there all the time, and waits while fewer are at work: so they can take turns."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=max(WORLDS))
    groups = {world: dist.new_group(list(range(world))) for world in WORLDS}
    calls = {}
    for world, group in groups.items():
        if rank < world:
            calls[MEASURING, world] = _measuring(group)
            calls[TRAINING, world] = _training(rank, world, group)
    seconds: dict[tuple[str, int], list[float]] = {
        (what, world): [] for what in (MEASURING, TRAINING) for world in WORLDS
    }
    for _ in range(rounds):
        for key, found in seconds.items():
            dist.barrier()
            began = time.perf_counter()
            if key in calls:
                calls[key]()
            dist.barrier()
            found.append(time.perf_counter() - began)
    if rank == 0:
        torch.save(seconds, Path(folder, "seconds.pt"))
    dist.destroy_process_group()


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.rand(SAMPLES, 784), torch.arange(SAMPLES) % 10


def _measuring(group: dist.ProcessGroup) -> Callable[[], object]:
    inputs, targets = _batch()
    chunks = list(zip(inputs.split(96), targets.split(96), strict=True))
    network = F1().eval()
    loss = DatasetLoss(network, mean_loss, chunks, process_group=group)
    return lambda: sharpness(loss, list(network.parameters()), max_evaluations=5, process_group=group)


def _training(rank: int, world: int, group: dist.ProcessGroup) -> Callable[[], object]:
    inputs, targets = _batch()
    share = slice(rank, None, world)
    network = DistributedDataParallel(F1().train(), process_group=group)
    optimizer = torch.optim.Adam(network.parameters())

    def step() -> None:
        optimizer.zero_grad()
        mean_loss(network, (inputs[share], targets[share])).backward()
        optimizer.step()

    return step
