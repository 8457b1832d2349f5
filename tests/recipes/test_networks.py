import math

import pytest
import torch
from torch import nn

from lightning_gap.recipes.networks import F1


def test_f1_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in F1().parameters()) == 1_462_794


def test_f1_is_five_times_linear_norm_relu_and_an_output():
    kinds = [type(layer) for layer in F1().layers]
    assert kinds == [nn.Flatten, *[nn.Linear, nn.BatchNorm1d, nn.ReLU] * 5, nn.Linear]


def test_f1_starts_glorot_uniform_with_zero_biases():
    torch.manual_seed(0)
    for layer in F1().layers:
        if isinstance(layer, nn.Linear):
            limit = math.sqrt(6 / (layer.in_features + layer.out_features))
            weights = layer.weight.detach()
            assert float(weights.abs().max()) <= limit
            assert float(weights.std()) == pytest.approx(limit / math.sqrt(3), rel=0.03)
            assert not layer.bias.any()


def test_f1_flattens_images_and_has_a_small_version():
    assert F1(64, 7, width=8, depth=2)(torch.zeros(5, 1, 8, 8)).shape == (5, 7)
