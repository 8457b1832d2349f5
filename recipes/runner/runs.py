"""Do all runs of a plan, one after the other or side by side, and show what they found."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread

import torch
from rich.console import Console

from .memory import keep_freed_memory
from .plan import OUTPUT, Plan, Run
from .quiet import spoken_plainly
from .results_folder import claim_folder, release_folder
from .run_result import RunResult
from .settings import Settings
from .stopping import handled
from .table import show_results
from .training import CannotStartError, train
from .watch import is_first_process, progress_bar


def execute(plan: Plan) -> int:
    """Train what was asked for, write and print the table; the exit status.

    Raises:
        ValueError: If something cannot work; a folder in which nothing was done is then taken away again.
    """
    keep_freed_memory()
    if plan.settings.threads is not None:
        torch.set_num_threads(plan.settings.threads)
    first = is_first_process()
    console = Console(highlight=False, quiet=not first)
    os.environ[OUTPUT] = str(plan.output)
    try:
        with claim_folder(plan) if first else nullcontext() as held:
            _train_all(plan, console)
            if held is not None:
                whole = _whole(plan, held["regimes"], held["trials"])
                show_results(console, whole, _results(whole))
    except CannotStartError:
        if first:
            release_folder(plan)
        raise
    finally:
        del os.environ[OUTPUT]
    return 0


def _train_all(plan: Plan, console: Console) -> None:
    runs = plan.runs()
    missing = [run for run in runs if not run.result.exists()]
    for run in runs:
        if run not in missing:
            _report(plan, run, console, kept=True)
    beside = plan.settings.workers > 1 and len(missing) > 1
    with closing(_side_by_side(plan, missing) if beside else _one_by_one(plan, missing)) as finished:
        for run in finished:
            if is_first_process():
                _report(plan, run, console)


def _whole(plan: Plan, regimes: Sequence[str], trials: int) -> Plan:
    """All that the folder holds, in as many trials; regimes with fewer are left out of the table."""
    for number in (trials, plan.settings.trials):
        found = replace(plan, settings=replace(plan.settings, regimes=tuple(regimes), trials=number))
        missing = {run.regime for run in found.runs() if not run.result.exists()}
        if not missing & set(plan.settings.regimes):
            break
    left = tuple(name for name in regimes if name not in missing)
    return replace(found, settings=replace(found.settings, regimes=left))


def _results(plan: Plan) -> dict[str, list[RunResult]]:
    """The results by regime, one for each trial."""
    results: dict[str, list[RunResult]] = {name: [] for name in plan.settings.regimes}
    for run in plan.runs():
        results[run.regime].append(RunResult.load(run.result, plan.settings.epsilon))
    return results


def _report(plan: Plan, run: Run, console: Console, *, kept: bool = False) -> None:
    result = RunResult.load(run.result, plan.settings.epsilon)
    ending = "kept from before" if kept else f"{result.seconds:.0f} s"
    console.print(f"{run.title}: {result.steps} steps, test accuracy {100 * result.test_accuracy:.2f} %, {ending}")


def _one_by_one(plan: Plan, runs: Sequence[Run]) -> Generator[Run, None, None]:
    with progress_bar() as bar:
        for run in runs:
            train(plan, run, bar)
            yield run


def _side_by_side(plan: Plan, runs: Sequence[Run]) -> Generator[Run, None, None]:
    """Each in one of as many processes as were asked for; they end with the block, or with this process."""
    spawn, workers = get_context("spawn"), plan.settings.workers
    reader, writer = spawn.Pipe(duplex=False)  # its other end closes with the block, or with this process
    with reader, ProcessPoolExecutor(workers, spawn, _start_worker, (plan.settings, reader)) as pool, writer:
        with handled(signal.SIGINT, signal.SIG_IGN):  # in the workers, whom Ctrl-C reaches too: they end with us
            training = {pool.submit(_train_in_worker, run): run for run in runs}
        try:
            for done in as_completed(training):
                for text in done.result():
                    warnings.warn(text, stacklevel=1)  # of several workers once
                yield training[done]
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"one of workers={workers} was killed, perhaps for want of memory; use fewer, and resume with --resume"
            ) from error


_plan_of_worker: list[Plan] = []


def _start_worker(settings: Settings, parent: Connection) -> None:
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    keep_freed_memory()
    torch.set_num_threads(settings.threads or 1)
    with spoken_plainly():
        _plan_of_worker.append(Plan.of(settings))


def _end_with(parent: Connection) -> None:
    with suppress(EOFError, OSError):
        parent.recv_bytes()
    os._exit(1)


def _train_in_worker(run: Run) -> list[str]:
    """Train a run; what there was to warn of."""
    with spoken_plainly(), warnings.catch_warnings(record=True) as told:
        train(_plan_of_worker[0], run, progress_bar(shown=False))
    return [str(warning.message) for warning in told]
