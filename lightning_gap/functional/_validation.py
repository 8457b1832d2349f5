"""Checks of arguments, for functions and callbacks alike: each refuses by name, value and fix, or gives a plain value.

NumPy's numbers are taken and made plain, so that a checkpoint holds nothing else. What only looks like a number is
refused: bool, text, arrays and tensors of any size, NaN, infinities. Flags are booleans, nothing that counts as one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch.distributed import ProcessGroup

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])

_LARGEST = 2**63 - 1  # what torch counts with
_LARGEST_SEED = 2**32 - 1  # what NumPy takes, and all that torch's CPU generator reads of a seed


def whole_number(
    name: str, value: object, least: int = 1, *, most: int = _LARGEST, unit: str = "", hint: str = ""
) -> int:
    """The value as a plain int.

    Args:
        name: Of the argument, for the message.
        value: What was given for it.
        least: Smallest that is allowed.
        most: Largest that is allowed.
        unit: What is counted, for the message: ``"samples"``.
        hint: What else to do, the end of the message.

    Raises:
        ValueError: Names the argument, its value and what is allowed.

    Example:
        >>> whole_number("draws", 3)
        3
        >>> whole_number("batch_size", 0, unit="samples")
        Traceback (most recent call last):
        ValueError: batch_size must be a whole number of samples, at least 1, got 0
    """
    if type(value) is int or (isinstance(value, Integral) and _is_number(value)):
        number = int(value)
        if least <= number <= most:
            return number
        if number > most:
            raise ValueError(refusal(name, f"must be a whole number, at most {most}", value, hint))
    of_what = f" of {unit}" if unit else ""
    raise ValueError(refusal(name, f"must be a whole number{of_what}, at least {least}", value, hint))


def check_counts(*, unit: str = "", **counts: object) -> tuple[int, ...]:
    """Several whole numbers of at least 1, in their order, as `whole_number` gives them.

    Args:
        unit: What is counted, for the message: ``"samples"``.
        counts: Values by the name of the argument.

    Raises:
        ValueError: Names the argument and its value.

    Example:
        >>> check_counts(unit="samples", batch_size=8, base_batch_size=4)
        (8, 4)
    """
    return tuple(whole_number(name, value, unit=unit) for name, value in counts.items())


def real_number(
    name: str,
    value: object,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    finite: bool = True,
    hint: str = "",
) -> float:
    """The value as a plain float within the bounds; finite, unless ``finite=False`` lets a failed measurement pass.

    Raises:
        ValueError: Names the argument, its value and what is allowed.

    Example:
        >>> real_number("decay", 0.5, at_least=0, below=1)
        0.5
        >>> real_number("decay", 1, at_least=0, below=1, hint="try 0.5")
        Traceback (most recent call last):
        ValueError: decay must be a number, at least 0 and below 1, got 1; try 0.5
    """
    number = None
    if type(value) is float or (isinstance(value, Real) and _is_number(value)):
        try:
            number = float(value)
        except OverflowError:  # an int beyond all floats
            number = None
    if number is not None:
        within = (
            (above is None or number > above)
            and (at_least is None or number >= at_least)
            and (below is None or number < below)
            and (at_most is None or number <= at_most)
        )
        if within if math.isfinite(number) else not finite:
            return number
    bounds = {"above": above, "at least": at_least, "below": below, "at most": at_most}
    told = " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)
    rule = "a positive number" if told == "above 0" else f"a number, {told}" if told else "a finite number"
    raise ValueError(refusal(name, f"must be {rule}", value, hint))


def _is_number(value: object) -> bool:
    """Whether what calls itself a number is one: no bool, nor a span of time, which NumPy counts as an integer."""
    return not isinstance(value, bool) and (hasattr(value, "__index__") or not isinstance(value, Integral))


def seed_number(name: str, value: object) -> int:
    """The value as a plain int that every generator takes as its seed, from 0 to 2**32 - 1."""
    return whole_number(name, value, 0, most=_LARGEST_SEED, hint="a seed such as 0")


def each(name: str, values: object, check: Callable[[str, Any], T]) -> list[T]:
    """Every entry of a list, tuple or other ordered series, checked under the name of the argument.

    Example:
        >>> each("milestones", (30, 60), whole_number)
        [30, 60]
        >>> each("milestones", 30, whole_number)
        Traceback (most recent call last):
        ValueError: milestones must be a list or tuple, got 30
    """
    if isinstance(values, Iterable) and not isinstance(values, str | bytes | Set | Mapping):
        try:
            entries = list(values)
        except TypeError:  # a NumPy array or tensor without an axis
            entries = None
        if entries is not None:
            return [check(name, entry) for entry in entries]
    raise ValueError(refusal(name, "must be a list or tuple", values))


def one_of(name: str, value: object, allowed: Sequence[T]) -> T:
    """The one of the allowed words that equals the value.

    Example:
        >>> one_of("norm", "l3", ("max", "l2"))
        Traceback (most recent call last):
        ValueError: norm must be one of 'max', 'l2', got 'l3'
    """
    for word in allowed:
        if type(value) is type(word) and value == word:  # an array is equal to no word, entry by entry
            return word
    raise ValueError(refusal(name, f"must be one of {', '.join(map(repr, allowed))}", value))


def flag(name: str, value: object) -> bool:
    """The value as a plain bool; NumPy's is taken too.

    Example:
        >>> flag("at_start", "no")
        Traceback (most recent call last):
        ValueError: at_start must be True or False, got 'no'
    """
    if isinstance(value, bool):
        return value
    if type(value).__module__ == "numpy" and type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise ValueError(refusal(name, "must be True or False", value))


def text(name: str, value: object) -> str:
    """The value as a plain str."""
    if isinstance(value, str):
        return str(value)
    raise ValueError(refusal(name, "must be a text", value))


def function(name: str, value: Function, takes: str) -> Function:
    """The value, if it can be called.

    Args:
        name: Of the argument.
        value: What was given for it.
        takes: What is called with what, for the message: ``"(module, batch)"``.

    Example:
        >>> function("loss_fn", "mse", "(module, batch)")
        Traceback (most recent call last):
        ValueError: loss_fn must be a function of (module, batch), got 'mse'
    """
    if callable(value):
        return value
    raise ValueError(refusal(name, f"must be a function of {takes}", value))


def instance(name: str, value: object, kind: type[T], *, hint: str = "") -> T:
    """The value, if it is of this class.

    Example:
        >>> instance("module", "resnet", torch.nn.Module)
        Traceback (most recent call last):
        ValueError: module must be a Module, got 'resnet'
    """
    if isinstance(value, kind):
        return value
    raise ValueError(refusal(name, f"must be a {kind.__name__}", value, hint))


def indexed(name: str, value: Any, what: str) -> Any:
    """The value, if it has a length and entries by index, as a list or a data set has, and is no text.

    Example:
        >>> indexed("dataset", 5, "a data set")
        Traceback (most recent call last):
        ValueError: dataset must be a data set, with a length and samples by index, got 5
    """
    has_both = hasattr(value, "__len__") and hasattr(value, "__getitem__") and getattr(value, "ndim", None) != 0
    if not has_both or isinstance(value, type | str | bytes | Mapping):
        raise ValueError(refusal(name, f"must be {what}, with a length and samples by index", value))
    return value


def checked_group(value: object) -> ProcessGroup | None:
    """The argument ``process_group``: the processes that share a measurement, or None for this one alone."""
    return None if value is None else instance("process_group", value, ProcessGroup, hint="None for one process")


def seeded(name: str, value: torch.Generator | None) -> torch.Generator:
    """The generator, on the CPU; one with seed 0 for None."""
    if value is None:
        return torch.Generator().manual_seed(0)
    if isinstance(value, torch.Generator) and value.device.type == "cpu":
        return value
    where = f" on {value.device}" if isinstance(value, torch.Generator) else ""
    raise ValueError(refusal(name, f"must be a torch.Generator on the CPU{where and f', not{where}'}", value))


def set_plain(owner: object, **values: object) -> None:
    """Store checked values in a frozen data class."""
    for name, value in values.items():
        object.__setattr__(owner, name, value)


def shown(value: object) -> str:
    """The value for a message: its repr, cut where it is long, or its type where it has none."""
    try:
        told = repr(value)
    except Exception:  # an int of thousands of digits, a foreign object
        return f"a value of type {type(value).__name__}"
    return told if len(told) <= 200 else f"{told[:200]}..."


def refusal(name: str, rule: str, value: object, hint: str = "") -> str:
    """The message that refuses a value of an argument."""
    return f"{name} {rule}, got {shown(value)}{'; ' * bool(hint)}{hint}"
