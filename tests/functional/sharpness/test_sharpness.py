import copy
import itertools
import math

import numpy as np
import processes
import pytest
import torch
from functional import sharpness_on_processes as script
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap.functional import DatasetLoss, RandomSubspace, UndefinedSharpnessError, sharpness
from lightning_gap.functional.sharpness.random_subspace import SubspaceBasis


def quadratic(curvature, slope, start, offset=0.5):
    """``offset + slope.d + d.diag(curvature).d / 2`` around ``start``."""
    x = start.clone().requires_grad_()
    return x, lambda: offset + slope @ (x - start) + (curvature * (x - start) ** 2).sum() / 2


def small_network(seed=0, *, samples=60):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3)).double()
    x = torch.randn(samples, 6, dtype=torch.float64)
    y = torch.randint(3, (samples,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
    model.zero_grad()
    return model, lambda: cross_entropy(model(x), y)


@pytest.mark.promise("sharp quadratic")
@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(0.01, 10) | st.floats(-10, -0.01), st.floats(-5, 5)),
        min_size=1,
        max_size=12,
    ),
    st.sampled_from([1e-3, 5e-4, 0.1]),
)
def test_a_separable_convex_quadratic_gives_its_known_maximum(terms, epsilon):
    curvature, slope, start = torch.tensor(terms, dtype=torch.float64).T
    x, loss = quadratic(curvature, slope, start)
    box = epsilon * (start.abs() + 1)
    highest = float((slope.abs() * box + curvature * box**2 / 2).sum())  # each coordinate at its better end
    assert sharpness(loss, [x], epsilon=epsilon).percent == pytest.approx(100 * highest / 1.5, rel=1e-6, abs=1e-12)


def test_at_an_exact_minimum_the_ascent_starts_at_random_and_says_so():
    curvature = torch.tensor([1.0, 4.0, 9.0], dtype=torch.float64)
    x, loss = quadratic(curvature, torch.zeros(3).double(), torch.tensor([0.0, -1.0, 2.0]).double())
    result = sharpness(loss, [x], epsilon=0.01)
    box = 0.01 * (torch.tensor([0.0, 1.0, 2.0]).double() + 1)
    assert result.random_start
    assert result.gradient_norm == 0.0
    assert result.percent == pytest.approx(float(100 * (curvature * box**2 / 2).sum() / 1.5), rel=1e-9)


