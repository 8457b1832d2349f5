import pytest
import torch
from functional.perturbation.two_passes import network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, softmax, softplus

from lightning_gap.functional import adversarial_inputs, batch_statistics, stability_loss

MEAN, STD = torch.tensor([0.5, 0.4, 0.3]).double(), torch.tensor([0.2, 0.1, 0.4]).double()


def linear(samples=6, n=8, seed=0):
    """Binary logistic loss with linear logits: its maximum around a sample is known."""
    generator = torch.Generator().manual_seed(seed)
    w, x = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((n,), (samples, n)))
    y = 2 * (torch.arange(samples) % 2).double() - 1
    return w, x, y, lambda x: softplus(-y * (x @ w)).mean()


@pytest.mark.parametrize("given", [{}, {"steps": 5}, {"steps": 5, "step_size": 0.05}, {"random_start": True}])
def test_in_the_box_around_linear_logits_the_corner_is_reached(given):
    w, x, y, loss = linear()
    found = adversarial_inputs(loss, x, epsilon=0.1, **given)
    torch.testing.assert_close(found, x - 0.1 * y[:, None] * w.sign(), rtol=0, atol=1e-15)
    torch.testing.assert_close(y * (x @ w) - y * (found @ w), (0.1 * w.abs().sum()).expand(6), rtol=1e-12, atol=0)


@pytest.mark.parametrize("given", [{}, {"steps": 5, "random_start": False}, {"steps": 40, "step_size": 0.05}])
def test_in_the_ball_around_linear_logits_the_pole_is_reached(given):
    w, x, y, loss = linear()
    found = adversarial_inputs(loss, x, epsilon=0.1, norm="l2", **given)
    torch.testing.assert_close(found, x - 0.1 * y[:, None] * w / w.norm(), rtol=0, atol=1e-6)


def images(samples=4):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5)).double()
    return model, torch.rand(samples, 3, 6, 6, dtype=torch.float64), torch.arange(samples) % 5


def attacked_by_hand(model, x, y, epsilon, stride, steps, norm):
    """One sample at a time, from the inputs themselves."""
    rows = []
    for row, label in zip(x, y, strict=True):
        d = torch.zeros_like(row)
        for _ in range(steps):
            here = (row + d).requires_grad_()
            (g,) = torch.autograd.grad(cross_entropy(model(here[None]), label[None]), here)
            d = d + stride * (torch.where(g > 0, 1, -1).double() if norm == "max" else g / g.pow(2).sum().sqrt())
            if norm == "max":
                d = d.clamp(-epsilon, epsilon)
            elif float(d.pow(2).sum()) > epsilon**2:
                d = d * epsilon / d.pow(2).sum().sqrt()
            d = (row + d).clamp(0, 1) - row
        rows.append(row + d)
    return torch.stack(rows)


@pytest.mark.parametrize("norm", ["max", "l2"])
def test_several_steps_equal_a_loop_over_samples_by_hand(norm):
    model, x, y = images()
    epsilon = {"max": 0.1, "l2": 0.8}[norm]
    given = {"epsilon": epsilon, "steps": 6, "step_size": epsilon / 3, "norm": norm, "clip": (0.0, 1.0)}
    found = adversarial_inputs(lambda x: cross_entropy(model(x), y), x, random_start=False, **given)
    wanted = attacked_by_hand(model, x, y, epsilon, epsilon / 3, 6, norm)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", [tuple, torch.stack])
