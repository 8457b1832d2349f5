"""Keep memory that was freed, for the next training step to use again."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def keep_freed_memory() -> None:
    """Let this process keep what it frees, where the C library is glibc; elsewhere nothing changes.

    A step frees its activations and asks for as much again in the next. By default glibc hands such large blocks back
    to the system at once, which fills them with zeros, page by page, when they are asked for again: a third of the time
    of a step of C1 on a CPU.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(_MMAP_THRESHOLD, 2**30)
    library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
