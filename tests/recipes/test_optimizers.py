import sys

import pytest
import tiny
import torch
from torch import nn

from lightning_gap import LearningRateScaling
from lightning_gap.recipes.networks import C1
from lightning_gap.recipes.optimizers import OPTIMIZERS, make_optimizer

RATE, MOMENTUM, DECAY = 0.3, 0.8, 0.05
WITH_MOMENTUM = ("sgd", "nesterov", "lars")
NEEDS_THE_LIBRARY = ("lars", "lamb")


def made(name, network, **changes):
    """With terms that every optimizer takes."""
    terms = {
        "learning_rate": 0.01,
        "momentum": MOMENTUM if name in WITH_MOMENTUM else None,
        "weight_decay": 0.0,
    }
    return make_optimizer(name, network, **(terms | changes))


# One parameter's update by each formula as it is printed; `s` is what it remembers, `t` counts from 1.


def adam(w, g, s, t, decay):
    g = g + decay * w
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * g**2
    return w - RATE * (s["m"] / (1 - 0.9**t)) / ((s["v"] / (1 - 0.999**t)) ** 0.5 + 1e-8)


def adamw(w, g, s, t, decay):
    return adam(w, g, s, t, 0.0) - RATE * decay * w


def sgd(w, g, s, t, decay):
    s["u"] = MOMENTUM * s.get("u", 0) + g + decay * w
    return w - RATE * s["u"]


def nesterov(w, g, s, t, decay):
    g = g + decay * w
    s["u"] = MOMENTUM * s.get("u", 0) + g
    return w - RATE * (g + MOMENTUM * s["u"])


def adagrad(w, g, s, t, decay):
    g = g + decay * w
    s["sum"] = s.get("sum", 0) + g**2
    return w - RATE * g / (s["sum"] ** 0.5 + 1e-10)


def lars(w, g, s, t, decay):
    if w.ndim > 1:
        trust = 0.001 * w.norm() / (g.norm() + decay * w.norm())
        g = trust * (g + decay * w)
    s["u"] = MOMENTUM * s.get("u", 0) + g
    return w - RATE * s["u"]


def lamb(w, g, s, t, decay):
    s["m"] = 0.9 * s.get("m", 0) + 0.1 * g
    s["v"] = 0.999 * s.get("v", 0) + 0.001 * g**2
    u = s["m"] / (s["v"] ** 0.5 + 1e-6) + decay * w
    return w - RATE * min(float(w.norm()), 10.0) / (u.norm() + 1e-6) * u


FORMULAS = {
    "adam": adam,
    "adamw": adamw,
    "sgd": sgd,
    "nesterov": nesterov,
    "adagrad": adagrad,
    "lars": lars,
    "lamb": lamb,
}


@pytest.mark.parametrize("decay_all", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, DECAY])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_step_is_that_of_the_formula(name, weight_decay, decay_all):
    decay_all = decay_all and name != "lars"  # which refuses it
    torch.manual_seed(0)
    network = nn.Linear(3, 4, dtype=torch.float64)
    optimizer = made(name, network, learning_rate=RATE, weight_decay=weight_decay, decay_all=decay_all)
    expected = {which: value.detach().clone() for which, value in network.named_parameters()}
    memory = {which: {} for which in expected}
    for step in range(1, 6):
        for which, parameter in network.named_parameters():
            gradient = torch.randn_like(parameter)
            parameter.grad = gradient.clone()
            decay = weight_decay if decay_all or which == "weight" else 0.0
            expected[which] = FORMULAS[name](expected[which], gradient, memory[which], step, decay)
        optimizer.step()
        for which, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[which], rtol=1e-12, atol=1e-12)


def test_no_momentum_is_plain_gradient_descent():
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    optimizer = make_optimizer("sgd", network, learning_rate=0.5, momentum=None, weight_decay=0.0)
    for _ in range(3):
        network.weight.grad = torch.ones_like(network.weight)
        optimizer.step()
    assert network.weight.item() == -0.5