def dense_convex_quadratic(seed):
    """What is found, the best of all corners, and the corner that the first full step reaches, all in closed form."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    hessian, slope = root @ root.T, torch.randn(8, generator=generator, dtype=torch.float64)
    x = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    corners = torch.tensor(list(itertools.product([-0.1, 0.1], repeat=8)), dtype=torch.float64)
    best = float((corners @ slope + ((corners @ hessian) * corners).sum(1) / 2).max())
    first = 0.1 * slope.sign()
    result = sharpness(lambda: slope @ x + x @ hessian @ x / 2, [x], epsilon=0.1, max_evaluations=20)
    return result.percent / 100, best, float(slope @ first + first @ hessian @ first / 2)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_a_dense_convex_quadratic_lies_between_its_first_and_its_best_corner(seed):
    found, best, first = dense_convex_quadratic(seed)
    assert first * (1 - 1e-12) <= found <= best * (1 + 1e-12)


def test_dense_convex_quadratics_come_near_their_best_corner():
    """No ascent is promised the best of 256 corners: a local maximum may be far below it. Fixed seeds, so no chance."""
    shares = sorted(found / best for found, best, _ in map(dense_convex_quadratic, range(200)))
    assert shares[100] >= 0.9
    assert shares[4] >= 0.5


@pytest.mark.promise("sharp scipy")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("epsilon", [1e-3, 1e-2])
def test_it_finds_as_much_as_scipys_lbfgsb_in_fewer_evaluations(seed, epsilon):
    model, loss_fn = small_network(seed)
    params = list(model.parameters())
    start = torch.cat([p.detach().flatten() for p in params]).numpy()
    box = epsilon * (np.abs(start) + 1)
    base = float(loss_fn().detach())
    seen = []

    def negative(offset):
        nn.utils.vector_to_parameters(torch.from_numpy(start + offset), params)
        loss = loss_fn()
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)])
        seen.append(float(loss.detach()))
        return -float(loss.detach()), -gradient.numpy()

    minimize(
        negative,
        np.zeros_like(start),
        jac=True,
        method="L-BFGS-B",
        bounds=list(zip(-box, box, strict=True)),
        options={"maxiter": 10, "ftol": 0.0, "gtol": 0.0},
    )
    nn.utils.vector_to_parameters(torch.from_numpy(start), params)
    scipys = 100 * (max(seen) - base) / (1 + base)
    result = sharpness(loss_fn, params, epsilon=epsilon)
    assert result.percent >= 0.98 * scipys
    assert result.evaluations <= 7


@pytest.mark.promise("sharp sign")
def test_one_box_contains_the_smaller_one():
    model, loss_fn = small_network()
    values = [sharpness(loss_fn, model.parameters(), epsilon=e).percent for e in (1e-4, 5e-4, 1e-3, 1e-2)]
    assert values == sorted(values)
    assert values[0] > 0


@pytest.mark.promise("sharp sign")
def test_a_constant_loss_is_flat():
    x = torch.ones(3, requires_grad=True)
    assert sharpness(lambda: (0 * x).sum() + 2.0, [x]).percent == 0.0


@pytest.mark.promise("sharp sign")
def test_a_loss_that_only_falls_gives_zero_and_never_less():
    x = torch.zeros(2, requires_grad=True)  # a maximum: every step of the box is lower
    assert sharpness(lambda: 1 - (x**2).sum(), [x], epsilon=0.1).percent == 0.0


def test_parts_of_the_loss_add_up_to_the_loss():
    model, _ = small_network()
    x, y = torch.randn(10, 6, dtype=torch.float64), torch.randint(3, (10,))

    def parts():
        for rows in torch.arange(10).split([4, 4, 2]):
            yield cross_entropy(model(x[rows]), y[rows]) * len(rows) / 10

    whole = sharpness(lambda: cross_entropy(model(x), y), model.parameters())
    in_parts = sharpness(parts, model.parameters())
    assert in_parts.percent == pytest.approx(whole.percent, rel=1e-10)
    assert in_parts.gradient_norm == pytest.approx(whole.gradient_norm, rel=1e-10)


def test_float32_agrees_with_float64():
    model, _ = small_network()
    x, y = torch.randn(50, 6, dtype=torch.float64), torch.randint(3, (50,))
    double = sharpness(lambda: cross_entropy(model(x), y), model.parameters()).percent
    model, x = model.float(), x.float()
    assert sharpness(lambda: cross_entropy(model(x), y), model.parameters()).percent == pytest.approx(double, rel=1e-3)


WAYS = [
    {},
    {"max_evaluations": 2},
    {"norm": "l2"},
    {"relative": True},
    {"norm": "l2", "relative": True},
    {"restarts": 2},
    {"method": "lbfgsb"},
    {"subspace": RandomSubspace(2)},
    {"subspace": RandomSubspace(2), "method": "lbfgsb"},
]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("terms", WAYS, ids=str)
def test_a_box_that_is_finite_nowhere_but_at_its_centre_is_infinitely_sharp_or_unknown(terms, bad):
    x = torch.ones(4, dtype=torch.float64, requires_grad=True)
    found = sharpness(lambda: x.sum() + (0 if (x == 1).all() else bad), [x], epsilon=0.1, **terms)
    assert str(found.percent) == str(found.highest_loss) == str(bad)
    assert found.non_finite > 0
    assert x.tolist() == [1.0] * 4


@pytest.mark.parametrize("terms", WAYS, ids=str)
def test_a_cliff_within_the_box_is_never_a_number_in_silence(terms):
    """The logarithm rises to infinity at 1.05 and is NaN beyond; the gradient points there."""
    x = torch.ones(4, dtype=torch.float64, requires_grad=True)
    found = sharpness(lambda: 4 - torch.log(1.05 - x).sum(), [x], epsilon=0.4, **terms)
    assert math.isfinite(found.percent) == (found.non_finite == 0)
    if "subspace" not in terms:
        assert found.non_finite > 0


def test_a_gradient_that_is_not_finite_at_the_weights_is_refused_and_not_flat():
    x = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    with pytest.raises(UndefinedSharpnessError, match="the gradient of the loss at params must be finite"):
        sharpness(lambda: (1 + x * 0).sum() + (x * 0).abs().sqrt().sum(), [x])


@pytest.mark.promise("exception")
@pytest.mark.parametrize("failing", range(1, 8))
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_come_back_bit_for_bit_whichever_evaluation_fails(failing, error):
    model, loss_fn = small_network()
    params = list(model.parameters())
    params[0].grad = torch.ones_like(params[0])
    before = [(p.data_ptr(), p.detach().clone(), p.grad) for p in params]
    calls = []

    def failing_loss():
        calls.append(1)
        if len(calls) == failing:
            raise error
        return loss_fn()

    try:
        sharpness(failing_loss, params, epsilon=1e-2)
    except error:
        assert len(calls) == failing
    for p, (pointer, value, grad) in zip(params, before, strict=True):
        assert p.data_ptr() == pointer
        assert torch.equal(p, value)
        assert p.grad is grad


def test_global_random_numbers_are_not_drawn():
    x = torch.zeros(3, requires_grad=True)
    state = torch.get_rng_state()
    sharpness(lambda: (x**2).sum(), [x])  # needs the random start
    assert torch.equal(torch.get_rng_state(), state)


def test_unused_weights_stay_where_they_are():
    used, unused = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    assert sharpness(lambda: used.sum(), [used, unused], epsilon=0.1).percent == pytest.approx(100 * 0.2 / 2)


@pytest.mark.parametrize("epsilon", [0, -1e-3, math.nan, math.inf])
@pytest.mark.bad_input(45)
def test_an_epsilon_that_is_not_positive_is_refused(epsilon):
    x = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="epsilon must be a positive number"):
        sharpness(lambda: x.sum(), [x], epsilon=epsilon)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([], "params is empty"),
        ([torch.ones(1)], r"params\[0\] does not require grad"),
        ([torch.ones(1, dtype=torch.bfloat16, requires_grad=True)], r"params\[0\] is torch.bfloat16"),
    ],
)
@pytest.mark.bad_input(50)
def test_tensors_that_cannot_be_perturbed_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        sharpness(lambda: torch.ones(()), params)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda x: x * math.nan, "must be finite and above -1, got nan"),
        (lambda x: x - 2, "must be finite and above -1"),
        (lambda x: x.expand(3), "scalar"),
        (lambda x: x.detach(), "does not depend on params"),
    ],
)
@pytest.mark.bad_input(48, 49)
def test_losses_without_a_sharpness_are_refused(loss, message):
    x = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match=message):
        sharpness(lambda: loss(x), [x])


def test_too_few_evaluations_are_refused():
    x = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="max_evaluations must be a whole number, at least 2, got 1"):
        sharpness(lambda: x.sum(), [x], max_evaluations=1)


def trust_region(curvature, slope, radius):
    """Highest value of ``slope.d + d.diag(curvature).d / 2`` in a ball, by bisection on its secular equation."""
    low = max(float(curvature.max()), 0.0) + 1e-15
    high = low + float(slope.norm()) / radius + 1.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((slope / (middle - curvature)).norm()) > radius else (low, middle)
    d = slope / (high - curvature)
    return float(slope @ d + (curvature * d**2).sum() / 2)


positive_terms = st.lists(
    st.tuples(st.floats(0, 100), st.floats(0.1, 10) | st.floats(-10, -0.1), st.floats(0.1, 5) | st.floats(-5, -0.1)),
    min_size=1,
    max_size=8,
)


@pytest.mark.promise("sharp quadratic")
@settings(max_examples=30, deadline=None)
@given(positive_terms, st.sampled_from([1e-3, 0.1]))
def test_the_relative_box_of_a_separable_convex_quadratic_gives_its_known_maximum(terms, epsilon):
    curvature, slope, start = torch.tensor(terms, dtype=torch.float64).T
    x, loss = quadratic(curvature, slope, start)
    box = epsilon * start.abs()
    highest = float((slope.abs() * box + curvature * box**2 / 2).sum())
    found = sharpness(loss, [x], epsilon=epsilon, relative=True)
    assert found.percent == pytest.approx(100 * highest / 1.5, rel=1e-6, abs=1e-12)


@pytest.mark.promise("sharp quadratic")
@settings(max_examples=30, deadline=None)
@given(positive_terms, st.sampled_from([1e-3, 0.05, 0.5]), st.booleans())
def test_the_ball_around_a_quadratic_gives_the_solution_of_its_trust_region(terms, epsilon, relative):
    curvature, slope, start = torch.tensor(terms, dtype=torch.float64).T
    x, loss = quadratic(curvature, slope, start)
    scale = start.abs() if relative else torch.ones_like(start)
    best = trust_region(scale**2 * curvature, scale * slope, epsilon)
    found = sharpness(loss, [x], epsilon=epsilon, norm="l2", relative=relative, max_evaluations=400)
    assert found.percent == pytest.approx(100 * best / 1.5, rel=1e-6)
    assert found.at_bound == 1.0
    if not relative:
        assert found.offset_norm == pytest.approx(epsilon, rel=1e-6)


def test_the_trust_region_solution_is_that_of_a_grid():
    """The oracle itself, against every direction of a circle."""
    curvature, slope = torch.tensor([3.0, 1.0], dtype=torch.float64), torch.tensor([0.2, -1.0], dtype=torch.float64)
    angle = torch.linspace(0, 2 * math.pi, 100_000, dtype=torch.float64)
    d = 0.5 * torch.stack([angle.cos(), angle.sin()], 1)
    assert trust_region(curvature, slope, 0.5) == pytest.approx(
        float((d @ slope + d**2 @ curvature / 2).max()), rel=1e-8
    )


@pytest.mark.promise("sharp quadratic")
@pytest.mark.parametrize("method", ["corner", "lbfgsb"])
@pytest.mark.parametrize("seed", range(3))
def test_in_a_subspace_a_convex_quadratic_has_its_best_corner(method, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(13, 13, generator=generator, dtype=torch.float64)
    slope = torch.randn(13, generator=generator, dtype=torch.float64)
    start = torch.randn(13, generator=generator, dtype=torch.float64)
    x = start.clone().requires_grad_()
    subspace = RandomSubspace(4, seed=seed, scale=0.7)
    basis = SubspaceBasis(subspace, [start])
    a = torch.stack([next(basis.expand(e)) for e in torch.eye(4, dtype=torch.float64)], 1)
    box = 0.1 * (torch.from_numpy(np.linalg.pinv(a.numpy())) @ start).abs() + 0.1
    steps = (torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64) * box) @ a.T
    best = float((steps @ slope + (steps @ root).square().sum(1) / 2).max())

    def loss():
        d = x - start
        return 3 + slope @ d + (d @ root).square().sum() / 2

    found = sharpness(loss, [x], epsilon=0.1, subspace=subspace, method=method, restarts=20)
    assert found.percent == pytest.approx(100 * best / 4, rel=1e-6)
    assert found.at_bound == 1.0


def rescaled_pairs(factor):
    """A network and the same function with other weights: first layer times the factor, second divided by it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight.mul_(factor)
        twin[0].bias.mul_(factor)
        twin[2].weight.div_(factor)
    return model, twin


