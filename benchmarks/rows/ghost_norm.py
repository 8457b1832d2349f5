"""Ghost batch norm beside plain BatchNorm, a loop over chunks, and ghosts folded into the channels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from ghost_batch_norm import Case, peak_memory, steps_of
from torch import Tensor

from rows.row import Row, in_turns

PEERS = {"plain": "plain BatchNorm", "loop": "a loop over chunks", "view": "ghosts folded into the channels"}
CASES = {"convolution": Case((1024, 128, 8, 8), 128), "dense": Case((4096, 512), 128)}


def time_rows(rounds: int, *, quick: bool) -> Iterator[Row]:  # noqa: ARG001
    """Forward and backward of a layer, ghosts of 128. Plain BatchNorm computes another thing; both others the same."""
    for ours, steps in _cases():
        yield from in_turns({ours: steps["ours"]} | {PEERS[name]: steps[name] for name in PEERS}, rounds, found=_found)


def memory_rows(rounds: int, *, quick: bool) -> Iterator[Row]:  # noqa: ARG001
    """Most bytes that live at a time in forward and backward, beyond input and output gradient, as torch allocates."""
    for ours, steps in _cases():
        peaks = {name: peak_memory(step, torch.device("cpu")) for name, step in steps.items()}
        for name, peer in PEERS.items():
            yield Row(ours, peer, (peaks["ours"] / peaks[name],), f"{peaks['ours'] / 1e6:.3g} MB")


def _cases() -> Iterator[tuple[str, dict]]:
    for kind, case in CASES.items():
        yield f"ghost_batch_norm, {kind} {'×'.join(map(str, case.shape))}", steps_of(case, torch.device("cpu"))


def _found(ours: Tensor, theirs: Tensor) -> str:
    """How far apart the outputs are; the folded view puts other samples together, and plain BatchNorm all."""
    largest = float((ours - theirs).abs().max())
    return f"same output to {largest:.0e}" if largest < 1e-3 else "other ghosts"
