"""The loss along the straight line through two solutions (Goodfellow et al., 2015; Keskar et al., 2017, Figure 3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from .._uninterrupted import uninterrupted_exit
from .._validation import each, function, instance, real_number
from .points import checked_state

T = TypeVar("T")


def along_line(
    module: nn.Module,
    start: Mapping[str, Tensor],
    end: Mapping[str, Tensor],
    alphas: Sequence[float],
    measure: Callable[[], T],
) -> list[T]:
    """Measure ``module`` at ``alpha * end + (1 - alpha) * start`` for every alpha.

    Args:
        module: The network; on return, also by an exception, it holds its own state again.
        start: `state_dict` at alpha 0. Floating-point entries are interpolated, running statistics included; others
            are taken from here.
        end: `state_dict` at alpha 1, with the same keys and shapes.
        alphas: Positions on the line; the paper uses 25 from -1 to 2.
        measure: Called once at each point.

    Returns:
        What ``measure`` returned, in the order of ``alphas``.

    Raises:
        ValueError: If ``alphas`` is empty or the two ends differ in keys or shapes.

    Reference:
        Keskar et al. (2017), section 2.2 and Figure 3.

    Example:
        >>> line = nn.Linear(1, 1, bias=False)
        >>> zero, two = {"weight": torch.zeros(1, 1)}, {"weight": torch.full((1, 1), 2.0)}
        >>> along_line(line, zero, two, [-1.0, 0.0, 1.0, 2.0], line.weight.item)
        [-2.0, 0.0, 2.0, 4.0]
    """
    instance("module", module, nn.Module)
    function("measure", measure, "no arguments")
    for name, state in (("start", start), ("end", end)):
        checked_state(name, state)
    alphas = each("alphas", alphas, real_number)
    if not alphas:
        raise ValueError("alphas is empty; pass for instance 25 positions from -1 to 2")
    shapes, others = ({key: value.shape for key, value in state.items()} for state in (start, end))
    different = sorted({key for key, _ in shapes.items() ^ others.items()})
    if different:
        raise ValueError(f"start and end must have the same keys and shapes; they differ in {', '.join(different)}")
    results: list[T] = []
    with _same_state(module):
        for alpha in alphas:
            module.load_state_dict({k: _between(v, end[k], alpha) for k, v in start.items()})
            results.append(measure())
    return results


@uninterrupted_exit
def _same_state(module: nn.Module) -> Iterator[None]:
    original = {key: value.clone() for key, value in module.state_dict().items()}
    try:
        yield
    finally:
        module.load_state_dict(original)


def _between(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    return torch.lerp(start, end.to(start), alpha) if start.is_floating_point() else start
