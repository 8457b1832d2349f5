import numpy as np
import pytest
import torch
from functional.landscape.landscape_cases import ONCE, at, bowl, normalised_network, of_weight
from torch import nn

from lightning_gap.functional import evaluate_points, plane_through, trajectory_plane

NETWORK = normalised_network()
NAMES = [name for name, _ in NETWORK.named_parameters()]


def run(epochs, seed=0):
    """States of a random walk."""
    generator = torch.Generator().manual_seed(seed)
    state, states = NETWORK.state_dict(), []
    for _ in range(epochs):
        state = {
            k: v + torch.randn(v.shape, generator=generator, dtype=v.dtype) if k in NAMES else v + 1
            for k, v in state.items()
        }
        states.append(state)
    return states


def flat(state):
    return torch.cat([state[name].flatten() for name in NAMES]).numpy()


def test_directions_coordinates_and_shares_are_those_of_a_singular_value_decomposition():
    states = run(7)
    plane = trajectory_plane(NETWORK, states, components=3)
    path = np.stack([flat(state) - flat(states[-1]) for state in states])
    _, values, vectors = np.linalg.svd(path - path.mean(0), full_matrices=False)
    assert plane.explained == pytest.approx((values**2 / (values**2).sum())[:3], rel=1e-10)
    for k, direction in enumerate(plane.directions):
        ours = flat(direction)
        assert abs(ours @ vectors[k]) == pytest.approx(1, rel=1e-10)
        assert [row[k] for row in plane.coordinates] == pytest.approx(path @ ours, abs=1e-9)
    assert plane.coordinates[-1] == (0.0, 0.0, 0.0)
    assert all(max(row[k] for row in plane.coordinates) >= -min(row[k] for row in plane.coordinates) for k in range(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_straight_path_is_one_component(dtype):
    states = run(2)
    line = [
        {k: (v + t * (states[1][k] - v)).to(dtype) if k in NAMES else v for k, v in states[0].items()}
        for t in (0.0, 0.1, 0.5, 1.0)
    ]
    plane = trajectory_plane(NETWORK, line)
    length = np.linalg.norm(flat(states[0]) - flat(states[1]))
    assert plane.explained[0] == pytest.approx(1.0, abs=1e-12)
    assert [row[0] for row in plane.coordinates] == pytest.approx([length, 0.9 * length, 0.5 * length, 0.0], rel=1e-6)


def test_a_run_in_a_plane_lies_in_the_surface():
    module = bowl((0.0, 0.0, 0.0))
    states = [at(0.0, 0.0, 1.0), at(3.0, 0.0, 1.0), at(1.0, 2.0, 1.0)]
    plane = trajectory_plane(module, states, components=5)
    assert len(plane.directions) == 2
    for state, (x, y) in zip(states, plane.coordinates, strict=True):
        found = [
            evaluate_points(module, plane.points([[x], [y]]), of_weight(lambda w, i=i: w[i]), ONCE) for i in range(3)
        ]
        assert [each.values["data"]["loss"][0] for each in found] == pytest.approx(state["weight"][0].tolist())


def test_three_solutions_are_corners_of_their_plane():
    module, corners = bowl((0.0, 0.0, 0.0)), [at(1.0, 0.0, 0.0), at(0.0, 1.0, 0.0), at(0.0, 0.0, 3.0)]
    plane = plane_through(module, *corners)
    assert plane.coordinates[0] == (0.0, 0.0)
    assert plane.coordinates[1] == pytest.approx((2**0.5, 0.0))
    for corner, (x, y) in zip(corners, plane.coordinates, strict=True):
        found = [
            evaluate_points(module, plane.points([[x], [y]]), of_weight(lambda w, i=i: w[i]), ONCE) for i in range(3)
        ]
        assert [each.values["data"]["loss"][0] for each in found] == pytest.approx(
            corner["weight"][0].tolist(), abs=1e-12
        )


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: trajectory_plane(bowl(), [at(1.0, 2.0)]), "states.*two.*1"),
        (lambda: trajectory_plane(bowl(), [at(1.0, 2.0)] * 3), "states.*same"),
        (lambda: trajectory_plane(bowl(), [at(1.0, 2.0), at(1.0, float("nan"))]), "states.*finite"),
        (lambda: trajectory_plane(bowl(), [at(1.0, 2.0), at(1.0)]), r"states\[1\].*weight"),
        (lambda: trajectory_plane(nn.Linear(2, 1), [at(1.0, 2.0), at(1.0, 3.0)]), "bias"),
        (lambda: trajectory_plane(bowl(), [at(1.0, 2.0), at(1.0, 3.0)], components=0), "components.*0"),
        (lambda: plane_through(bowl(), at(1.0, 0.0), at(1.0, 0.0), at(2.0, 0.0)), "first and second"),
        (lambda: plane_through(bowl(), at(1.0, 0.0), at(2.0, 0.0), at(5.0, 0.0)), "third.*line_points"),
        (lambda: trajectory_plane(bowl(), [at(0.0, 0.0), at(1.0, 1.0)]).points([[0.0], [0.0]]), "steps.*1.*2"),
    ],
)
def test_what_spans_no_plane_is_refused_by_name(make, named):
    with pytest.raises(ValueError, match=named):
        make()
