"""Every public name says what it takes, what it refuses, and shows itself at work."""

import inspect
from typing import get_origin

import pytest

from lightning_gap import functional

NAMES = {
    name: value
    for name, value in vars(functional).items()
    if not name.startswith("_") and not inspect.ismodule(value) and (inspect.isclass(value) or callable(value))
}
ERRORS = {name for name, value in NAMES.items() if inspect.isclass(value) and issubclass(value, Exception)}
SHOWN = {name: value for name, value in NAMES.items() if name not in ERRORS and hasattr(value, "__module__")}
SHOWN = {name: value for name, value in SHOWN.items() if inspect.isclass(value) or inspect.isfunction(value)}
SHOWN = {
    name: value for name, value in SHOWN.items() if get_origin(value) is None
}  # aliases are classes in Python 3.10


def test_the_errors_and_the_functions_are_here():
    assert len(ERRORS) == 6
    assert len(SHOWN) >= 65


@pytest.mark.parametrize("name", SHOWN)
def test_a_docstring_has_an_example_and_names_every_argument(name):
    text = inspect.getdoc(SHOWN[name])
    assert ">>> " in text.partition("Example:")[2]
    own = [] if name in ("GhostBatchNorm1d", "GhostBatchNorm3d") else inspect.signature(SHOWN[name]).parameters
    for argument in own:
        assert f"    {argument}: " in text, argument


@pytest.mark.parametrize("name", [name for name, value in SHOWN.items() if inspect.isfunction(value)])
def test_the_docstring_of_a_function_says_what_it_refuses(name):
    assert "Raises:\n" in inspect.getdoc(SHOWN[name])
