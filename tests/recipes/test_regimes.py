import pytest

from lightning_gap import GhostBatchNormSwap, LearningRateScaling
from lightning_gap.recipes.catalogue import RECIPES, Numbers, chosen
from lightning_gap.recipes.regimes import REGIMES

NUMBERS = Numbers(
    epochs=3,
    small_batch_size=8,
    large_batch_size=64,
    ghost_batch_size=16,
    warmup_epochs=2,
    learning_rate=0.1,
    validation_size=0,
)


@pytest.mark.parametrize(
    ("name", "batch", "kinds"),
    [
        ("small", 8, []),
        ("large", 64, []),
        ("linear-lr", 64, [LearningRateScaling]),
        ("ghost", 64, [GhostBatchNormSwap]),
    ],
)
def test_a_regime_is_a_batch_size_and_its_callbacks(name, batch, kinds):
    regime = REGIMES[name](NUMBERS)
    assert regime.batch_size == batch
    assert [type(callback) for callback in regime.callbacks] == kinds


def test_numbers_reach_the_callbacks():
    (scaling,) = REGIMES["linear-lr"](NUMBERS).callbacks
    (swap,) = REGIMES["ghost"](NUMBERS).callbacks
    assert (scaling.base_batch_size, scaling.rule, scaling.warmup_epochs) == (8, "linear", 2)
    assert swap.ghost_batch_size == 16


def test_the_papers_numbers_for_f1_on_mnist():
    numbers = RECIPES["f1"].numbers["mnist"]  # Keskar et al.: 256 against 10 % of 60,000, 100 epochs, ADAM's default
    assert (numbers.small_batch_size, numbers.large_batch_size, numbers.epochs) == (256, 6000, 100)
    assert (numbers.learning_rate, numbers.validation_size) == (1e-3, 0)


@pytest.mark.parametrize("kind", ["recipe", "regime", "data set"])
def test_an_unknown_name_is_refused_with_the_nearest(kind):
    with pytest.raises(
        ValueError, match=f"unknown {kind} 'lineer-lr'; did you mean 'linear-lr'\\? known: small, linear-lr"
    ):
        chosen(kind, "lineer-lr", ["small", "linear-lr"])


def test_a_name_near_to_nothing_is_refused_with_all():
    with pytest.raises(ValueError, match="unknown recipe 'xyz'; known: f1"):
        chosen("recipe", "xyz", RECIPES)
