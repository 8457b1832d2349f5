"""What a run does that is told to stop: end at once, say what is kept, and never look finished."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .plan import Plan


class StoppedError(SystemExit):
    """SIGTERM has come."""


@contextmanager
def handled(number: int, handler: Any) -> Iterator[None]:
    """Let a signal be handled otherwise inside; no change in another thread than the main one, which signals go to."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM end what runs inside as Ctrl-C does; Lightning alone waits for the batch, then exits with 0."""
    process = os.getpid()

    def stop(number: int, _: Any) -> None:
        if os.getpid() != process:  # a worker that was forked inside
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise StoppedError(128 + number)

    with handled(signal.SIGTERM, stop):
        yield


def exit_status(stop: BaseException) -> int | None:
    """As a shell has it: 130 after Ctrl-C, 143 after SIGTERM; none of an exit that no signal asked for.

    Lightning makes an exit with status 1 of the one, and an exit with 0 of the other.
    """
    causes: list[BaseException] = [stop]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)
    if any(isinstance(cause, KeyboardInterrupt) for cause in causes):
        return 128 + signal.SIGINT
    terminated = any(isinstance(cause, StoppedError) or type(cause).__name__ == "SIGTERMException" for cause in causes)
    return 128 + signal.SIGTERM if terminated else None


def kept(plan: Plan | None) -> str:
    """One line on what there is of a stopped run, and how it is resumed."""
    if plan is None or not plan.output.exists():
        return "stopped before anything was trained"
    found = []
    for run in plan.runs():
        saved = sorted(run.folder.glob("epoch=*.ckpt"), key=lambda file: file.stat().st_mtime)
        if run.result.exists():
            found.append(f"{run.title} finished")
        elif saved:
            found.append(f"{run.title} up to {saved[-1].name}")
    return (
        f"stopped; kept: {'; '.join(found) or 'no checkpoint yet'}; resume with the same command and "
        f"--output {shlex.quote(str(plan.output))} --resume"
    )
