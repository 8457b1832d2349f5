"""Whether this process is the one that writes and prints, told before and after the Trainer has started others."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_only


def is_first_process() -> bool:
    """Whether this is the only process, or the first of several that train together."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0
