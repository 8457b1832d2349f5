"""A figure as a PNG file, and as data that a page holds itself."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOTS_PER_INCH = 150
_LARGEST_SVG = 400_000  # bytes; a surface of many cells is smaller as PNG


def write_png(figure: Figure, path: Path) -> None:
    """Write a figure for people's slides."""
    figure.savefig(path, dpi=DOTS_PER_INCH)


def inline(figure: Figure, png: Path) -> str:
    """The address of a picture that is its own content: lines stay sharp at any size.

    Args:
        figure: The figure, which is drawn as SVG, the same bytes each time.
        png: The same as PNG, taken where the SVG would be large.
    """
    from matplotlib import rc_context

    drawn = BytesIO()
    with rc_context({"svg.hashsalt": "lightning-gap"}):
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    kind, content = "svg+xml", drawn.getvalue()
    if len(content) > _LARGEST_SVG:
        kind, content = "png", png.read_bytes()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
