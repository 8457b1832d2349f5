"""Say what takes its time: by what moves on a terminal, and by lines where the output goes to a file or a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Timer

from rich.console import Console

FIRST, LONGEST = 2.0, 60.0  # seconds of silence, at the beginning and at most


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
def saying(console: Console, what: str) -> Iterator[None]:
    """Say what the block does, for as long as it takes; in a line after two seconds where the output is no terminal.

    Args:
        console: Where results go; nothing is said of what is quiet.
        what: In words.
    """
    if console.is_terminal or console.quiet:
        with console.status(what):
            yield
        return
    line = Timer(FIRST, lambda: print(f"{what} ...", file=sys.stderr, flush=True))
    line.daemon = True
    line.start()
    try:
        yield
    finally:
        line.cancel()
