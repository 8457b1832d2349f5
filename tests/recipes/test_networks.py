import math

import pytest
import torch
from torch import nn

from lightning_gap.recipes.networks import C1, F1


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


def test_c1_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in C1().parameters()) == 1_757_834


def test_c1_halves_its_images_twice_and_drops_half_of_the_dense_units():
    kinds = [type(layer) for layer in C1().layers]
    stage, dense = [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d], [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout]
    assert kinds == [*stage * 2, nn.Flatten, *dense * 2, nn.Linear]
    assert C1().layers[:8](torch.zeros(2, 3, 32, 32)).shape == (2, 64, 8, 8)
    assert C1(7, channels=4, dense=(6, 5))(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_c1_starts_glorot_uniform_with_zero_biases():
    torch.manual_seed(0)
    convolution = C1().requires_grad_(False).layers[4]
    limit = math.sqrt(6 / (25 * 64 + 25 * 64))
    assert float(convolution.weight.abs().max()) <= limit
    assert float(convolution.weight.std()) == pytest.approx(limit / math.sqrt(3), rel=0.03)
    assert not convolution.bias.any()