def rescaled_batch_norm(factor):
    """The same with weights in front of BatchNorm, whose statistics go along."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7, eps=1e-30), nn.ReLU(), nn.Linear(7, 3)).double()
    model(3 * torch.randn(50, 5, dtype=torch.float64) + 1)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight.mul_(factor)
        twin[0].bias.mul_(factor)
        twin[1].running_mean.mul_(factor)
        twin[1].running_var.mul_(factor**2)
    return model, twin


@pytest.mark.parametrize("factor", [0.05, 20.0])
@pytest.mark.parametrize("norm", ["max", "l2"])
@pytest.mark.parametrize(
    ("pairs", "mode"), [(rescaled_pairs, "running"), (rescaled_batch_norm, "running"), (rescaled_batch_norm, "batch")]
)
def test_rescaling_without_changing_the_function_changes_the_box_but_not_the_relative_one(pairs, mode, norm, factor):
    """Dinh et al. 2017; Kwon et al. 2021."""
    x, y = torch.randn(40, 5, dtype=torch.float64), torch.randint(3, (40,))
    absolute, relative = [], []
    for model in pairs(factor):
        loss = DatasetLoss(model, lambda m, b: cross_entropy(m(b[0]), b[1]), [(x, y)], batch_norm=mode)
        absolute.append(sharpness(loss, model.parameters(), epsilon=0.01, norm=norm))
        relative.append(sharpness(loss, model.parameters(), epsilon=0.01, norm=norm, relative=True))
    assert absolute[0].loss == pytest.approx(absolute[1].loss, rel=1e-12)
    change = absolute[0].percent / absolute[1].percent
    assert max(change, 1 / change) > (1.1 if factor > 1 else 4)  # large weights leave what the other layers do
    assert relative[0].percent == pytest.approx(relative[1].percent, rel=1e-9)


def snapshot(model):
    return (
        [(p.data_ptr(), p.detach().numpy().tobytes(), p.grad) for p in model.parameters()],
        [(b.data_ptr(), b.numpy().tobytes()) for b in model.buffers()],
        [part.training for part in model.modules()],
        torch.get_rng_state().tolist(),
    )


WAYS = {
    "corner": {},
    "corner with restarts": {"restarts": 1},
    "lbfgsb": {"method": "lbfgsb", "max_iterations": 3},
    "subspace": {"subspace": RandomSubspace(3), "max_evaluations": 4},
    "ball": {"norm": "l2", "max_evaluations": 4},
    "halves": {"halves": True, "max_evaluations": 5},
    "report_on": {"report_on": True, "max_evaluations": 4},
}


@pytest.mark.promise("exception")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_behind_whichever_evaluation_of_whichever_loss_fails(way, error):
    model, loss_fn = small_network()
    model.train()
    model[1].eval()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    before = snapshot(model)
    calls, failing, opened = [], 0, []

    def failing_loss():
        opened.append(1)
        try:
            calls.append(1)
            if len(calls) == failing:
                raise error
            yield loss_fn() / 2
            yield loss_fn() / 2
        finally:
            opened.pop()

    terms = {k: failing_loss if v is True and k == "report_on" else v for k, v in WAYS[way].items()}
    if terms.pop("halves", False):
        failing_loss.halves = lambda: (failing_loss, failing_loss)
    while True:
        failing += 1
        calls.clear()
        try:
            sharpness(failing_loss, model.parameters(), epsilon=1e-2, **terms)
        except error:
            assert len(calls) == failing
        assert not opened
        assert snapshot(model) == before
        if len(calls) < failing:
            break
    assert failing > 3


@pytest.mark.bad_input(47, 52)
def test_a_network_with_dropout_switched_on_is_refused():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    x = torch.randn(20, 4)
    with pytest.raises(ValueError, match=r"the loss is random.*turn dropout off"):
        sharpness(lambda: model(x).square().mean(), model.parameters())
    assert sharpness(lambda: model.eval()(x).square().mean(), model.parameters()).percent > 0


def test_a_loss_that_uses_none_of_the_weights_is_refused():
    """Copies of the weights, for instance: 0 would be taken for flat."""
    model, loss_fn = small_network()
    copies = [p.detach().clone().requires_grad_() for p in model.parameters()]
    with pytest.raises(ValueError, match="does not depend on params"):
        sharpness(loss_fn, copies)


def test_the_loss_sees_the_moved_weights_under_autocast_inside_another_one():
    """Autocast keeps casts of the weights until its outermost block ends."""
    torch.manual_seed(0)
    layer, x = nn.Linear(16, 8, bias=False), torch.randn(5, 16)
    seen = []

    def loss_fn():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = layer(x)
        expected = x.bfloat16() @ layer.weight.detach().bfloat16().T
        seen.append(torch.equal(output, expected))
        return output.float().square().mean()

    with torch.autocast("cpu", enabled=False):
        first = float(loss_fn().detach())
        found = sharpness(loss_fn, layer.parameters(), epsilon=0.1)
        assert float(loss_fn().detach()) == first
    assert all(seen)
    assert found.percent > 1


def peak_of(run):
    """Most bytes of CPU memory held at once during ``run``, beyond those before, by what the allocator reports."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    assert any(change < 0 for change in changes)
    return max(itertools.accumulate(changes))


