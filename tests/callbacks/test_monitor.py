"""What the base of the monitors asks of a subclass, and what it says where it does not get it."""

import dataclasses
import math
from typing import Any

import pytest
import tiny
import torch
from lightning.pytorch import Callback

from lightning_gap import GeneralizationGapMonitor, LearningRateScaling, WeightDistanceMonitor
from lightning_gap.callbacks._monitor import Monitor


@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class Norms(Monitor):
    area, quantity, names, optional_names = "norms", "the norm", ("norm", "largest"), ("largest",)

    returns: Any = None

    def measure(self, trainer, pl_module):
        return self.returns


def fit(monitor, **options):
    trainer = tiny.trainer(monitor, max_epochs=1, **options)
    trainer.fit(tiny.Validated(), tiny.loader(), tiny.loader(24, seed=2))
    return {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("norms/")}


@pytest.mark.parametrize("returns", [{"norm": 2.0}, {"norm": torch.tensor(2.0), "largest": 1.0}])
def test_a_value_for_each_name_is_logged_and_an_optional_one_may_lack(returns):
    assert fit(Norms(returns=returns)) == {f"norms/{name}": float(value) for name, value in returns.items()}


@pytest.mark.parametrize(
    ("returns", "got"),
    [
        ({"nrom": 2.0}, "nrom"),
        ({"norm": 2.0, "other": 1.0}, "other"),
        ({"largest": 1.0}, "largest"),
        ({}, r"\[\]"),
        (2.5, "2.5"),
        (None, "None"),
    ],
)
def test_anything_else_is_an_error_that_names_what_was_to_come(returns, got):
    with pytest.raises(ValueError, match=rf"Norms\.measure must return .*'norm', 'largest'.* got .*{got}"):
        fit(Norms(returns=returns))


def test_where_a_result_is_taken_apart_the_error_names_that():
    class TakesApart(Norms):
        def named(self, trainer, module, result):
            return {"first": result}

    with pytest.raises(ValueError, match=r"TakesApart\.named must return .*first"):
        fit(TakesApart(returns=3.0))


@pytest.mark.parametrize("attribute", ["area", "quantity"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_monitor_that_does_not_say_what_it_measures_is_refused_when_it_is_made(attribute, value):
    without = type("Without", (Norms,), {attribute: value})
    with pytest.raises(TypeError, match=rf"Without needs the class attribute {attribute}, .*got {value!r}"):
        without()


def test_a_gap_without_an_accuracy_that_is_proven_is_logged_alone():
    monitor = GeneralizationGapMonitor(samples=8, chunk_size=4, loss_fn=lambda module, batch: module(batch[0]).sum())
    trainer = tiny.trainer(monitor, max_epochs=1)
    trainer.fit(tiny.Validated(), tiny.loader(), tiny.loader(24, seed=2))
    assert math.isfinite(trainer.callback_metrics["gap/loss"])
    assert "gap/accuracy" not in trainer.callback_metrics


def test_validating_elsewhere_with_a_checkpoint_does_not_touch_the_fit(tmp_path):
    """Lightning hands a checkpoint that is only validated to the callbacks as well."""
    monitor, scaling = Norms(returns={"norm": 1.0}), LearningRateScaling(8, when_batch_changes="keep", warmup_epochs=0)
    trainer = tiny.trainer(monitor, scaling, max_epochs=1)
    trainer.fit(tiny.Validated(), tiny.loader(), tiny.loader(24, seed=2))
    trainer.save_checkpoint(tmp_path / "one.ckpt")

    class Validates(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 1:
                other = tiny.trainer(monitor, scaling)
                other.validate(tiny.Validated(), tiny.loader(24), ckpt_path=tmp_path / "one.ckpt", verbose=False)

    trainer = tiny.trainer(monitor, scaling, Validates(), max_epochs=1)
    trainer.fit(tiny.Validated(), tiny.loader(batch_size=8), tiny.loader(24, seed=2))
    assert float(trainer.callback_metrics["lr/scale"]) == 1.0  # kept: the first batch of this fit, not 16 / 8


def test_states_of_two_side_by_side_keep_their_keys():
    """What checkpoints of earlier versions have."""
    assert WeightDistanceMonitor(suffix="_b").state_key == "WeightDistanceMonitor{'suffix': '_b'}"
    assert Norms(suffix="_b").state_key == "Norms{'suffix': '_b'}"
