import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_gap.functional import RandomSubspace
from lightning_gap.functional._loss_surface import loss_surface
from lightning_gap.functional.sharpness._neighbourhood import Neighbourhood
from lightning_gap.functional.sharpness.random_subspace import SubspaceBasis

SCALES = {  # of one coordinate c
    ("max", False): lambda c: c.abs() + 1,
    ("max", True): torch.abs,
    ("l2", False): torch.ones_like,
    ("l2", True): torch.abs,
}


def two_tensors():
    return [
        torch.tensor([[1.0, -2.0], [0.0, 0.5]]).double().requires_grad_(),
        torch.tensor([-3.0]).double().requires_grad_(),
    ]


@pytest.mark.parametrize(("norm", "relative"), SCALES)
@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=5, max_size=5), st.sampled_from([1e-3, 0.5, 2.0]))
def test_a_point_is_a_step_of_its_scale_in_each_coordinate(norm, relative, entries, epsilon):
    weights = two_tensors()
    u = torch.tensor(entries, dtype=torch.float64)
    point = [u[:4].view(2, 2), u[4:]]
    with loss_surface(lambda: weights[0].sum(), weights) as surface:
        place = Neighbourhood(surface, subspace=None, norm=norm, relative=relative)
        expected = [epsilon * SCALES[norm, relative](x) * v for x, v in zip(surface.centre, point, strict=True)]
        torch.testing.assert_close(list(place.offsets(point, epsilon)), expected)
        place.move(point, epsilon)
        for weight, x, step in zip(weights, surface.centre, expected, strict=True):
            torch.testing.assert_close(weight.detach(), x + step)
        ones = [torch.ones_like(v) for v in point]
        torch.testing.assert_close(place.half_widths(epsilon), list(place.offsets(ones, epsilon)))


@pytest.mark.parametrize(("norm", "relative"), SCALES)
def test_the_projected_gradient_is_that_of_the_coordinates(norm, relative):
    """Scaled in a ball, where its length matters; as it is in a box."""
    weights = two_tensors()
    gradient = [torch.randn(2, 2, dtype=torch.float64), torch.randn(1, dtype=torch.float64)]
    kept = [g.clone() for g in gradient]
    with loss_surface(lambda: weights[0].sum(), weights) as surface:
        found = Neighbourhood(surface, subspace=None, norm=norm, relative=relative).project(gradient)
        scaled = [SCALES[norm, relative](x) * g for x, g in zip(surface.centre, gradient, strict=True)]
    torch.testing.assert_close(found, scaled if norm == "l2" else gradient)
    assert all(torch.equal(g, k) for g, k in zip(gradient, kept, strict=True))


def test_a_subspace_has_the_papers_box_and_offsets():
    weights = two_tensors()
    subspace = RandomSubspace(2, seed=1, scale=0.5)
    with loss_surface(lambda: weights[0].sum(), weights) as surface:
        place = Neighbourhood(surface, subspace=subspace, norm="max", relative=False)
        basis = SubspaceBasis(subspace, surface.centre)
        (widths,) = place.half_widths(0.1)
        torch.testing.assert_close(widths, 0.1 * (basis.coordinates(surface.centre).abs() + 1))
        u = torch.tensor([0.5, -1.0], dtype=torch.float64)
        torch.testing.assert_close(list(place.offsets([u], 0.1)), list(basis.expand(widths * u)))
        (projected,) = place.project(surface.centre)
        torch.testing.assert_close(projected, basis.project(surface.centre))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_points_are_inside_from_the_generator_and_move_nothing(dtype):
    weights = [torch.randn(30, 3, dtype=dtype).requires_grad_(), torch.randn(7, dtype=dtype).requires_grad_()]
    with loss_surface(lambda: weights[0].sum(), weights) as surface:
        for norm in ("max", "l2"):
            place = Neighbourhood(surface, subspace=None, norm=norm, relative=False)
            state = torch.get_rng_state()
            first, again = (place.random(torch.Generator().manual_seed(5)) for _ in range(2))
            assert torch.equal(torch.get_rng_state(), state)
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            assert [u.shape for u in first] == [w.shape for w in weights]
            assert {u.dtype for u in first} == {torch.float16 if norm == "max" else dtype}
            flat = torch.cat([u.flatten() for u in first])
            if norm == "max":
                assert 0.9 < float(flat.abs().max()) <= 1
                assert abs(float(flat.mean())) < 0.25
            else:
                assert float(flat.norm()) == pytest.approx(1, rel=1e-6)
        assert all(torch.equal(w, x) for w, x in zip(weights, surface.centre, strict=True))


def test_the_blank_point_is_the_centre():
    weights = two_tensors()
    with loss_surface(lambda: weights[0].sum(), weights) as surface:
        for subspace in (None, RandomSubspace(2)):
            place = Neighbourhood(surface, subspace=subspace, norm="max", relative=False)
            place.move(place.blank(), 0.1)
            assert all(torch.equal(w, x) for w, x in zip(weights, surface.centre, strict=True))
