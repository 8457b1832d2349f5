"""Standard output that says when it cannot be written to, be it a full disk or a closed pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import IO, Any, cast


class UnprintedError(Exception):
    """Standard output cannot be written to; no `OSError`, which argparse passes over where it prints help.

    Attributes:
        kept: What the command has written to files, in words, where it knows better than `stopping`.
    """

    kept = ""

    @property
    def by_closed_pipe(self) -> bool:
        """Whether nobody reads on, as `head` does not after its first lines."""
        return isinstance(self.__cause__, BrokenPipeError)


class _Output:
    """A stream that writes at once, for nothing to be left that Python writes, and fails to, when it ends."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            written = self._stream.write(text)
            self._stream.flush()
        except OSError as error:
            with open(os.devnull, "wb") as nowhere:  # takes what is in the buffer, and what is printed on the way out
                os.dup2(nowhere.fileno(), self._stream.fileno())
            raise UnprintedError(
                f"what was to be printed cannot be written to standard output ({error.strerror})"
            ) from error
        return written


@contextmanager
def checked_output() -> Iterator[None]:
    """Let whatever is printed to standard output inside be written, or raise.

    Raises:
        UnprintedError: If it cannot be written.
    """
    with redirect_stdout(sys.stdout and cast(IO[str], _Output(sys.stdout))):  # None where it was closed from the start
        yield


@contextmanager
def knowing(kept: str) -> Iterator[None]:
    """Print what comes of something that is written already.

    Args:
        kept: What is written, for an error to say.
    """
    try:
        yield
    except UnprintedError as error:
        error.kept = kept
        raise
