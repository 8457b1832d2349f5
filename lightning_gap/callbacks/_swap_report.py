"""What a swap of layers has done, in words and as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def left_alone(skipped: Mapping[str, str]) -> str:
    """The layers that were left alone, those of one reason together; ``skipped`` has the reason of each by name."""
    names: dict[str, list[str]] = {}
    for name, reason in skipped.items():
        names.setdefault(reason, []).append(name)
    parts = []
    for reason, some in names.items():
        more = f" and {len(some) - 3} more" if len(some) > 3 else ""
        parts.append(f"; left {', '.join(some[:3])}{more} alone: {reason}")
    return "".join(parts)


def table_of_layers(layers: Mapping[nn.Module, str], settings: Mapping[str, Any]) -> str:
    """Name, class and channels of each layer that was swapped, under the settings."""
    rows = [("layer", "class", "channels")]
    rows += [(name, type(layer).__name__, str(layer.num_features)) for layer, name in layers.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    shown = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join([f"ghost batch norm, {shown}", *lines])
