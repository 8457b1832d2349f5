"""Keep Ctrl-C and SIGTERM out of code that must not be cut in two, such as putting weights back."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from types import CodeType, FrameType, TracebackType
from typing import ParamSpec, TypeVar

_SIGNALS = (signal.SIGTERM, signal.SIGINT)

P = ParamSpec("P")
T = TypeVar("T")


class uninterrupted(AbstractContextManager[None]):
    """Hold back SIGINT and SIGTERM while the block runs, and deliver them right after it.

    Only signals that Python code handles are held back: the others end the process, or are ignored. Off the main
    thread this does nothing, as Python raises KeyboardInterrupt in the main thread alone. Nested use is fine. Keep
    the block short.

    A signal may still come before the block, also right after ``finally:``. Where that loses the clean-up, write the
    whole context manager with `uninterrupted_exit`.

    Example:
        >>> _ = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
        >>> try:
        ...     with uninterrupted():
        ...         signal.raise_signal(signal.SIGINT)
        ...         print("whole")
        ... except KeyboardInterrupt:
        ...     print("then interrupted")
        whole
        then interrupted
    """

    def __init__(self) -> None:
        self._handlers = _Handlers(waits=lambda _: True)

    def __enter__(self) -> None:
        self._handlers.replace()

    def __exit__(self, *_: object) -> None:
        self._handlers.put_back()


def uninterrupted_exit(function: Callable[P, Iterator[T]]) -> Callable[P, AbstractContextManager[T]]:
    """Decorate like `contextlib.contextmanager`; no signal comes between the end of the block and that of the function.

    What follows ``yield`` runs whole: SIGINT and SIGTERM wait until it is done. Inside the block, and before it, they
    are handled at once, as ever; an exception that they raise there is thrown into the function at its ``yield``.

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


class _WholeExit(AbstractContextManager[T]):
    """A generator's context manager, whose leaving no signal interrupts."""

    def __init__(self, manager: AbstractContextManager[T]) -> None:
        self._manager = manager
        self._handlers = _Handlers(waits=lambda frame: _runs(frame, _WholeExit.__exit__.__code__, self))

    def __enter__(self) -> T:
        try:
            self._handlers.replace()
            return self._manager.__enter__()
        except BaseException:  # also where a signal came after the yield: then what was changed is put back here
            self.__exit__(*sys.exc_info())
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        # From its first instruction on, this frame on the stack is what the handler looks for.
        try:
            return self._manager.__exit__(kind, error, traceback)
        finally:
            self._handlers.put_back()


class _Handlers:
    """Handlers of SIGINT and SIGTERM that hold a signal back while ``waits``, and otherwise pass it on."""

    def __init__(self, waits: Callable[[FrameType | None], bool]) -> None:
        self._waits = waits
        self._ours = self._handle  # one object: a method is another one each time that it is asked for
        self._before: dict[int, Callable[[int, FrameType | None], object]] = {}
        self._waiting: dict[int, FrameType | None] = {}

    def replace(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python handles signals in the main thread only
        found = {number: signal.getsignal(number) for number in _SIGNALS}
        self._before = {number: handler for number, handler in found.items() if callable(handler)}
        for number in self._before:
            signal.signal(number, self._ours)

    def put_back(self) -> None:
        """Put the handlers back, then deliver what waits."""
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
            number, frame = self._waiting.popitem()
            try:
                self._before[number](number, frame)
            finally:
                self._deliver()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._waits(frame):
            self._waiting[number] = frame
        else:
            self._before[number](number, frame)


def _runs(frame: FrameType | None, code: CodeType, owner: object) -> bool:
    """Whether this method of this object is on the stack."""
    while frame is not None:
        if frame.f_code is code and frame.f_locals.get("self") is owner:
            return True
        frame = frame.f_back
    return False
