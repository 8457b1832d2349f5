"""Every argument of every callback, fed what it is not: refused by name, or kept as a plain Python value."""

import inspect
import math
from pathlib import Path

import pytest
import tiny
from lightning.pytorch import Callback
from odd_arguments import FUNCTIONS, feed
from odd_values import ODD

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


def test_all_callbacks_are_here():
    assert len(CALLBACKS) >= 11


def is_plain(value):
    if isinstance(value, tuple | list | set):
        return all(map(is_plain, value))
    if isinstance(value, dict):
        return all(map(is_plain, [*value.keys(), *value.values()]))
    return type(value) in (int, float, bool, str, type(None)) or isinstance(value, Path) or callable(value)


@pytest.mark.promise("arguments")
@pytest.mark.parametrize("callback", CALLBACKS)
def test_an_argument_is_refused_by_name_or_kept_plain(callback, record_property):
    name, tried, taken = callback.__name__, 0, 0
    for argument in list(inspect.signature(callback).parameters):
        tried += len(ODD)
        for value, kept in feed(name, argument, callback, lambda: dict(NEEDED.get(name, {})), skip=()):
            taken += 1
            stored = getattr(kept, argument)
            assert is_plain(stored), f"{argument}={value!r} is kept as {stored!r}"
            if isinstance(stored, int | float):
                assert math.isfinite(stored)
                assert stored == value
    record_property("cases", tried)
    record_property("refused", tried - taken)


@pytest.mark.promise("arguments")
def test_an_argument_of_landscape_is_refused_by_name_or_means_something(record_property):
    module, tried, taken = tiny.TinyClassifier(), 0, 0
    state = module.state_dict()
    needed = {"module": module, "checkpoint_a": state, "checkpoint_b": state, "dataloaders": tiny.loader()}
    needed |= {"alphas": [0.0], "samples": 4, "batch_norm": "running"}
    for argument in inspect.signature(lightning_gap.landscape).parameters:
        skip = FUNCTIONS if argument in ("loss_fn", "accuracy_fn", "count") else ()
        tried += len(ODD) - len(skip)
        taken += sum(1 for _ in feed("landscape", argument, lightning_gap.landscape, lambda: needed, skip=skip))
    record_property("cases", tried)
    record_property("refused", tried - taken)