@pytest.mark.parametrize("norm", ["max", "l2"])
@pytest.mark.parametrize("step_size", [None, 0.05])
def test_normalised_inputs_with_numbers_by_channel_are_attacked_as_the_pixels_are(norm, step_size, kind):
    model, pixels, y = images()

    def to_model(x):
        return (x - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)

    given = {"steps": 5, "norm": norm, "random_start": False}
    wanted = adversarial_inputs(
        lambda x: cross_entropy(model(to_model(x)), y),
        pixels,
        epsilon=0.1,
        clip=(0.0, 1.0),
        step_size=step_size,
        **given,
    )

    def by_channel(values):
        return kind([value if kind is torch.stack else float(value) for value in values])

    found = adversarial_inputs(
        lambda x: cross_entropy(model(x), y),
        to_model(pixels),
        epsilon=by_channel(0.1 / STD),
        clip=(by_channel(-MEAN / STD), by_channel((1 - MEAN) / STD)),
        step_size=None if step_size is None else by_channel(step_size / STD),
        **given,
    )
    torch.testing.assert_close(found, to_model(wanted), rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10**6),
    st.floats(0.01, 2.0),
    st.integers(1, 4),
    st.sampled_from(["max", "l2"]),
    st.sampled_from([None, True, False]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_inputs_stay_near_and_within_their_bounds_and_the_loss_rises(seed, epsilon, steps, norm, start, dtype):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(3, 2, 4, generator=generator, dtype=dtype)
    slope = torch.randn(3, 2, 4, generator=generator, dtype=dtype)
    found = adversarial_inputs(
        lambda x: (slope * x).sum(), x, epsilon=epsilon, steps=steps, norm=norm, clip=(0, 1), random_start=start
    )
    distance = torch.linalg.vector_norm((found - x).flatten(1), torch.inf if norm == "max" else 2, dim=1)
    assert float(distance.max()) <= epsilon * (1 + 1e-5) + 1e-6
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1
    assert found.dtype is dtype
    assert float((slope * (found - x)).sum()) > 0


def test_inputs_and_gradients_are_left_alone_also_where_gradients_are_off():
    model, x, y = images()
    before = x.clone()
    with torch.no_grad():
        found = adversarial_inputs(lambda x: cross_entropy(model(x), y), x, epsilon=0.1, clip=(0, 1))
        assert not torch.is_grad_enabled()
    assert torch.equal(x, before)
    assert not x.requires_grad
    assert not found.requires_grad
    assert found.data_ptr() != x.data_ptr()
    assert all(weight.grad is None for weight in model.parameters())
    leaf = x.clone().requires_grad_()
    torch.testing.assert_close(
        adversarial_inputs(lambda x: cross_entropy(model(x), y), leaf, epsilon=0.1, clip=(0, 1)), found
    )
    assert leaf.grad is None


@pytest.mark.parametrize("norm", ["max", "l2"])
def test_the_random_start_is_uniform_and_drawn_from_the_generator(norm):
    x = torch.zeros(4000, 3, dtype=torch.float64)

    def start(seed):  # a step too small to matter
        generator = torch.Generator().manual_seed(seed)
        return adversarial_inputs(
            lambda x: x.sum(), x, epsilon=2.0, steps=2, step_size=1e-12, norm=norm, generator=generator
        )

    found = start(0)
    assert torch.equal(found, start(0))
    assert not torch.equal(found, start(1))
    # The share of the volume inside of each point is uniform: mean 1/2, standard error 1 / sqrt(12 n).
    inside = (found.abs().amax(1) if norm == "max" else found.norm(dim=1)).div(2) ** 3
    assert abs(float(inside.mean()) - 1 / 2) < 4 / (12 * 4000) ** 0.5
    assert abs(float(found.mean())) < 0.1


@pytest.mark.parametrize("norm", ["max", "l2"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_an_entry_without_a_finite_gradient_does_not_move(norm, bad):
    factor = torch.tensor([[1.0, bad], [bad, bad]])
    found = adversarial_inputs(lambda x: (factor * x).sum(), torch.zeros(2, 2), epsilon=0.5, norm=norm)
    assert found.tolist() == [[0.5, 0.0], [0.0, 0.0]]


def test_running_statistics_stay_within_batch_statistics():
    model = network(norm=True)
    before = [buffer.clone() for buffer in model.buffers()]
    x, y = torch.randn(6, 5).double(), torch.arange(6) % 3
    with batch_statistics(model):
        adversarial_inputs(lambda x: cross_entropy(model(x), y), x, epsilon=0.1, steps=3)
    assert all(torch.equal(buffer, value) for buffer, value in zip(model.buffers(), before, strict=True))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"inputs": torch.ones(2, 3).int()}, "inputs must be floating point, got torch.int32"),
        ({"inputs": torch.ones(0, 3)}, "inputs must hold at least one sample"),
        ({"epsilon": 0.0}, "epsilon must be a positive number, got 0"),
        ({"epsilon": (0.1, 0.2)}, r"epsilon must be one number, or one for each channel .* got \(0.1, 0.2\)"),
        ({"step_size": [0.1, 0.2, -1.0]}, "step_size must be a positive number, got -1"),
        ({"clip": (1.0, 0.0)}, r"clip must have its lowest value below its highest, got \(1.0, 0.0\)"),
        ({"clip": (0.0, 0.9)}, r"clip must be bounds of the inputs, which reach from 1 to 1, got \(0.0, 0.9\)"),
        ({"loss_fn": lambda x: x}, r"loss_fn must return a scalar tensor, got shape \(2, 3\)"),
        ({"loss_fn": lambda x: torch.ones(())}, "does not depend on the inputs"),
    ],
)
def test_what_cannot_be_attacked_is_refused(change, told):
    given = {"loss_fn": lambda x: x.sum(), "inputs": torch.ones(2, 3), "epsilon": 0.1}
    with pytest.raises(ValueError, match=told):
        adversarial_inputs(**{**given, **change})


@torch.inference_mode()
def test_inference_mode_is_refused():
    with pytest.raises(ValueError, match="inference_mode"):
        adversarial_inputs(lambda x: x.sum(), torch.ones(2, 3), epsilon=0.1)


def test_stability_is_the_divergence_written_out():
    clean, noisy = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    p, q = softmax(clean, dim=1), softmax(noisy, dim=1)
    wanted = (
        sum(p[n, k, i] * (p[n, k, i] / q[n, k, i]).log() for n in range(5) for k in range(4) for i in range(3)) / 15
    )
    torch.testing.assert_close(stability_loss(clean, noisy), wanted)


def test_without_noise_stability_and_its_gradients_are_zero():
    logits = [value.requires_grad_() for value in torch.randn(5, 4, dtype=torch.float64).repeat(2, 1, 1)]
    loss = stability_loss(*logits)
    assert abs(loss.item()) < 1e-15
    for gradient in torch.autograd.grad(loss, logits):
        assert float(gradient.abs().max()) < 1e-15


def test_gradients_of_stability_reach_both_predictions():
    logits = [torch.randn(5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(stability_loss, logits)


def test_logits_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match=r"logits and noisy_logits must have one shape, got \(2, 3\) and \(2, 4\)"):
        stability_loss(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="noisy_logits must be floating point, of shape"):
        stability_loss(torch.ones(2, 3), torch.ones(2))
