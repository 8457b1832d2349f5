"""What all figures share: a look for each regime that no reader mistakes, bands, axes, legends."""

import math

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from scipy import stats

from lightning_gap.recipes import REGIMES
from lightning_gap.recipes.reports.drawing import blank, label, legend_below, line_with_band, look


def linear(color):
    channels = np.array(to_rgb(color))
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast_to_white(color):
    return 1.05 / (linear(color) @ [0.2126, 0.7152, 0.0722] + 0.05)


def test_every_regime_has_a_look_of_its_own_that_is_seen_on_white():
    looks = [look(regime) for regime in REGIMES]
    assert len({(each.color, each.marker) for each in looks}) == len(REGIMES)
    assert len({(each.color, each.line, each.marker) for each in looks}) == len(REGIMES)
    assert all(contrast_to_white(each.color) >= 3 for each in looks)


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab(rgb):
    x, y, z = np.cbrt(TO_XYZ @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", [np.eye(3), PROTANOPIA, DEUTERANOPIA])
def test_colours_of_the_main_comparison_are_told_apart_by_colour_blind_readers(deficiency):
    regimes = ["small", "large", "linear-lr", "ghost-lr", "sam"]
    seen = [lab(np.array(deficiency) @ linear(look(regime).color)) for regime in regimes]
    apart = [math.dist(a, b) for k, a in enumerate(seen) for b in seen[:k]]
    assert min(apart) > 15  # a just noticeable difference is about 2.3


def test_a_regime_of_the_users_own_looks_the_same_each_time():
    assert look("mine") == look("mine")
    assert look("mine").color not in {look(regime).color for regime in REGIMES}


def test_a_line_is_the_mean_over_seeds_and_its_band_the_interval():
    _, (axes,) = blank()
    by_seed = [[1.0, 2.0, math.inf], [2.0, 2.5, 3.0], [1.5, 3.0, 4.0]]
    line_with_band(axes, [10, 20, 30], by_seed, name="small", like=look("small"))
    (line,), (band,) = axes.get_lines(), axes.collections
    assert line.get_xydata().tolist() == [[10, 1.5], [20, 2.5]]  # where all seeds have a number
    vertices = band.get_paths()[0].vertices
    for x, values in ((10, (1.0, 2.0, 1.5)), (20, (2.0, 2.5, 3.0))):
        theirs = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        at = vertices[vertices[:, 0] == x][:, 1]
        assert (at.min(), at.max()) == pytest.approx((theirs.low, theirs.high))


def test_one_seed_is_a_line_without_band_and_its_length_is_checked():
    _, (axes,) = blank()
    line_with_band(axes, [1, 2], [[1.0, 2.0]], name="small", like=look("small"))
    assert not axes.collections
    with pytest.raises(ValueError, match="by_seed of 'large' has a curve of 1 values for 2 positions"):
        line_with_band(axes, [1, 2], [[1.0]], name="large", like=look("large"))


def test_axes_have_names_and_the_legend_is_outside():
    figure, panels = blank(5, rows=2)
    for axes in panels:
        line_with_band(axes, [1, 2], [[1.0, 2.0]], name="small", like=look("small"))
    label(panels[1], "epoch", "sharpness (%)", log="y")
    legend_below(figure, panels[0])
    assert (panels[1].get_xlabel(), panels[1].get_ylabel()) == ("epoch", "sharpness (%)")
    assert (panels[0].get_yscale(), panels[1].get_yscale(), panels[1].get_xscale()) == ("linear", "log", "linear")
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["small"]
    figure.canvas.draw()
    told = [text.get_text() for text in panels[1].get_yticklabels(which="both") if text.get_text()]
    assert all(float(text) > 0 for text in told)  # plain numbers, no 2 × 10 with a small 0 above it
    assert len(told) > 1
    assert legend.get_window_extent().y1 <= min(axes.get_window_extent().y0 for axes in panels)
