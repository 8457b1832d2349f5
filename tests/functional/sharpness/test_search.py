import dataclasses
import math

import pytest
import torch
from functional.known_losses import Called, indefinite, vector

from lightning_gap.functional import (
    RandomSubspace,
    sharpness,
    sharpness_profile,
)
from lightning_gap.functional.sharpness._search import Search


@pytest.mark.parametrize("method", ["corner", "lbfgsb", "best", "apgd"])
@pytest.mark.parametrize("restarts", [0, 2])
@pytest.mark.parametrize("subspace", [None, RandomSubspace(4)])
def test_counted_evaluations_are_real_ones(method, restarts, subspace):
    weight, function = indefinite()
    called = Called(function, weight)
    found = sharpness(called, [weight], epsilon=0.3, method=method, restarts=restarts, subspace=subspace)
    assert found.evaluations == len(called.values) - 1  # one call checks that the loss is not random
    assert found.highest_loss == max(called.values)
    assert found.gradients <= found.evaluations


def test_the_reported_loss_is_that_at_the_highest_point_of_the_other():
    weight, function = indefinite()
    called, report = Called(function, weight), Called(lambda w: 3 * function(w) + w.sum(), weight)
    found = sharpness(called, [weight], epsilon=0.3, report_on=report)
    highest = called.places[called.values.index(max(called.values))]
    assert torch.equal(report.places[0], weight)
    assert torch.equal(report.places[1], highest)
    assert (found.loss, found.highest_loss) == tuple(report.values)
    assert found.percent == pytest.approx(100 * (report.values[1] - report.values[0]) / (1 + report.values[0]))
    alone = sharpness(Called(function, weight), [weight], epsilon=0.3)
    assert (alone.evaluations, alone.gradient_norm) == (found.evaluations, found.gradient_norm)


def test_a_reported_loss_that_falls_gives_zero():
    x = vector(0.0)
    found = sharpness(lambda: x.sum(), [x], epsilon=0.1, report_on=lambda: 1 - x.sum())
    assert found.percent == 0.0
    assert found.loss == found.highest_loss == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("reported", [True, False])
def test_a_reported_loss_that_is_not_finite_at_the_point_is_no_percentage(bad, reported):
    x = vector(0.0)
    losses = [lambda: x.sum(), lambda: torch.where(x > 0.05, bad, x + 1).sum()]
    ascent, report = losses if reported else losses[::-1]
    found = sharpness(ascent, [x], epsilon=0.1, report_on=report, max_evaluations=2)
    assert str(found.percent) == (str(bad) if reported else "nan")  # what is reported may be finite there
    assert found.non_finite == 1


@pytest.mark.parametrize(
    "terms",
    [
        {"restarts": 2},
        {"method": "lbfgsb"},
        {"norm": "l2"},
        {"subspace": RandomSubspace(4)},
        {"relative": True},
        {"method": "best"},
    ],
)
def test_several_epsilon_give_what_single_calls_give_and_share_the_start(terms):
    weight, function = indefinite()
    epsilons = (0.3, 0.1, 0.5)
    called = Called(function, weight)
    together = sharpness_profile(called, [weight], epsilons, **terms)
    single = [sharpness(lambda: function(weight), [weight], epsilon=e, **terms) for e in epsilons]
    timeless = [[dataclasses.replace(s, seconds=0.0) for s in found] for found in (together, single)]
    assert timeless[0] == timeless[1]
    assert len(called.values) == 2 + sum(found.evaluations - 1 for found in together)


def test_several_epsilon_with_a_generator_do_not_depend_on_each_other():
    weight, function = indefinite()
    terms = {"restarts": 4, "max_evaluations": 3}
    loss = lambda: function(weight)  # noqa: E731
    for seed in range(6):
        seeded = lambda seed=seed: torch.Generator().manual_seed(seed)  # noqa: E731
        together = sharpness_profile(loss, [weight], (0.1, 0.3), generator=seeded(), **terms)
        alone = sharpness(loss, [weight], epsilon=0.3, generator=seeded(), **terms)
        assert together[1].percent == alone.percent


@pytest.mark.parametrize(
    "terms", [{}, {"norm": "l2"}, {"subspace": RandomSubspace(4)}, {"method": "lbfgsb"}, {"method": "best"}]
)
def test_restarts_never_lower_the_value(terms):
    weight, function = indefinite(seed=3)
    loss = lambda: function(weight)  # noqa: E731
    found = [sharpness(loss, [weight], epsilon=0.3, restarts=n, **terms).percent for n in range(5)]
    assert found == sorted(found)


def test_the_generator_decides_the_random_starts():
    weight, function = indefinite()
    run = lambda seed: sharpness(  # noqa: E731
        lambda: function(weight), [weight], epsilon=0.3, restarts=1, max_evaluations=2,
        generator=None if seed is None else torch.Generator().manual_seed(seed),
    )  # fmt: skip
    by_seed = [[dataclasses.replace(run(seed), seconds=0.0) for _ in range(2)] for seed in (0, 1, 2, 3)]
    assert all(first == second for first, second in by_seed)
    assert dataclasses.replace(run(None), seconds=0.0) == by_seed[0][0]
    state = torch.get_rng_state()
    run(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"method": "adam"}, "method must be one of 'corner', 'lbfgsb', 'best', 'apgd', got 'adam'"),
        ({"norm": "l1"}, "norm must be one of 'max', 'l2', got 'l1'"),
        ({"max_evaluations": 1}, "max_evaluations must be a whole number, at least 2, got 1"),
        ({"max_evaluations": 7.0}, "max_evaluations must be a whole number, at least 2, got 7.0"),
        ({"max_evaluations": True}, "max_evaluations must be a whole number"),
        ({"max_iterations": 0}, "max_iterations must be a whole number, at least 1, got 0"),
        ({"restarts": -1}, "restarts must be a whole number, at least 0, got -1"),
        ({"subspace": 100}, r"subspace must be a RandomSubspace, got 100; for instance RandomSubspace\(100\)"),
        (
            {"norm": "l2", "subspace": RandomSubspace(2)},
            "norm='l2' goes with method='corner' or 'apgd' in the full space",
        ),
        ({"norm": "l2", "method": "lbfgsb"}, "norm='l2' goes with method='corner' or 'apgd' in the full space"),
        ({"norm": "l2", "method": "best"}, "norm='l2' goes with method='corner' or 'apgd' in the full space"),
        ({"relative": True, "subspace": RandomSubspace(2)}, "relative=True goes with the full space"),
    ],
)
def test_terms_that_are_out_of_range_or_do_not_go_together_are_refused_before_the_loss_is_asked(terms, message):
    with pytest.raises(ValueError, match=message):
        Search(**terms)

    def never():
        raise AssertionError("asked")

    with pytest.raises(ValueError, match=message):
        sharpness(never, [vector(*range(9))], **terms)


@pytest.mark.parametrize("epsilons", [(), (0.1, 0.1), (0.1, 0.0), (0.1, math.nan), ("0.1",), (True,), (None,)])
@pytest.mark.bad_input(45)
def test_epsilons_that_make_no_profile_are_refused(epsilons):
    x = vector(1.0)
    with pytest.raises(ValueError, match="epsilons must be a positive number, or several different ones"):
        sharpness_profile(lambda: x.sum(), [x], epsilons)
