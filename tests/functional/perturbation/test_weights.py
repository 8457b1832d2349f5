import math

import pytest
import torch
from torch import nn

from lightning_gap.functional import ascent_direction, perturbed
from lightning_gap.functional.perturbation._weights import global_norm, unchanged


def test_the_norm_of_many_small_entries_is_not_summed_in_their_own_type():
    tensors = [torch.full((300_000,), 1e-3, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    wanted = math.sqrt(sum(300_000 * float(tensor[0]) ** 2 for tensor in tensors))
    assert float(global_norm(tensors)) == pytest.approx(wanted, rel=1e-12)


def test_squares_beyond_float32_count():
    assert float(global_norm([torch.tensor([3e30]), torch.tensor([4e30])])) == pytest.approx(5e30)


def test_empty_tensors_have_no_say_and_nan_has():
    assert float(global_norm([torch.empty(0), torch.tensor([-2.0])], torch.inf)) == 2
    assert float(global_norm([])) == 0
    for order in (2.0, torch.inf):
        assert math.isnan(global_norm([torch.tensor([1.0, math.nan]), torch.tensor([1.0])], order))


def test_values_of_every_type_come_back_in_their_storage():
    tensors = [torch.tensor([-0.0, math.inf, math.nan]), torch.tensor([3]), torch.ones(2, 3, dtype=torch.bfloat16).T]
    before = [(tensor.data_ptr(), tensor.clone()) for tensor in tensors]
    with unchanged(tensors):
        for tensor in tensors:
            tensor.fill_(7)
    for tensor, (pointer, value) in zip(tensors, before, strict=True):
        assert tensor.data_ptr() == pointer
        assert torch.equal(tensor.contiguous().view(torch.uint8), value.contiguous().view(torch.uint8))


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (list, "weights is empty"),
        (lambda: torch.ones(3), "weights must be a list"),
        (lambda: [torch.ones(2), torch.arange(2)], r"weights\[1\] is torch.int64"),
        (lambda: nn.LazyLinear(2).parameters(), r"weights\[0\] is lazy"),
    ],
)
def test_weights_that_cannot_be_perturbed_are_refused_by_name(weights, told):
    with pytest.raises(ValueError, match=told):
        ascent_direction(weights(), [torch.ones(2)], rho=0.1)


def test_what_does_not_pair_up_is_refused_by_name():
    weights = [torch.ones(2), torch.ones(3)]
    with pytest.raises(ValueError, match="gradients must be as many as weights, 2, got 1"):
        ascent_direction(weights, [torch.ones(2)], rho=0.1)
    with pytest.raises(ValueError, match=r"gradients\[1\] must have the shape of weights\[1\]"):
        ascent_direction(weights, [torch.ones(2), torch.ones(2)], rho=0.1)
    with pytest.raises(ValueError, match=r"directions\[0\] must have the shape"), perturbed(weights, weights[::-1]):
        pass
    assert all(bool((weight == 1).all()) for weight in weights)


def test_a_sparse_gradient_is_refused_with_the_way_out():
    table = nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="sparse=False"):
        ascent_direction([table.weight], [table.weight.grad], rho=0.1)
