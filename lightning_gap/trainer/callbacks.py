"""The callbacks of a Trainer."""

from __future__ import annotations

from lightning.pytorch import Callback, Trainer


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """All callbacks of a Trainer, for which Lightning's types know no attribute."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def is_lightnings(thing: object, name: str) -> bool:
    """Whether it is an instance of the class of Lightning's, or of a subclass, under either of Lightning's names.

    `lightning.pytorch` and `pytorch_lightning` hold the same classes twice; `isinstance` knows one of them.
    """
    return any(
        kind.__name__ == name and kind.__module__.split(".")[0] in ("lightning", "pytorch_lightning")
        for kind in type(thing).__mro__
    )


def is_first_that(trainer: Trainer, callback: Callback, does: str) -> bool:
    """Whether this is the one of several callbacks that does it: the one with ``count`` if there is, else the first."""
    same = [other for other in callbacks_of(trainer) if getattr(other, does, False)]
    return (next((other for other in same if getattr(other, "count", None)), same[0])) is callback


def micro_batch_size_set(trainer: Trainer) -> int | None:
    """Samples per batch and process that a callback has set for this epoch, if one does."""
    sizes = (getattr(other, "micro_batch_size_set", None) for other in callbacks_of(trainer))
    return next((size for size in sizes if size is not None), None)


def planned_micro_batch_sizes(trainer: Trainer) -> set[int]:
    """Samples per batch and process that a callback will set in the course of the run, as far as they are known."""
    return {size for other in callbacks_of(trainer) for size in getattr(other, "planned_micro_batch_sizes", ())}
