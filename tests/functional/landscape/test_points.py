import math

import pytest
import torch
from functional.landscape.landscape_cases import ONCE, at, bowl, of_weight

from lightning_gap.functional import WeightPoints, evaluate_points, line_points, surface_points


def weights_at(points):
    module = bowl(at(0.0, 0.0)["weight"][0].tolist())
    first, second = (
        evaluate_points(module, points, of_weight(lambda w, i=i: w[i]), ONCE).values["data"]["loss"] for i in (0, 1)
    )
    return list(zip(first, second, strict=True))


def test_a_curved_path_is_a_quarter_of_an_ellipse_that_meets_both_ends_exactly():
    alphas = [-1.0, 0.0, 1 / 3, 1.0, 2.0]
    found = weights_at(line_points(at(3.0, 0.0), at(0.0, 5.0), alphas, path="curved"))
    wanted = [(3 * math.cos(a * math.pi / 2), 5 * math.sin(a * math.pi / 2)) for a in alphas]
    assert [x for point in found for x in point] == pytest.approx([x for point in wanted for x in point], abs=1e-12)
    assert found[1] == (3.0, 0.0)
    assert found[3] == (0.0, 5.0)


def test_an_end_that_is_not_finite_does_not_spoil_the_other():
    found = weights_at(line_points(at(3.0, 0.0), at(math.inf, math.nan), [0.0, 0.5, 1.0]))
    assert found[0] == (3.0, 0.0)
    assert found[1][0] == found[2][0] == math.inf
    assert math.isnan(found[1][1])


def test_a_surface_is_the_centre_plus_steps_along_its_directions():
    points = surface_points(at(1.0, 2.0), [at(1.0, 0.0), at(1.0, 1.0)], [[-1.0, 0.0, 2.0], [0.0, 3.0]])
    assert points.shape == (3, 2)
    assert weights_at(points) == [(1 + a + b, 2 + b) for a in (-1, 0, 2) for b in (0, 3)]


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: line_points(at(1.0), at(1.0, 2.0), [0.0]), r"weight is \(1, 1\) and \(1, 2\)"),
        (lambda: line_points(at(1.0), {"bias": torch.zeros(1)}, [0.0]), "bias is in one alone; weight is in one alone"),
        (lambda: line_points(at(1.0), at(1.0), []), "alphas is empty"),
        (lambda: line_points(at(1.0), at(1.0), [0.0], path="cubic"), "path.*'cubic'"),
        (lambda: surface_points(at(1.0), [at(1.0, 2.0)], [[0.0]]), "directions.*weight"),
        (lambda: surface_points(at(1.0), [at(1.0)], []), "steps and directions.*0 and 1"),
        (lambda: surface_points(at(1.0), [at(1.0)], [[]]), "steps and directions"),
        (lambda: WeightPoints([at(1.0)], [[1.0, 2.0]]), "coefficients.*1 states.*2"),
        (lambda: WeightPoints([at(1.0)], [[1.0]], (2,)), r"shape.*1 points.*\(2,\)"),
    ],
)
@pytest.mark.bad_input(57)
def test_points_that_cannot_be_are_refused_by_name(make, named):
    with pytest.raises(ValueError, match=named):
        make()


@pytest.mark.bad_input(58)
def test_positions_may_come_in_any_order_and_alone():
    assert [x for x, _ in weights_at(line_points(at(0.0, 0.0), at(1.0, 1.0), [2.0, -1.0, 0.5]))] == [2.0, -1.0, 0.5]
    assert weights_at(line_points(at(0.0, 0.0), at(1.0, 1.0), [1.0])) == [(1.0, 1.0)]
