"""A real signal at many instants of a piece of work: what stands in for a Ctrl-C that comes whenever it likes."""

import gc
import signal
import sys
import time
from contextlib import contextmanager

from lightning_gap.functional import _uninterrupted


class Interrupt(BaseException):
    """What the handler raises, as that of Ctrl-C raises KeyboardInterrupt."""


@contextmanager
def raising(number):
    def interrupt(number, frame):
        raise Interrupt

    before = signal.signal(number, interrupt)
    try:
        yield interrupt
    finally:
        signal.signal(number, before)


@contextmanager
def without_garbage_collection():
    """Whose callbacks, hypothesis has one, would swallow an interrupt that comes inside them."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def interrupt_at_many_instants(monkeypatch, work, check, *, instants):
    """Run ``work`` over and over, the kernel's timer going off a little later each time, and ``check`` after each.

    Returns how often it was cut off, and how often the check was False.
    """
    hook = sys.unraisablehook

    def unless_lost(error):
        """Python drops what is raised inside the callback of a weak reference, torch has some: so it is with Ctrl-C."""
        if error.exc_type is not Interrupt:
            hook(error)

    monkeypatch.setattr(sys, "unraisablehook", unless_lost)
    monkeypatch.setattr(_uninterrupted, "_SIGNALS", (signal.SIGALRM,))  # the timer's, and no other's, is held back
    gc.collect()  # an interrupt inside somebody's __del__ would be lost
    work()  # what is slow the first time
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    cut = failed = 0
    with raising(signal.SIGALRM) as handler, without_garbage_collection():
        for instant in range(1, instants + 1):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + 1.1 * seconds * instant / instants)
                work()
                signal.setitimer(signal.ITIMER_REAL, 0)
            except Interrupt:
                cut += 1
            failed += not check()
            assert signal.getsignal(signal.SIGALRM) is handler
    return cut, failed
