"""A batch size for a module of one's own, against the same measurement of a recipe and against bad input."""

import pytest
import tiny
import torch
from torch.nn.functional import cross_entropy

from lightning_gap.recipes import advice
from lightning_gap.recipes.own_model import advise

SETTINGS = {"batch_size": 16, "steps": 6, "trainer": {"accelerator": "cpu"}}


def make_module():
    return tiny.TinyClassifier(dropout=0.0)


def make_data(batch_size):
    return tiny.loader(256, batch_size=batch_size), None


def loss_fn(module, batch):
    return cross_entropy(module(batch[0]), batch[1])


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(advice, "SAMPLES", 200)
    monkeypatch.setattr(advice, "PROBES", 1)


def test_the_advice_is_that_of_the_loss_that_is_given():
    found = advise(make_module, make_data, **SETTINGS, loss_fn=loss_fn)
    again = advise(make_module, make_data, **SETTINGS, loss_fn=lambda m, b: 3 * loss_fn(m, b))
    assert again.scale == pytest.approx(found.scale)  # noise over signal: a factor of the loss falls out
    assert found.lowest <= found.scale <= found.highest
    assert found.batch_size <= min(found.scale, 256) < 2 * found.batch_size


@pytest.mark.parametrize(("changed", "words"), [({"steps": 5}, "steps"), ({"batch_size": 0}, "batch_size")])
def test_bad_numbers_are_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        advise(make_module, make_data, **{**SETTINGS, **changed}, loss_fn=loss_fn)


def test_a_module_in_place_of_its_class_is_refused():
    with pytest.raises(ValueError, match="pass the class TinyClassifier"):
        advise(tiny.TinyClassifier(), make_data, **SETTINGS, loss_fn=loss_fn)


def test_functions_that_make_something_else_are_refused():
    with pytest.raises(TypeError, match="make_module"):
        advise(lambda: torch.nn.Linear(1, 1), make_data, **SETTINGS, loss_fn=loss_fn)
    with pytest.raises(TypeError, match="make_data"):
        advise(make_module, lambda size: tiny.loader(256, batch_size=size), **SETTINGS, loss_fn=loss_fn)
