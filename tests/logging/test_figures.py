import math
from itertools import pairwise

import pytest

from lightning_gap.logging import parametric_figure, surface_figure

ALPHAS = [-1.0, 0.0, 1.0, 2.0]
LOSS = {"train": [1.0, 0.1, 0.2, 3.0], "test": [1.5, 0.3, 0.4, 4.0]}


def saved(figure, folder):
    figure.savefig(folder / "figure.png")
    return (folder / "figure.png").read_bytes()


def test_the_figure_draws_the_given_curves_between_the_named_ends(tmp_path):
    accuracy = {"train": [0.5, 1.0, 1.0, 0.1], "test": [0.4, 0.9, 0.8, 0.1]}
    figure = parametric_figure(ALPHAS, LOSS, accuracy, ends=("small", "large"), title="Title")
    left, right = figure.axes
    assert [list(line.get_ydata()) for line in left.get_lines()[:2]] == list(LOSS.values())
    assert [list(line.get_ydata()) for line in right.get_lines()] == [[100 * a for a in v] for v in accuracy.values()]
    assert [line.get_linestyle() for line in right.get_lines()] == ["-", "--"]
    assert [text.get_text() for text in left.texts] == ["small", "large"]
    assert saved(figure, tmp_path).startswith(b"\x89PNG")


def test_a_figure_without_accuracies_has_the_losses_alone(tmp_path):
    figure = parametric_figure(ALPHAS, LOSS, {}, ends=("small", "large"), title="Title")
    assert [list(line.get_ydata()) for line in figure.axes[0].get_lines()[:2]] == list(LOSS.values())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train loss", "test loss"]
    assert not figure.axes[1].yaxis.get_visible()
    assert saved(figure, tmp_path).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "losses",
    [
        [[1.0, 10.0, 100.0], [2.0, math.inf, 1e6]],
        [[-1.0, 0.0, 1.0], [2.0, math.nan, 3.0]],
        [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]],
    ],
)
def test_a_surface_has_the_first_axis_across_and_the_run_on_top(losses, tmp_path):
    figure = surface_figure(
        ([0.0, 1.0], [-1.0, 0.0, 5.0]), losses, labels=("first", "second"), title="Title", path=[(0.0, 5.0), (1.0, 0.0)]
    )
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title()) == ("first", "second", "Title")
    assert [list(data) for data in axes.lines[0].get_data()] == [[0.0, 1.0], [5.0, 0.0]]
    assert [list(data) for data in axes.lines[1].get_data()] == [[1.0], [0.0]]
    assert axes.get_ylim()[1] >= 5.0
    assert saved(figure, tmp_path).startswith(b"\x89PNG")


def test_levels_are_even_in_the_logarithm_of_the_loss():
    figure = surface_figure(([0.0, 1.0], [0.0, 1.0]), [[1.0, 10.0], [100.0, 1e6]], labels=("", ""), title="")
    levels = figure.axes[0].collections[0].levels
    assert (levels[0], levels[-1]) == pytest.approx((1.0, 1e6))
    assert [b / a for a, b in pairwise(levels)] == pytest.approx([10**0.5] * 12)


def test_a_surface_that_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match=r"losses.*2 times 2.*1 rows"):
        surface_figure(([0.0, 1.0], [0.0, 1.0]), [[1.0, 2.0]], labels=("", ""), title="")
    with pytest.raises(ValueError, match=r"losses.*everywhere"):
        surface_figure(([0.0, 1.0], [0.0, 1.0]), [[math.nan, math.inf]] * 2, labels=("", ""), title="")


@pytest.mark.parametrize(("low", "high"), [(1.2, 15.0), (2.0, 5.0), (1e-4, 3e3)])
def test_a_logarithmic_axis_has_plain_numbers_beside_it(low, high, tmp_path):
    loss = {"train": [low, high, low, high]}
    figure = parametric_figure(ALPHAS, loss, {}, ends=("small", "large"), title="")
    saved(figure, tmp_path)
    axis = figure.axes[0].yaxis
    shown = [tick for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()) if tick.label1.get_text()]
    assert len(shown) >= 2
    assert [float(tick.label1.get_text()) for tick in shown] == pytest.approx([tick.get_loc() for tick in shown])
