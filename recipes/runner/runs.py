"""Do all runs of a plan, one after the other or side by side, and show what they found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryFile
from threading import Thread
from typing import IO

import torch
from rich.console import Console

from .plan import OUTPUT, Plan
from .results_folder import CONFIG, claim_folder, release_folder
from .run_result import RunResult
from .table import show_results
from .training import CannotStartError, train
from .watch import is_first_process, progress_bar

_SHARE = "LIGHTNING_GAP_SHARE"  # "k/n" in a worker: its runs are the k-th, from 0, of every n


def execute(plan: Plan) -> int:
    """Train what was asked for, write and print the table; the exit status.

    Raises:
        ValueError: If something cannot work; a folder in which nothing was done is then taken away again.
    """
    share = os.environ.get(_SHARE)
    if share is not None:
        Thread(target=_end_with_parent, daemon=True).start()
    if plan.settings.threads is not None:
        torch.set_num_threads(plan.settings.threads)
    first = is_first_process()
    if share is None and first:
        claim_folder(plan)
    console = Console(highlight=False, quiet=share is not None or not first)
    try:
        with _told_to_other_processes(plan):
            results = _train_all(plan, console.print, share)
    except CannotStartError:
        if share is None and first:
            release_folder(plan)
        raise
    if share is None and first:
        show_results(console, plan, results)
    return 0


def _train_all(plan: Plan, report: Callable[[str], None], share: str | None) -> dict[str, list[RunResult]]:
    """The results by regime, one for each trial; on the first process only."""
    runs = plan.runs()
    results: dict[str, list[RunResult]] = {name: [] for name in plan.settings.regimes}
    kept = {run.folder for run in runs if run.result.exists()}
    beside = share is None and plan.settings.workers > 1 and len(runs) - len(kept) > 1
    place, of = map(int, share.split("/")) if share else (0, 1)
    with progress_bar(shown=not beside) as bar, _workers(plan, beside) as workers:
        for index, run in enumerate(runs):
            if beside:
                _wait_for(run.result.exists, workers)
            elif run.folder not in kept and index % of == place:
                train(plan, run, bar)
            if not is_first_process() or share:
                continue
            result = RunResult.load(run.result, plan.settings.epsilon)
            results[run.regime].append(result)
            ending = "kept from before" if run.folder in kept else f"{result.seconds:.0f} s"
            report(f"{run.title}: {result.steps} steps, test accuracy {100 * result.test_accuracy:.2f} %, {ending}")
    return results


class _Worker:
    """A process that trains its share of the runs in a folder that is claimed; what it says is kept for later."""

    def __init__(self, plan: Plan, place: int, said: IO[str]) -> None:
        settings, self.said = plan.settings, said
        command = [sys.executable, "-m", "lightning_gap.recipes.runner.cli", "compare", settings.recipe]
        command += [*settings.regimes, "--config", str(plan.output / CONFIG), "--output", str(plan.output), "--resume"]
        command += [f"--trials={settings.trials}"]
        share = {_SHARE: f"{place}/{settings.workers}", "OMP_NUM_THREADS": str(settings.threads)}
        self.process = subprocess.Popen(
            command, env=os.environ | share, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self.said
        )

    def lines(self) -> list[str]:
        """What it has said on stderr."""
        self.said.seek(0)
        return self.said.read().strip().splitlines()


def _end_with_parent() -> None:
    """End a worker whose parent is gone, however it ended: its end of the pipe is closed then."""
    os.read(0, 1)  # not sys.stdin, which Python could not close at its end while a thread reads it
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _workers(plan: Plan, beside: bool) -> Iterator[list[_Worker]]:
    """As many as were asked for, or none; they end with the block, and their warnings are passed on once."""
    workers: list[_Worker] = []
    with ExitStack() as files:
        try:
            places = range(plan.settings.workers if beside else 0)
            said = (files.enter_context(TemporaryFile("w+", encoding="utf-8")) for _ in places)
            workers.extend(_Worker(plan, place, file) for place, file in zip(places, said, strict=True))
            yield workers
        finally:
            for worker in workers:
                worker.process.terminate()  # no more than a word to one that has ended
            for worker in workers:
                worker.process.communicate()  # wait, and close the pipe
        told = [line for worker in workers for line in worker.lines() if line.startswith("warning: ")]
    for line in dict.fromkeys(told):
        print(line, file=sys.stderr)


def _wait_for(finished: Callable[[], bool], workers: list[_Worker]) -> None:
    """Wait for a run, or tell what a worker ended with."""
    while not finished():
        ended = [worker for worker in workers if worker.process.poll() is not None]
        failed = [worker for worker in ended if worker.process.returncode]
        if failed or len(ended) == len(workers):
            if finished():
                return
            said = (failed or ended)[0].lines()
            last = said[-1] if said else f"it ended with status {ended[0].process.returncode}"
            raise CannotStartError(last.partition("error: ")[2] or f"a worker failed: {last}")
        time.sleep(0.1)


@contextmanager
def _told_to_other_processes(plan: Plan) -> Iterator[None]:
    before = os.environ.get(OUTPUT)
    os.environ[OUTPUT] = str(plan.output)
    try:
        yield
    finally:
        if before is None:
            del os.environ[OUTPUT]
        else:
            os.environ[OUTPUT] = before
