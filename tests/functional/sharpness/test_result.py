import dataclasses
import math

import pytest
import torch
from functional.known_losses import vector
from torch import nn

from lightning_gap.functional import (
    DatasetLoss,
    RandomSubspace,
    Sharpness,
    UndefinedSharpnessError,
    sharpness,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_holds_the_terms_it_was_found_under(dtype):
    x = vector(3.0, -4.0, 0.0, dtype=dtype)
    found = sharpness(lambda: 2 * x[0] - x[1] + 0 * x[2], [x], epsilon=0.1)
    assert found.loss == 10.0
    assert found.highest_loss == pytest.approx(10 + 0.8 + 0.5)
    assert found.percent == pytest.approx(100 * 1.3 / 11)
    assert (found.epsilon, found.norm, found.relative, found.subspace, found.method) == (
        0.1,
        "max",
        False,
        None,
        "corner",
    )
    assert (found.weight_norm, found.gradient_norm) == (5.0, pytest.approx(math.sqrt(5)))
    assert found.largest_gradient == 2.0
    assert found.offset_norm == pytest.approx(math.hypot(0.4, 0.5))
    assert found.at_bound == pytest.approx(2 / 3)
    assert found.stopped_because == "confirmed by its gradient"
    assert (found.evaluations, found.gradients, found.non_finite, found.random_start) == (2, 2, 0, False)
    assert (found.samples, found.batch_norm, found.dtype) == (None, None, dtype)
    assert 0 < found.seconds < 60


def test_the_result_cannot_be_changed_and_has_no_tensors():
    x = vector(1.0)
    found = sharpness(lambda: x.sum(), [x])
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.percent = 0.0
    assert not any(isinstance(value, torch.Tensor) for value in vars(found).values())
    assert {field.name for field in dataclasses.fields(Sharpness)} == set(vars(found))


def test_terms_that_were_asked_for_are_told():
    x = vector(*range(1, 8))
    loss = lambda: x.square().sum()  # noqa: E731
    subspace = RandomSubspace(3, seed=5, scale=0.5)
    assert sharpness(loss, [x], subspace=subspace).subspace == subspace
    assert sharpness(loss, [x], method="lbfgsb").method == "lbfgsb"
    found = sharpness(loss, [x], norm="l2", relative=True)
    assert (found.norm, found.relative) == ("l2", True)
    module = nn.Linear(2, 1)
    data = DatasetLoss(module, lambda m, b: m(b).square().mean(), [torch.ones(3, 2)], batch_norm="batch")
    found = sharpness(data, module.parameters())
    assert (found.samples, found.batch_norm) == (3, "batch")
    more = DatasetLoss(module, lambda m, b: m(b).square().mean(), [torch.ones(5, 2)])
    found = sharpness(data, module.parameters(), report_on=more)
    assert (found.samples, found.batch_norm) == (5, "running")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, -2.0])
def test_a_loss_without_a_sharpness_is_refused_as_undefined(bad):
    x = vector(0.0)
    with pytest.raises(UndefinedSharpnessError, match="the loss at params must be finite and above -1"):
        sharpness(lambda: x.sum() + bad, [x])
    with pytest.raises(UndefinedSharpnessError, match="the loss at params must be finite and above -1"):
        sharpness(lambda: x.sum(), [x], report_on=lambda: x.sum() + bad)
    assert issubclass(UndefinedSharpnessError, ValueError)
