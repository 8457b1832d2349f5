"""What CI fails at: the highest ratio of ours to a peer that a row of the check may have, and why it is that one.

About three times what the table in docs/benchmarks.md has, or the least that says something is broken: a check that a
busy machine fails is one that nobody reads.
"""

from __future__ import annotations

from dataclasses import dataclass

from rows.row import Row


@dataclass(frozen=True)
class Bound:
    """Of the rows of a topic whose names begin so.

    Attributes:
        topic: As in the table.
        ours: How the name of ours begins.
        peer: How the peer's begins.
        ratio: The highest median that passes.
        why: That one.
    """

    topic: str
    ours: str
    peer: str
    ratio: float
    why: str


BOUNDS = (
    Bound("ghost norm", "ghost_batch_norm, convolution", "plain", 2.4, "0.7 to 0.9"),
    Bound("ghost norm", "ghost_batch_norm, convolution", "a loop", 2.0, "0.5 to 0.8"),
    Bound("ghost norm", "ghost_batch_norm, dense", "plain", 9.0, "1.3 to 3.8, by how many pages are faulted in anew"),
    Bound("ghost norm", "ghost_batch_norm, dense", "a loop", 3.6, "1.1 to 1.8"),
    Bound("sharpness", "sharpness, small batch, 128 units, 7", "SciPy", 0.3, "0.1"),
    Bound("top eigenvalue", "hessian_eigenvalues, 128 units", "curvlinops", 0.5, "0.05; how many products varies"),
    Bound("SAM", "sharpness_aware_gradient", "pytorch_optimizer", 2.0, "1.05; a third pass would be 1.5"),
    Bound("SAM", "sharpness_aware_gradient", "a plain step", 4.5, "2.2"),
    Bound("landscape", "evaluate_points, F1 of 16 units", "by hand", 0.5, "0.16"),
    Bound("input path", "CIFAR10, augmentation crop-flip", "torchvision", 0.3, "0.04; sample by sample it would be 1"),
    Bound("Trainer", "Trainer, augmentation none", "a bare loop", 2.0, "1.05"),
    Bound("idle callback", "", "a step of F1", 1.15, "1.00 to 1.02; a single round may be 0.03 off"),
    Bound("memory, ghost norm", "ghost_batch_norm", "plain", 0.9, "0.67, the same in every run: one copy less"),
)


def bound_of(topic: str, row: Row) -> Bound | None:
    """The first that holds for a row, if there is one."""
    of_topic = (bound for bound in BOUNDS if bound.topic == topic)
    return next((each for each in of_topic if row.ours.startswith(each.ours) and row.peer.startswith(each.peer)), None)
