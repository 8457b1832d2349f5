"""Do all runs of a plan, one after the other or side by side, and show what they found."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial

import torch
from rich.console import Console

from .memory import keep_freed_memory
from .plan import OUTPUT, Plan, Run
from .results_folder import claim_folder, release_folder
from .run_result import RunResult
from .settings import Settings
from .side_by_side import Task, finish, processes
from .table import show_results
from .telling import saying
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
    with closing(_side_by_side(plan, missing, console) if beside else _one_by_one(plan, missing)) as finished:
        for run in finished:
            if is_first_process():
                _report(plan, run, console)


def _whole(plan: Plan, regimes: Sequence[str], trials: int) -> Plan:
    """All regimes that the folder holds a finished trial of, in as many trials as one has."""
    found = replace(plan, settings=replace(plan.settings, regimes=tuple(regimes), trials=trials))
    finished = {run.regime for run in found.runs() if run.result.exists()}
    left = tuple(name for name in regimes if name in finished)
    return replace(found, settings=replace(found.settings, regimes=left))


def _results(plan: Plan) -> dict[str, dict[int, RunResult]]:
    """The results by regime and seed; of a regime with fewer trials fewer."""
    results: dict[str, dict[int, RunResult]] = {name: {} for name in plan.settings.regimes}
    for run in plan.runs():
        if run.result.exists():
            results[run.regime][run.seed] = RunResult.load(run.result, plan.settings.epsilon)
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


def _side_by_side(plan: Plan, runs: Sequence[Run], console: Console) -> Generator[Run, None, None]:
    """Each in one of as many processes as were asked for."""
    settings, by_name = plan.settings, {run.title: run for run in runs}
    tasks = [Task(run.title, partial(_train_in_worker, settings, run)) for run in runs]
    told = f"{len(runs)} runs, {settings.workers} at a time"
    with processes(settings.workers, settings.threads) as pool, saying(console, told):
        for task in finish(tasks, pool):
            yield by_name[str(task.name)]


_plan_of_worker: list[Plan] = []


def _train_in_worker(settings: Settings, run: Run) -> None:
    if not _plan_of_worker:
        _plan_of_worker.append(Plan.of(settings))
    train(_plan_of_worker[0], run, progress_bar(shown=False))
