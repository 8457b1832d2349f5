from math import comb

import pytest
import torch
from functional.landscape.landscape_cases import at, bowl

from lightning_gap.functional import WeightCurve, length_weighted_mean, line_points


@pytest.mark.parametrize("bends", [1, 2, 4])
@pytest.mark.parametrize("kind", ["bezier", "chain"])
def test_a_curve_meets_its_ends_exactly_and_its_weights_sum_to_one(kind, bends):
    curve = WeightCurve([at(float(k)) for k in range(bends + 2)], kind)
    assert curve.weights_at(0) == (1.0, *[0.0] * (bends + 1))
    assert curve.weights_at(1) == (*[0.0] * (bends + 1), 1.0)
    for t in (0.1, 0.37, 0.8):
        assert sum(curve.weights_at(t)) == pytest.approx(1)


def test_bezier_weights_are_bernsteins_and_chain_weights_hats():
    nodes, t = [at(float(k)) for k in range(4)], 0.3
    assert WeightCurve(nodes, "bezier").weights_at(t) == pytest.approx(
        [comb(3, j) * t**j * (1 - t) ** (3 - j) for j in range(4)]
    )
    assert WeightCurve(nodes, "chain").weights_at(t) == pytest.approx([0.1, 0.9, 0.0, 0.0])
    assert WeightCurve(nodes[:3], "chain").weights_at(t) == pytest.approx([0.4, 0.6, 0.0])  # 2 (t theta + (0.5 - t) w1)


def test_a_mean_along_a_path_counts_stretches_by_their_length():
    module = bowl()
    corner = WeightCurve([at(0.0, 0.0), at(3.0, 0.0), at(3.0, 1.0)], "chain")
    ts, values = [0.0, 0.25, 0.5, 1.0], [0.0, 2.0, 4.0, 8.0]
    assert length_weighted_mean(module, corner.points(ts), values) == pytest.approx((1.5 * 1 + 1.5 * 3 + 1 * 6) / 4)
    circle = line_points(at(1.0, 0.0), at(0.0, 1.0), [k / 200 for k in range(201)], path="curved")
    heights = torch.linspace(0, torch.pi / 2, 201).sin().tolist()
    assert length_weighted_mean(module, circle, heights) == pytest.approx(2 / torch.pi, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: WeightCurve([at(1.0)], "bezier"), "nodes.*1"),
        (lambda: WeightCurve([at(1.0), at(1.0, 2.0)], "bezier"), r"nodes\[1\].*weight"),
        (lambda: WeightCurve([at(1.0), at(2.0)], "spline"), "kind.*'spline'"),
        (lambda: WeightCurve([at(1.0), at(2.0)], "chain").points([1.5]), "ts .*1.5"),
        (
            lambda: length_weighted_mean(bowl((0.0,)), line_points(at(1.0), at(2.0), [0.0, 1.0]), [1.0]),
            "values.*1 for 2",
        ),
        (
            lambda: length_weighted_mean(bowl((0.0,)), line_points(at(1.0), at(1.0), [0.0, 1.0]), [1.0, 1.0]),
            "no length",
        ),
    ],
)
def test_what_is_no_curve_is_refused_by_name(make, named):
    with pytest.raises(ValueError, match=named):
        make()
