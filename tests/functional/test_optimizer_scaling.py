"""Each rule against what it keeps: variance, decay and half-life per sample, in float64."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_gap.functional import scaled_ema_decay, scaled_hyperparameters

SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 1e-4, "nesterov": False}
ADAM = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2, "decoupled_weight_decay": False}
ADAMW = {**ADAM, "decoupled_weight_decay": True}
RMSPROP = {"lr": 1e-3, "alpha": 0.99, "eps": 1e-8, "weight_decay": 0, "momentum": 0, "centered": False}
CASES = {
    "linear, SGD": (SGD, "linear"),
    "sqrt, SGD": (SGD, "sqrt"),
    "adaptive, Adam": (ADAM, "adaptive_sqrt"),
    "adaptive and timescale, AdamW": (ADAMW, ("adaptive_sqrt", "timescale")),
    "adaptive, RMSprop": (RMSPROP, "adaptive_sqrt"),
    "surge, Adam": (ADAM, "surge"),
    "half-life, AdamW": (ADAMW, "half_life"),
    "half-life, RMSprop": (RMSPROP, "half_life"),
    "timescale, AdamW": (ADAMW, "timescale"),
    "three, AdamW": (ADAMW, ("timescale", "sqrt", "half_life")),
    "surge and timescale, AdamW": (ADAMW, ("surge", "timescale")),
}
SIZES = st.integers(100, 300)  # of which no two are ten times another


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def scaled(hyperparameters, size, base, rule):
    """The whole group with what the rule changes."""
    noise = {"noise_scale": 150.0} if "surge" in rule else {}
    return {**hyperparameters, **scaled_hyperparameters(hyperparameters, size, base, rule=rule, **noise)}


def flat(hyperparameters):
    return [x for value in hyperparameters.values() for x in (value if isinstance(value, tuple) else (value,))]


@pytest.mark.parametrize("kind", [torch.optim.Adagrad, torch.optim.Adadelta])
def test_adaptive_optimizers_without_betas_are_not_taken_for_sgd(kind):
    (group,) = kind([torch.ones(1, requires_grad=True)], lr=0.1, weight_decay=0.1).param_groups
    assert scaled_hyperparameters(group, 32, 8, rule="sqrt") == {"lr": pytest.approx(0.2)}
    with pytest.raises(ValueError, match=r"rule='timescale' .* coupled"):
        scaled_hyperparameters(group, 32, 8, rule="timescale")


@pytest.mark.promise("rules")
def test_the_base_batch_changes_no_bit(case):
    hyperparameters, rule = case
    assert scaled(hyperparameters, 256, 256, rule) == hyperparameters


@pytest.mark.promise("rules")
@given(sizes=st.tuples(SIZES, SIZES, SIZES))
@pytest.mark.parametrize("name", CASES)
def test_one_change_after_another_is_the_change_of_both(name, sizes):
    hyperparameters, rule = CASES[name]
    first, second, third = sizes
    in_turn = scaled(scaled(hyperparameters, second, first, rule), third, second, rule)
    assert flat(in_turn) == pytest.approx(flat(scaled(hyperparameters, third, first, rule)), rel=1e-12)


def test_only_what_the_rule_names_is_changed():
    changed = {
        name: scaled_hyperparameters(*case[:1], 512, 256, rule=case[1], **noise(case)) for name, case in CASES.items()
    }
    assert {name: set(values) for name, values in changed.items()} == {
        "linear, SGD": {"lr", "weight_decay"},
        "sqrt, SGD": {"lr", "weight_decay"},
        "adaptive, Adam": {"lr", "betas", "eps"},
        "adaptive and timescale, AdamW": {"lr", "betas", "eps", "weight_decay"},
        "adaptive, RMSprop": {"lr", "alpha", "eps"},
        "surge, Adam": {"lr"},
        "half-life, AdamW": {"betas"},
        "half-life, RMSprop": {"alpha"},
        "timescale, AdamW": {"weight_decay"},
        "three, AdamW": {"lr", "betas", "weight_decay"},
        "surge and timescale, AdamW": {"lr", "weight_decay"},
    }
    assert changed["half-life, AdamW"]["betas"][0] == 0.9
    assert changed["linear, SGD"]["weight_decay"] == 1e-4
    assert set(scaled_hyperparameters(ADAM, 512, 256, rule="sqrt")) == {"lr"}  # coupled decay follows the gradient
    assert set(scaled_hyperparameters(ADAMW, 512, 256, rule="linear")) == {"lr"}  # and AdamW's is "timescale"'s


def noise(case):
    return {"noise_scale": 150.0} if "surge" in case[1] else {}


def displacement(optimizer_class, hyperparameters, steps, gradient):
    """Where torch's own optimizer has moved weights that began at 0."""
    weights = torch.zeros(5_000, dtype=torch.float64)
    optimizer = optimizer_class([weights], **hyperparameters)
    for _ in range(steps):
        weights.grad = gradient(weights)
        optimizer.step()
    return weights


