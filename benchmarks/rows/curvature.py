"""Largest eigenvalue and trace of the Hessian, ours beside public tools."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec

from measuring import interleaved
from sharpness_peers import EIGENVALUES, TRACES, Batch, Found, Tool, our_eigenvalue, our_trace
from torch import nn

from rows.row import Row, milliseconds, ratios
from rows.solutions import solution

MODULES = {"curvlinops": "curvlinops", "PyHessian": "pyhessian", "hessian-eigenthings": "hessian_eigenthings"}


def eigenvalue_rows(rounds: int, *, quick: bool) -> Iterator[Row]:
    """Largest eigenvalue of the Hessian of F1 trained on digits, 250 samples, to a relative residual of 1e-3.

    PyHessian has no residual, and stops where its value changes by less than 1e-3. Ours and PyHessian's start from
    another random vector in every round.
    """
    first = dict(list(EIGENVALUES.items())[:1])
    yield from _rows("hessian_eigenvalues", our_eigenvalue, first, 128, rounds)
    if not quick:
        yield from _rows("hessian_eigenvalues", our_eigenvalue, EIGENVALUES, 256, rounds)


def trace_rows(rounds: int, *, quick: bool) -> Iterator[Row]:  # noqa: ARG001
    """Trace of the same Hessian, by ten probes."""
    return _rows("hessian_trace", our_trace, TRACES, 256, rounds)


def _rows(of: str, ours: Tool, peers: Mapping[str, Tool], width: int, rounds: int) -> Iterator[Row]:
    network, (batch, *_) = solution("small", width)
    name = f"{of}, {width} units"
    there = {peer: tool for peer, tool in peers.items() if find_spec(MODULES[peer.split(",")[0].split(" ")[0]])}
    calls = {peer: partial(_on_a_copy, tool, network, batch) for peer, tool in {name: ours, **there}.items()}
    times, found = interleaved(calls, rounds + 1, time.process_time)
    for peer in peers:
        if peer in there:
            said = _said(found[name], found[peer])
            yield Row(name, peer, ratios(times[name], times[peer]), milliseconds(times[name]), said)
        else:
            yield Row(name, peer, found="not installed; `make benchmarks` would")


def _on_a_copy(tool: Tool, network: nn.Module, batch: Batch) -> Found:
    """Some leave gradients behind."""
    return tool(copy.deepcopy(network).eval(), batch)


def _said(own: Found, theirs: Found) -> str:
    products = f"{own.products} products beside {theirs.products}"
    return "; ".join(filter(None, [products, f"its value is {theirs.value / own.value:.4f} of ours", theirs.note]))
