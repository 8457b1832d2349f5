"""The program `lightning-gap`: what it does is in `commands`; here it says what to install where that cannot start."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    try:
        from .commands import main as do
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("lightning_gap", "recipes"):
            raise
        print(
            f"lightning-gap: error: the command line needs {error.name}, which is not installed; the callbacks work "
            'without it. Install it with:\n    pip install "lightning-gap[recipes]"',
            file=sys.stderr,
        )
        return 2
    return do(args)


if __name__ == "__main__":
    sys.exit(main())
