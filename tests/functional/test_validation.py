import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from odd_arguments import real
from odd_values import ODD

from lightning_gap.functional._validation import (
    check_counts,
    each,
    flag,
    instance,
    one_of,
    real_number,
    seed_number,
    text,
    whole_number,
)


@pytest.mark.parametrize(
    ("value", "plain"),
    [(3, 3), (np.int64(3), 3), (np.uint8(200), 200), (2**63 - 1, 2**63 - 1)],
)
def test_a_whole_number_comes_back_as_a_plain_int(value, plain):
    found = whole_number("count", value)
    assert (found, type(found)) == (plain, int)


@pytest.mark.parametrize("value", [3, 0.25, np.float32(0.25), np.float64(1e-300), np.int8(3), Fraction(1, 4)])
def test_a_real_number_comes_back_as_a_plain_float(value):
    found = real_number("share", value)
    assert (found, type(found)) == (value, float)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (
            lambda: whole_number("n", 2**63),
            r"^n must be a whole number, at most \d{19}, got 9223372036854775808$",
        ),
        (lambda: whole_number("n", 11, most=10, hint="fewer"), "^n must be a whole number, at most 10, got 11; fewer$"),
        (lambda: whole_number("n", -(10**5000)), "^n must be a whole number, at least 1, got a value of type int$"),
        (lambda: real_number("x", 10**400), "^x must be a finite number, got 10000"),
        (lambda: real_number("x", 0.0, above=0), r"^x must be a positive number, got 0\.0$"),
        (lambda: real_number("x", Fraction(1, 10**400), above=0), "^x must be a positive number, got Fraction"),
        (lambda: real_number("x", 1, at_least=0, below=1), "^x must be a number, at least 0 and below 1, got 1$"),
        (lambda: seed_number("seed", -1), "^seed must be a whole number, at least 0, got -1; a seed such as 0$"),
        (
            lambda: seed_number("seed", 2**32),
            "^seed must be a whole number, at most 4294967295, got 4294967296; a seed",
        ),
        (lambda: real_number("x", 10**400, finite=False), "^x must be a finite number, got 10000"),
        (lambda: each("steps", {1, 2}, whole_number), r"^steps must be a list or tuple, got \{1, 2\}$"),
        (lambda: each("steps", np.array(1), whole_number), r"^steps must be a list or tuple, got array\(1\)$"),
        (lambda: each("steps", [1, 0], whole_number), "^steps must be a whole number, at least 1, got 0$"),
        (lambda: instance("module", 3, torch.nn.Module, hint="yours"), "^module must be a Module, got 3; yours$"),
        (lambda: one_of("norm", np.array(["l2", "max"]), ("l2", "max")), "^norm must be one of 'l2', 'max', got array"),
        (lambda: flag("at_start", 1), "^at_start must be True or False, got 1$"),
        (lambda: flag("at_start", "False"), "^at_start must be True or False, got 'False'$"),
        (lambda: text("suffix", 1), "^suffix must be a text, got 1$"),
    ],
)
def test_a_refusal_names_argument_value_and_what_is_allowed(check, message):
    with pytest.raises(ValueError, match=message):
        check()


def test_flags_of_numpy_are_made_plain():
    assert flag("at_start", np.bool_(True)) is True


NO_NUMBER = {label: value for label, value in ODD.items() if not real()(value)}


@pytest.mark.parametrize("value", NO_NUMBER.values(), ids=NO_NUMBER)
def test_what_only_looks_like_a_number_is_none(value):
    for check in (whole_number, real_number):
        with pytest.raises(ValueError, match=r"^count must be a "):
            check("count", value)


@pytest.mark.parametrize("value", [0, -1, 2.0, 2.5, True, "3", None, float("nan")])
def test_what_is_no_count_is_refused_by_name_and_value(value):
    with pytest.raises(ValueError, match=rf"^second must be a whole number, at least 1, got {value!r}$"):
        check_counts(first=1, second=value)
    with pytest.raises(ValueError, match=rf"^first must be a whole number of samples, at least 1, got {value!r}$"):
        check_counts(unit="samples", first=value, second=1)


def test_counts_come_back_as_plain_ints_in_order():
    found = check_counts(first=np.int64(10**9), second=1)
    assert found == (10**9, 1)
    assert set(map(type, found)) == {int}


def test_what_was_measured_may_have_failed():
    assert math.isnan(real_number("loss", math.nan, above=0, finite=False))
    assert real_number("loss", np.float32(math.inf), above=0, finite=False) == math.inf
