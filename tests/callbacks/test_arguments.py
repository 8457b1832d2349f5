"""Every argument of every callback, fed what it is not: refused by name, or kept as a plain Python value."""

import inspect
import math
from pathlib import Path

import pytest
from functional.odd_values import DOUBTFUL, JUNK
from lightning.pytorch import Callback

import lightning_gap

PUBLIC = [getattr(lightning_gap, name) for name in lightning_gap.__all__]
CALLBACKS = [value for value in PUBLIC if isinstance(value, type) and issubclass(value, Callback)]
# What a constructor cannot do without.
NEEDED = {
    "AdversarialTraining": {"epsilon": 0.1},
    "GradientPenalty": {"strength": 0.1},
    "MultiplicativeNoise": {"sigma": 1.0},
    "AdaptiveBatchSize": {"batch_size": 8, "max_batch_size": 64},
    "BatchSizeScheduler": {"schedule": {0: 8}},
    "OptimizerScaling": {"base_batch_size": 32, "rule": "sqrt"},
    "PiggybackWarmStart": {"switch_epoch": 1, "large_batch_size": 64, "optimizer_state": "keep"},
}
FUNCTIONS = ("loss_fn", "accuracy_fn", "count", "rule", "schedule")
SETTINGS = [
    pytest.param(
        callback,
        name,
        parameter,
        id=f"{callback.__name__}-{name}",
    )
    for callback in CALLBACKS
    for name, parameter in inspect.signature(callback.__init__).parameters.items()
    if name != "self"
]


def made(callback, name, value):
    """The callback, or None if the value was refused, which must be by name."""
    try:
        return callback(**{**NEEDED.get(callback.__name__, {}), name: value})
    except (TypeError, ValueError) as error:
        told = str(error)
    assert name in told
    return None


def test_all_callbacks_are_here():
    assert len(CALLBACKS) >= 11


def is_plain(value):
    if isinstance(value, tuple | list | set):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, [*value.keys(), *value.values()]))
    return type(value) in (int, float, bool, str, type(None)) or isinstance(value, Path) or callable(value)


@pytest.mark.parametrize(("callback", "name", "parameter"), SETTINGS)
def test_an_argument_is_refused_by_name_or_kept_plain(callback, name, parameter):
    annotation = str(parameter.annotation)
    for label, value in {**JUNK, **DOUBTFUL}.items():
        kept = made(callback, name, value)
        if kept is None:
            continue
        assert label not in JUNK or (label == "type" and name in FUNCTIONS), f"{name}={value!r} was accepted"
        stored = getattr(kept, name, None)
        assert is_plain(stored), f"{name}={value!r} is kept as {stored!r}"
        assert label not in ("true", "numpy true") or "bool" in annotation, f"{name}={value!r} was accepted"
        assert label != "none" or "None" in annotation or parameter.default is None
        if isinstance(stored, int | float):
            assert math.isfinite(stored)
            assert stored == value