@pytest.mark.promise("rules")
@pytest.mark.parametrize(("kind", "averages"), [("Adam", {"betas": (0.99, 0.999)}), ("RMSprop", {"alpha": 0.999})])
def test_noise_moves_adaptive_optimizers_as_far_per_sample(kind, averages):
    """Gradients of noise alone, of variance 1 / batch size, 2000 samples long, epsilon as large as the noise.

    With 5000 weights the ratio of two variances has a standard deviation of 3 %; the rule is exact as the steps
    become small, and its error here is of the order of 1 - beta1, 4 %.
    """
    generator = torch.Generator().manual_seed(0)
    base = {"lr": 1e-3, "eps": 1.0, **averages}

    def variance(batch, hyperparameters):
        def gradient(weights):
            return torch.randn(weights.shape, generator=generator, dtype=torch.float64) / math.sqrt(batch)

        return float(displacement(getattr(torch.optim, kind), hyperparameters, 2000 // batch, gradient).var())

    one = variance(1, base)
    with_rule = {**base, **scaled_hyperparameters(base, 4, 1, rule="adaptive_sqrt")}
    assert variance(4, with_rule) / one == pytest.approx(1, abs=0.1)
    assert abs(variance(4, {**with_rule, "eps": 1.0}) / one - 1) > 0.3
    assert abs(variance(4, {**with_rule, "lr": 4e-3}) / one - 1) > 2


def test_a_gradient_without_noise_moves_adam_by_the_learning_rate_at_each_step_whatever_the_batch():
    """So the adaptive rule moves less per sample there: it holds where noise dominates."""

    def moved(batch):
        hyperparameters = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-12}
        hyperparameters |= scaled_hyperparameters(hyperparameters, batch, 1, rule="adaptive_sqrt")
        return -float(displacement(torch.optim.Adam, hyperparameters, 16 // batch, torch.ones_like)[0])

    assert moved(1) == pytest.approx(16e-3, rel=1e-9)
    assert moved(4) == pytest.approx(16e-3 * math.sqrt(4) / 4, rel=1e-9)


def test_gradients_at_one_point_move_sgd_as_far_in_one_step_as_in_k():
    base = {"lr": 0.1, "weight_decay": 0.0}
    one = {**base, **scaled_hyperparameters(base, 8, 1, rule="linear")}
    ends = [
        displacement(torch.optim.SGD, hyperparameters, steps, torch.ones_like)
        for hyperparameters, steps in ((base, 8), (one, 1))
    ]
    torch.testing.assert_close(*ends, rtol=1e-14, atol=0)


@pytest.mark.promise("rules")
@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        *[("SGD", rule) for rule in ("linear", "sqrt", "timescale")],
        *[("AdamW", rule) for rule in ("timescale", ("linear", "timescale"), ("sqrt", "timescale"))],
        *[("AdamW", rule) for rule in (("surge", "timescale"), ("adaptive_sqrt", "timescale"))],
    ],
)
def test_weights_decay_as_much_in_an_epoch_to_first_order(kind, rule):
    """(1 - eta lambda) ** steps; what is left out is of the order of eta lambda k of it."""
    base = {"lr": 0.1, "weight_decay": 1e-3} | ({"betas": (0.9, 0.999), "eps": 1e-8} if kind == "AdamW" else {})

    def left(batch, hyperparameters):
        weights = torch.ones(1, dtype=torch.float64)
        optimizer = getattr(torch.optim, kind)([weights], **hyperparameters)
        for _ in range(800 // batch):
            weights.grad = torch.zeros_like(weights)
            optimizer.step()
        return math.log(float(weights))

    options = {"noise_scale": 4.0} if "surge" in rule else {}
    eight = {**base, **scaled_hyperparameters(base, 8, 1, rule=rule, **options)}
    assert left(8, eight) == pytest.approx(left(1, base), rel=8 * 1e-4)
    assert eight["lr"] * eight["weight_decay"] == pytest.approx(8 * 1e-4, rel=1e-12)


@pytest.mark.promise("rules")
def test_the_half_life_in_samples_stays():
    at_one = scaled_hyperparameters({**ADAMW, "betas": (0.9, 0.95)}, 1, 512, rule="half_life")["betas"]
    assert (at_one[0], round(at_one[1], 4)) == (0.9, 0.9999)  # Marek et al.: 0.95 at 512 is 0.9999 at 1
    half_lives = [size * math.log(0.5) / math.log(beta) for size, beta in ((512, 0.95), (1, at_one[1]))]
    assert half_lives[0] == pytest.approx(half_lives[1], rel=1e-9)


@given(SIZES, SIZES)
def test_an_average_of_the_weights_forgets_as_much_per_sample(size, base):
    decay = scaled_ema_decay(0.999, size, base)
    assert math.log(decay) / size == pytest.approx(math.log(0.999) / base, rel=1e-9)
    assert scaled_ema_decay(0.999, base, base) == 0.999
    assert scaled_ema_decay(0.0, size, base) == 0.0


def test_surge_grows_as_the_root_peaks_at_the_noise_scale_and_falls():
    def rate(size, base=64, scale=1000.0):
        return scaled_hyperparameters(ADAM, size, base, rule="surge", noise_scale=scale)["lr"] / 1e-3

    assert max(range(500, 2000), key=rate) == 1000
    assert rate(1000) == pytest.approx(0.5 * (math.sqrt(1000 / 64) + math.sqrt(64 / 1000)), rel=1e-12)  # eta_max / eta
    assert rate(256, scale=1e9) == pytest.approx(2.0, rel=1e-6)  # the root
    assert rate(256, scale=1e-3) == pytest.approx(0.5, rel=1e-4)
    assert rate(4000, base=250) == pytest.approx(1.0, rel=1e-12)  # as far above the noise scale as below


def test_beta1_of_one_half_less_and_more_is_refused_where_it_would_reach_zero():
    assert scaled_hyperparameters(ADAM, 2559, 256, rule="adaptive_sqrt")["betas"][0] > 0
    for size in (2560, 2561, 256_000):
        with pytest.raises(ValueError, match=rf"beta1 for batch_size={size}: 0.9 at .*=256 .* at most 2559, a beta1"):
            scaled_hyperparameters(ADAM, size, 256, rule="adaptive_sqrt")
    with pytest.raises(ValueError, match=r"no alpha for batch_size=100: 0.99 .* at most 99, an? alpha"):
        scaled_hyperparameters(RMSPROP, 100, 1, rule="adaptive_sqrt")
    without = {**ADAM, "betas": (0.0, 0.999)}  # no average of gradients, at any batch size
    assert scaled_hyperparameters(without, 512, 2, rule="adaptive_sqrt")["betas"][0] == 0.0


def test_tensors_give_new_tensors():
    betas = torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.999, dtype=torch.float64)
    group = {**ADAM, "lr": torch.tensor(1e-3, dtype=torch.float64), "betas": betas}
    found = scaled_hyperparameters(group, 1024, 256, rule="adaptive_sqrt")
    assert [float(value) for value in (found["lr"], *found["betas"])] == pytest.approx([2e-3, 0.6, 0.996], rel=1e-12)
    assert [float(value) for value in (group["lr"], *betas)] == [1e-3, 0.9, 0.999]


@pytest.mark.parametrize(
    ("hyperparameters", "rule", "message"),
    [
        (SGD, "lineer", "rule must be one of 'linear', .* got 'lineer'; did you mean 'linear'"),
        (SGD, (), r"rule must name at least one rule, got \(\)"),
        (SGD, ("linear", "cubic"), r"several of them, got \('linear', 'cubic'\)"),
        (ADAM, ("sqrt", "adaptive_sqrt"), "'sqrt' and 'adaptive_sqrt' both set lr; keep one"),
        (ADAM, ("adaptive_sqrt", "half_life"), "'adaptive_sqrt' and 'half_life' both set betas; keep one"),
        (SGD, "adaptive_sqrt", "rule='adaptive_sqrt' needs betas or alpha"),
        (SGD, "half_life", "rule='half_life' needs betas or alpha"),
        ({"betas": (0.9, 0.99), "lr": 1.0}, "adaptive_sqrt", "rule='adaptive_sqrt' needs eps"),
        ({"betas": (0.9, 0.99)}, "sqrt", "rule='sqrt' needs lr"),
        ({"lr": 1.0, "momentum": 0.9}, "timescale", "rule='timescale' needs weight_decay"),
        (ADAM, "timescale", "weight_decay=0.01 is coupled here.* use AdamW"),
        ({**RMSPROP, "weight_decay": 0.1}, "timescale", "weight_decay=0.1 is coupled here"),
        ({**ADAM, "betas": (1.0, 0.999)}, "adaptive_sqrt", "betas must be a number, at least 0 and below 1, got 1.0"),
        ({**ADAM, "betas": (0.9, -0.1)}, "half_life", "betas must be a number, at least 0 and below 1, got -0.1"),
        ({**ADAM, "betas": (0.9, 0.9, 0.9)}, "half_life", "are not two"),
    ],
)
def test_what_a_rule_cannot_do_is_refused(hyperparameters, rule, message):
    with pytest.raises(ValueError, match=message):
        scaled_hyperparameters(hyperparameters, 512, 256, rule=rule)


def test_a_noise_scale_is_for_surge_alone():
    with pytest.raises(ValueError, match="noise_scale must be a positive number, got None; fit the batch size"):
        scaled_hyperparameters(ADAM, 512, 256, rule="surge")
    with pytest.raises(ValueError, match=r"noise_scale=9\.0 is used by rule='surge' alone"):
        scaled_hyperparameters(ADAM, 512, 256, rule="sqrt", noise_scale=9.0)


@pytest.mark.parametrize("decay", [1, 1.5, -0.1, math.nan])
def test_a_decay_of_one_and_others_out_of_range_are_refused(decay):
    with pytest.raises(ValueError, match="decay must be a number, at least 0 and below 1"):
        scaled_ema_decay(decay, 512, 256)