class Trained(tiny.TinyClassifier):
    """Without dropout, whose random numbers no checkpoint holds."""

    def __init__(self, name, rate):
        super().__init__(dropout=0.0)
        self.name, self.rate = name, rate

    def configure_optimizers(self):
        return made(self.name, self, learning_rate=self.rate, weight_decay=1e-3, decay_all=False)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_in_a_trainer_a_scaled_rate_is_the_rate_and_a_resumed_run_the_same_run(name, tmp_path):
    def fit(rate, *callbacks, epochs=2, ckpt_path=None):
        module = Trained(name, rate)
        trainer = tiny.trainer(*callbacks, max_epochs=epochs)
        trainer.fit(module, tiny.loader(), ckpt_path=ckpt_path)
        return trainer, tiny.state_of(module)

    start = tiny.state_of(Trained(name, 0.1))
    trainer, scaled = fit(0.0625, LearningRateScaling(8, warmup_epochs=0))
    assert [float(trainer.callback_metrics[key]) for key in ("lr/effective", "lr/effective_1")] == [0.125, 0.125]
    assert tiny.same(scaled, fit(0.125)[1])
    assert not torch.equal(scaled["net.0.weight"], start["net.0.weight"])
    assert not torch.equal(scaled["net.1.weight"], start["net.1.weight"])

    first, _ = fit(0.0625, LearningRateScaling(8, warmup_epochs=0), epochs=1)
    first.save_checkpoint(tmp_path / "last.ckpt")
    resumed = fit(0.0625, LearningRateScaling(8, warmup_epochs=0), ckpt_path=tmp_path / "last.ckpt")[1]
    assert tiny.same(resumed, scaled)


def names(network, optimizer):
    """What each group holds, in its order, and its decay."""
    known = {parameter: name for name, parameter in network.named_parameters()}
    return [([known[p] for p in group["params"]], group["weight_decay"]) for group in optimizer.param_groups]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_group_of_everything_by_default(name):
    network = C1(channels=4, dense=(8, 6))
    expected = [name for name, _ in network.named_parameters()]
    assert names(network, made(name, network)) == [(expected, 0.0)]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_biases_and_normalisation_do_not_decay_if_so_asked(name):
    network = C1(channels=4, dense=(8, 6))
    layers = list(network.layers)
    decayed = [f"layers.{i}.weight" for i, layer in enumerate(layers) if isinstance(layer, nn.Conv2d | nn.Linear)]
    others = [which for which, _ in network.named_parameters() if which not in decayed]
    assert (len(decayed), len(others)) == (5, 5 + 2 * 4)
    groups = names(network, made(name, network, weight_decay=DECAY, decay_all=False))
    assert groups == [(decayed, DECAY), (others, 0.0)]


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"name": "lasr"}, "unknown optimizer 'lasr'; did you mean 'lars'.*known: adam, adamw, sgd, nesterov, adagrad"),
        ({"name": "rprop"}, "unknown optimizer 'rprop'; known: adam"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite, got 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive and finite, got nan"),
        ({"weight_decay": -1e-4}, "weight_decay must not be negative or infinite, got -0.0001"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
        ({"name": "nesterov", "momentum": None}, "nesterov needs a momentum above 0, for instance 0.9, got None"),
        ({"name": "nesterov", "momentum": 0.0}, "nesterov needs a momentum above 0"),
        ({"name": "adam"}, "adam has no momentum to set, got momentum=0.9; pass None"),
        ({"name": "adagrad"}, "adagrad has no momentum to set"),
        ({"name": "lamb"}, "lamb has no momentum to set"),
        ({"name": "lars", "weight_decay": 0.1}, "lars decays no vectors, so weight_decay=0.1 needs decay_all=False"),
    ],
)
def test_what_cannot_be_is_refused(terms, message):
    given = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0} | terms
    with pytest.raises(ValueError, match=message):
        make_optimizer(given.pop("name"), nn.Linear(2, 2), **given)


@pytest.mark.parametrize("name", NEEDS_THE_LIBRARY)
def test_a_missing_library_is_named_with_the_way_to_get_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ImportError, match=rf'{name} comes from .* pip install "lightning-gap\[optimizers\]"'):
        made(name, nn.Linear(2, 2))


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in NEEDS_THE_LIBRARY])
def test_the_others_do_without_it(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    assert made(name, nn.Linear(2, 2)).param_groups
