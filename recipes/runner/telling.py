"""Say what takes its time: by what moves on a terminal, and by lines where the output goes to a file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer

from rich.console import Console

FIRST, LONGEST = 2.0, 60.0  # seconds of silence, at the beginning and at most


Say = Callable[[str], object]  # called with what is done next, in words


def silent(what: str) -> None:
    """Say nothing of it."""


class Lines:
    """Lines on stderr, the first after two seconds, then ever more rarely, and one a minute in the end."""

    def __init__(self) -> None:
        self._last, self._pause = time.perf_counter(), FIRST

    def tell(self, line: str) -> None:
        """Print it, if it is time for one."""
        now = time.perf_counter()
        if now - self._last >= self._pause:
            self._last, self._pause = now, min(2 * self._pause, LONGEST)
            print(line, file=sys.stderr, flush=True)


@contextmanager
def saying(console: Console, what: str) -> Iterator[Say]:
    """Say what the block does, for as long as it takes; in a line after two seconds where the output is no terminal.

    The block gets a function that says what it does next.

    Args:
        console: Where results go; nothing is said of what is quiet.
        what: In words.
    """
    if console.is_terminal or console.quiet:
        with console.status(what) as status:
            yield status.update
        return
    line = _line_to_come(what)

    def say(what: str) -> None:
        nonlocal line
        line.cancel()
        line = _line_to_come(what)

    try:
        yield say
    finally:
        line.cancel()


def _line_to_come(what: str) -> Timer:
    line = Timer(FIRST, lambda: print(f"{what} ...", file=sys.stderr, flush=True))
    line.daemon = True
    line.start()
    return line
