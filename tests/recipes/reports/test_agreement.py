"""Marks and their count, on numbers whose intervals are known."""

import pytest
from scipy import stats

from lightning_gap.recipes.reports.agreement import (
    CANNOT_TELL,
    INSIDE,
    MARKS,
    OPPOSITE,
    OUTSIDE,
    SAME,
    counted,
    marks,
)
from lightning_gap.recipes.reports.parts import Numbers, Published, Table

ABOVE, ACROSS, BELOW = (1.0, 1.2, 1.1), (1.0, -1.2, 0.5), (-1.0, -1.2, -1.1)


@pytest.mark.parametrize(
    ("values", "paper", "expected"),
    [
        (ABOVE, 1.15, [SAME, INSIDE]),
        (ABOVE, 5.0, [SAME, OUTSIDE]),
        (ABOVE, -1.0, [OPPOSITE, OUTSIDE]),
        (BELOW, 1.0, [OPPOSITE, OUTSIDE]),
        (BELOW, -1.1, [SAME, INSIDE]),
        (ACROSS, 1.0, [CANNOT_TELL, INSIDE]),
        (ACROSS, -50.0, [CANNOT_TELL, OUTSIDE]),
        (ABOVE[:1], 1.0, [CANNOT_TELL]),  # one seed has no interval
        ((float("nan"), 1.0), 1.0, [CANNOT_TELL]),
        (ABOVE, 0.0, [OUTSIDE]),  # zero has no direction
        (ABOVE, None, []),
    ],
)
def test_a_difference_agrees_in_direction_and_in_value(values, paper, expected):
    numbers = Numbers(values, paper=None if paper is None else Published(paper), differences=True)
    assert marks(numbers) == expected
    if len(values) > 1 and paper is not None and values[0] == values[0]:
        low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (INSIDE in expected) == (low < paper < high)


def test_what_is_no_difference_has_no_direction():
    assert marks(Numbers(ABOVE, paper=Published(1.15))) == [INSIDE]


def test_every_mark_has_a_sign_and_words_of_its_own():
    assert len({mark.sign for mark in MARKS}) == len({mark.words for mark in MARKS}) == len(MARKS) == 5


def numbers(values, paper, differences=True):
    return Numbers(values, paper=Published(paper), differences=differences)


def test_a_line_counts_what_agrees():
    cells = [numbers(ABOVE, 1.15), numbers(ABOVE, 5.0), numbers(BELOW, 1.0), numbers(ACROSS, 1.0)]
    cells += [numbers(ABOVE[:1], 1.0), numbers(ABOVE, 1.1, differences=False), Numbers(ABOVE)]
    line = counted(Table("Gap", ["network", *"abcdefg"], [["F1", *cells]]))
    assert "2 of 5 as in the paper, 1 opposite, 2 cannot be told" in line
    assert "3 of 5 numbers of the paper lie inside" in line
    assert "for 1 we have no interval" in line


def test_where_the_paper_has_no_number_nothing_is_counted():
    assert counted(Table("Gap", ["network", "gap"], [["F1", Numbers(ABOVE, differences=True)], ["C1", "-"]])) == ""
