"""Draw formulas as MathML, which browsers show by themselves: no script, no font, no network."""

from __future__ import annotations

from typing import Any

from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

log = logging.getLogger(__name__)


def write(writer: Any, node: Any, *, as_block: bool) -> None:
    try:
        formula = tex2mathml(node.astext(), as_block)
        # on a phone a wide formula is scrolled, not the page
        writer.body.append(f'<div style="overflow-x: auto">{formula}</div>' if as_block else formula)
    except MathError as error:  # with `make docs` a warning is an error
        log.warning("formula not understood: %s", error, location=node)
    raise SkipNode


def write_inline(writer: Any, node: Any) -> None:
    write(writer, node, as_block=False)


def write_block(writer: Any, node: Any) -> None:
    write(writer, node, as_block=True)


def setup(app: Any) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
