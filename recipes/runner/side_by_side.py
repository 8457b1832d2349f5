"""Tasks in processes of their own, several at a time, each as soon as what it needs is done."""

from __future__ import annotations

import os
import signal
import warnings
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from threading import Thread
from typing import Any, Protocol

import torch

from .memory import keep_freed_memory
from .quiet import spoken_plainly
from .stopping import handled


@dataclass(frozen=True)
class Task:
    """Something to do.

    Attributes:
        name: Other tasks need it by this name.
        do: Does it; a function of a module with its arguments, which another process can be sent.
        needs: Names of the tasks that come before.
        cost: In any unit, the same for all tasks; for the time that is left.
    """

    name: Hashable
    do: Callable[[], object]
    needs: frozenset[Hashable] = frozenset()
    cost: float = 1.0


class Pool(Protocol):
    """Does several tasks at a time, in the order in which they are submitted."""

    slots: int  # tasks at a time

    def submit(self, do: Callable[..., Any], /, *args: Any) -> Future[Any]: ...


class InThisProcess:
    """A pool of one, which does each task before `submit` returns."""

    slots = 1

    def submit(self, do: Callable[..., Any], /, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(do(*args))
        except Exception as error:  # Ctrl-C is none, and ends everything here
            future.set_exception(error)
        return future


def finish(
    tasks: Sequence[Task], pool: Pool, failed: dict[Hashable, Exception] | None = None
) -> Generator[Task, None, None]:
    """Do all tasks, the first ones first where they can begin; each is given back when it is done.

    Args:
        tasks: What to do.
        pool: Does it.
        failed: Takes the error of each task that fails, by its name; what needs such a task is left out, and the others
            are done. By default the first error ends everything.
    """
    left, running, done = list(tasks), dict[Future[Any], Task](), set[Hashable]()
    while left or running:
        ready = [task for task in left if task.needs <= done][: pool.slots - len(running)]
        for task in ready:
            left.remove(task)
            running[pool.submit(_do, task.do)] = task
        if not running and failed:
            return  # what is left needs a task that failed
        if not running:
            raise ValueError(f"{left[0].name!r} needs {sorted(map(str, left[0].needs - done))}, which nothing makes")
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            task = running.pop(future)
            try:
                told = future.result()
            except BrokenProcessPool:
                raise
            except Exception as error:
                if failed is None:
                    raise
                failed[task.name] = error
                continue
            for text in told:
                warnings.warn(text, stacklevel=1)  # of several workers once
            done.add(task.name)
            yield task


@contextmanager
def processes(workers: int, threads: int | None) -> Iterator[Pool]:
    """A pool of processes that end with the block, or with this process.

    Args:
        workers: How many.
        threads: CPU threads of each; one by default.

    Raises:
        ChildProcessError: If one of them is killed.
    """
    spawn = get_context("spawn")
    reader, writer = spawn.Pipe(duplex=False)  # its other end closes with the block, or with this process
    try:
        with reader, _Processes(workers, spawn, _start_worker, (threads, reader)) as pool, writer:
            yield pool
    except BrokenProcessPool as error:
        raise ChildProcessError(
            f"one of workers={workers} was killed, perhaps for want of memory; use fewer, and resume with --resume, or "
            "with the same command of reproduce"
        ) from error


class _Processes(ProcessPoolExecutor):
    def __init__(self, workers: int, context: Any, start: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        super().__init__(workers, context, start, arguments)
        self.slots = workers

    def submit(self, do: Callable[..., Any], /, *args: Any) -> Future[Any]:  # type: ignore[override]
        with handled(signal.SIGINT, signal.SIG_IGN):  # in the workers, whom Ctrl-C reaches too: they end with us
            return super().submit(do, *args)


def _start_worker(threads: int | None, parent: Connection) -> None:
    Thread(target=_end_with, args=(parent,), daemon=True).start()
    keep_freed_memory()
    torch.set_num_threads(threads or 1)


def _end_with(parent: Connection) -> None:
    with suppress(EOFError, OSError):
        parent.recv_bytes()
    os._exit(1)


def _do(do: Callable[[], object]) -> list[str]:
    """Do a task; what there was to warn of."""
    with spoken_plainly(), warnings.catch_warnings(record=True) as told:
        do()
    return [str(warning.message) for warning in told]