@pytest.mark.parametrize("tensors", [1, 10])
@pytest.mark.parametrize(
    ("terms", "vectors"),
    [({}, 5), ({"subspace": RandomSubspace(100)}, 5), ({"norm": "l2"}, 9)],
    ids=["box", "subspace", "ball"],
)
def test_few_vectors_are_held_beyond_a_gradient(tensors, terms, vectors):
    n = 1_000_000
    weights = [w.clone().requires_grad_() for w in torch.linspace(-1, 1, n).chunk(tensors)]
    slopes = torch.linspace(1, -2, n).chunk(tensors)

    def loss_fn():
        return sum(w @ s for w, s in zip(weights, slopes, strict=True)) / n + 10

    alone = peak_of(lambda: torch.autograd.grad(loss_fn(), weights))
    assert 4 * n <= alone < 4.5 * n
    peak = peak_of(lambda: sharpness(loss_fn, weights, max_evaluations=4, **terms))
    assert peak > 8 * n  # the copy of the weights and a gradient, at the least: the measurement sees something
    assert peak - alone <= vectors * 4 * n


@pytest.fixture(scope="module")
def on_processes(tmp_path_factory):
    """What each of two and of four processes found, by their number."""
    folder = tmp_path_factory.mktemp("sharpness")
    for world in script.WORLDS:
        processes.run(script.__file__, folder, ranks=world)
    return {world: [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)] for world in script.WORLDS}


@pytest.fixture(scope="module")
def on_one_process():
    return script.measure()


@pytest.mark.promise("measured processes")
@pytest.mark.parametrize("world", script.WORLDS)
def test_processes_that_share_the_loss_find_what_one_finds(on_processes, on_one_process, world):
    for rank in on_processes[world]:
        assert set(rank["found"]) == set(on_one_process)
        for name, value in rank["found"].items():
            torch.testing.assert_close(value, on_one_process[name], rtol=1e-8, atol=1e-12, msg=f"{name}: {value}")


@pytest.mark.parametrize("world", script.WORLDS)
def test_weights_buffers_and_modes_are_the_same_again_on_every_process(on_processes, world):
    assert all(rank["untouched"] for rank in on_processes[world])


@pytest.mark.parametrize("world", script.WORLDS)
@pytest.mark.parametrize("where", ["loss", "interrupt", "half", "report_on", "recomputed"])
def test_what_fails_on_one_process_ends_on_all(on_processes, world, where):
    for rank, found in enumerate(on_processes[world]):
        own = "KeyboardInterrupt: " if where == "interrupt" else "OSError: no more data"
        other = "FailedElsewhereError: measuring failed on another process; see its error"
        assert found["failures"][where] == (own if rank == 1 else other)
