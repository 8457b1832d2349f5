"""Every argument of every recipe, data set and comparison, fed odd values: refused by name, or it means something."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from odd_arguments import DATA, feed
from odd_values import ODD

from lightning_gap import recipes
from lightning_gap.recipes import Recipe
from lightning_gap.recipes.own_model import advise, compare

# Small, and without what cannot be used with it.
SMALL = {
    "F1": {"inputs": 4, "width": 4, "depth": 1},
    "F2": {"inputs": 4, "width": 4, "depth": 1},
    "C1": {"channels": 2, "dense": (2, 2)},
    "C2": {"width": 1, "dense": 2},
    "C3": {"channels": 2, "dense": (2, 2)},
    "C4": {"width": 1, "dense": 2},
    "GPT": {"length": 4, "width": 4, "depth": 1, "heads": 1},
    "ResNet44": {"width": 1, "blocks": 1},
    "ResNet50": {"blocks": (1, 1, 1, 1), "width_per_group": 1},
    "WRN16_4": {"depth": 10, "widen": 1, "width": 1},
}


class Begun(Exception):
    pass


def begins(*_, **__):
    raise Begun


def until_it_begins(call):
    def called(**given):
        try:
            call(**given)
        except Begun:
            return

    return called


CALLS = {name: (getattr(recipes, name), SMALL[name]) for name in SMALL}
CALLS |= {name: (getattr(recipes, name), {"batch_size": 8}) for name in DATA}
OWN = {"make_module": begins, "make_data": begins}
CALLS["compare"] = (
    until_it_begins(compare),
    OWN | {"regimes": ["small"], "small_batch_size": 2, "large_batch_size": 4, "epochs": 1, "metric": "accuracy"},
)
CALLS["advise"] = (until_it_begins(advise), OWN | {"batch_size": 2, "loss_fn": begins})
SIGNATURES = {name: inspect.signature(call) for name, (call, _) in CALLS.items()}
SIGNATURES |= {"compare": inspect.signature(compare), "advise": inspect.signature(advise)}
SHARED = Recipe.__annotations__.keys()  # one check for all recipes, tried on the first


def arguments_of(name):
    parameters = SIGNATURES[name].parameters.values()
    of_all = SHARED if name in SMALL and name != "F1" else ()
    return [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in of_all]


def test_every_recipe_and_data_set_is_here():
    public = set(re.findall(r"import (\w+) as", Path(recipes.__file__).read_text(encoding="utf-8")))
    assert public - {"Recipe", "REGIMES"} == CALLS.keys() - {"advise"}


@pytest.mark.promise("arguments")
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SMALL.keys() - {"F1", "C1", "GPT"})) for name in CALLS],
)
def test_an_argument_is_refused_by_name_or_means_something(name, record_property, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a text is a folder to some
    call, needed = CALLS[name]
    tried = taken = 0
    with torch.device("meta") if name in SMALL else torch.device("cpu"):  # weights are not looked at
        for argument in arguments_of(name):
            skip = ("function", "type") if argument.startswith("make_") or argument == "loss_fn" else ()
            tried += len(ODD) - len(skip)
            taken += sum(1 for _ in feed(name, argument, call, lambda: dict(needed), skip=skip))
    record_property("cases", tried)
    record_property("refused", tried - taken)
