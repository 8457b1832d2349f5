"""Keep Ctrl-C and SIGTERM out of code that must not be cut in two, such as putting weights back."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from types import FrameType, TracebackType
from typing import ParamSpec, TypeVar

import torch

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

P = ParamSpec("P")
T = TypeVar("T")


def uninterrupted_exit(function: Callable[P, Iterator[T]]) -> Callable[P, AbstractContextManager[T]]:
    """Decorate like `contextlib.contextmanager`; no signal comes between the end of the block and that of the function.

    What follows ``yield`` runs whole: SIGINT and SIGTERM wait until it is done. Inside the block, and before it, they
    are handled at once, as ever; an exception that they raise there is thrown into the function at its ``yield``. Grad
    mode ends as it began: one that is raised inside `torch.no_grad`'s own exit would leave gradients off.

    Only signals that Python code handles are held back: the others end the process, or are ignored. Off the main
    thread nothing is, as Python raises KeyboardInterrupt in the main thread alone. Keep the end short.

    Example:
        >>> @uninterrupted_exit
        ... def changed(values):
        ...     before = list(values)
        ...     try:
        ...         yield
        ...     finally:
        ...         values[:] = before
        >>> values = [1, 2]
        >>> with changed(values):
        ...     values.append(3)
        >>> values
        [1, 2]
    """
    make = contextmanager(function)

    @wraps(function)
    def whole(*args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[T]:
        return _WholeExit(make(*args, **kwargs))

    return whole


def uninterrupted(work: Callable[[], T]) -> T:
    """Call ``work``, which must be short: no signal comes while it runs, as `uninterrupted_exit` says of an end."""
    found = []

    @uninterrupted_exit
    def at_the_end() -> Iterator[None]:
        yield
        found.append(work())

    with at_the_end():
        pass
    return found[0]


class _WholeExit(AbstractContextManager[T]):
    """A generator's context manager, whose leaving no signal interrupts: a handler of ours holds them back by then."""

    def __init__(self, manager: AbstractContextManager[T]) -> None:
        self._manager = manager
        self._ours = self._handle  # one object: a method is another one each time that it is asked for
        self._before: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._waiting: set[int] = set()
        self._grad_enabled = torch.is_grad_enabled()

    def __enter__(self) -> T:
        try:
            if threading.current_thread() is threading.main_thread():  # the only one in which Python handles signals
                found = {number: signal.getsignal(number) for number in _SIGNALS}
                self._before = {number: handler for number, handler in found.items() if callable(handler)}
                for number in self._before:
                    signal.signal(number, self._ours)
            return self._manager.__enter__()
        except BaseException:  # also where a signal came after the yield: then what was changed is put back here
            self.__exit__(*sys.exc_info())
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        # From its first instruction on, this frame on the stack is what `_handle` looks for.
        try:
            return self._manager.__exit__(kind, error, traceback)
        finally:
            torch.set_grad_enabled(self._grad_enabled)
            try:
                try:
                    self._restore()
                except BaseException:  # a signal between the two: its own handler was back
                    self._restore()
                    raise
            finally:
                self._deliver()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) is self._ours:  # and not one that the block has set
                signal.signal(number, handler)

    def _deliver(self) -> None:
        if self._waiting:
            number = self._waiting.pop()
            try:
                self._before[number](number, sys._getframe())  # that of the signal is over and has lost its callers
            finally:
                self._deliver()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Hold the signal back where our own exit is on the stack, and otherwise pass it on."""
        caller = frame
        while caller is not None:
            if caller.f_code is _WholeExit.__exit__.__code__ and caller.f_locals.get("self") is self:
                self._waiting.add(number)
                return
            caller = caller.f_back
        self._before[number](number, frame)
