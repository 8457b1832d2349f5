"""Measure in smaller chunks where memory runs out; on several processes all do the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from lightning.pytorch import Trainer

from ..functional.errors import (
    FailedElsewhereError,
    RandomLossError,
    UndefinedCurvatureError,
    UndefinedNoiseError,
    UndefinedSharpnessError,
    UnusedWeightsError,
)
from ..trainer.processes import from_all_processes
from ..trainer.state import CannotBePutBackError
from ._evaluations import NoLossError
from ._loader_subset import one_line
from ._module_loss import is_out_of_memory

T = TypeVar("T")

_HALVINGS = 3
_MEMORY, _UNDEFINED, _ELSEWHERE, _OTHER = "memory", "undefined", "elsewhere", "other"
_UNDEFINED_ERRORS = (
    *(UndefinedSharpnessError, UndefinedCurvatureError, UndefinedNoiseError),
    *(NoLossError, CannotBePutBackError, RandomLossError, UnusedWeightsError),
)


class NoValueError(ValueError):
    """There is no value to log, for a reason that does not end a run."""


def attempt(
    function: Callable[[], T],
    trainer: Trainer,
    *,
    halve_chunks: Callable[[], bool],
    alone: bool = False,
    fix: str = "measure in smaller chunks, chunk_size=...",
) -> T:
    """Call it, in smaller chunks where memory runs out; on several processes all do the same.

    ``halve_chunks`` lets it work in smaller chunks from now on, where possible; ``fix`` says what else to do for
    lack of memory. With ``alone`` each process calls it by itself, so that one may fail where the others do not. Where
    there is no value for a reason that does not end a run, NoValueError is raised.
    """
    for halvings_left in range(_HALVINGS, -1, -1):
        try:
            result = function()
        except Exception as error:
            kind, reason = _kind_on_all(trainer, _kind(error)), one_line(error)
            if kind not in (_MEMORY, _UNDEFINED):
                raise
        else:
            kind, reason = _kind_on_all(trainer, _ELSEWHERE) if alone else _ELSEWHERE, "on another process"
            if kind == _ELSEWHERE:
                return result
            if kind == _OTHER:
                raise FailedElsewhereError("measuring failed on another process; see its error")
        # Outside of the handler, where nothing holds the memory any more.
        if kind == _UNDEFINED:
            raise NoValueError(reason)
        if halvings_left == 0 or not halve_chunks():
            raise NoValueError(f"memory ran out ({reason}); {fix}")
    raise AssertionError("the last attempt returns or raises")


def _kind_on_all(trainer: Trainer, own: str) -> str:
    """What failed, agreed on by all processes, of which some may have failed only because of another, or not at all."""
    known = {kind for kind in from_all_processes(trainer, own) if kind != _ELSEWHERE}
    return known.pop() if len(known) == 1 else _OTHER if known else _ELSEWHERE


def _kind(error: Exception) -> str:
    if is_out_of_memory(error):
        return _MEMORY
    if isinstance(error, FailedElsewhereError):
        return _ELSEWHERE
    return _UNDEFINED if isinstance(error, _UNDEFINED_ERRORS) else _OTHER
