"""The papers' networks as plain modules."""

from __future__ import annotations

from torch import Tensor, nn


class _Layers(nn.Module):
    """Layers one after another, with the authors' initial weights."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.apply(_start_as_the_authors_did)

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores (N, num_classes)."""
        scores: Tensor = self.layers(inputs)
        return scores


def _start_as_the_authors_did(layer: nn.Module) -> None:
    """Weights Glorot-uniform, biases zero: the defaults of Keras 1."""
    if isinstance(layer, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(layer.weight)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)


class F1(_Layers):
    """Fully connected network of Keskar et al. (2017), Appendix B: five hidden layers with BatchNorm and ReLU.

    1,462,794 parameters for 784 inputs and 10 classes. Weights start Glorot-uniform and biases at zero, the defaults
    of the authors' framework.

    Args:
        in_features: Numbers per sample; inputs of any shape (N, ...) are flattened to (N, in_features).
        num_classes: Width of the output, (N, num_classes) class scores.
        width: Units of each hidden layer.
        depth: Number of hidden layers.
    """

    def __init__(self, in_features: int = 784, num_classes: int = 10, *, width: int = 512, depth: int = 5) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for _ in range(depth):
            layers += [nn.Linear(in_features, width), nn.BatchNorm1d(width), nn.ReLU()]
            in_features = width
        super().__init__(*layers, nn.Linear(in_features, num_classes))


class C1(_Layers):
    """Shallow convolutional network of Keskar et al. (2017), Appendix B, as their code reads it.

    Two stages of 5x5 convolution, BatchNorm, ReLU and 3x3 max pooling with stride 2, then two dense layers with
    BatchNorm, ReLU and dropout: 1,757,834 parameters for 32x32 colour images and 10 classes. (The paper's text gives
    the stride to the convolutions.)

    Args:
        num_classes: Width of the output, (N, num_classes) class scores, for inputs (N, 3, 32, 32).
        channels: Channels of both convolutions.
        dense: Units of the two dense layers.
    """

    def __init__(self, num_classes: int = 10, *, channels: int = 64, dense: tuple[int, int] = (384, 192)) -> None:
        layers: list[nn.Module] = []
        for in_channels in (3, channels):
            layers += [nn.Conv2d(in_channels, channels, 5, padding=2), nn.BatchNorm2d(channels), nn.ReLU()]
            layers += [nn.MaxPool2d(3, stride=2, padding=1)]
        layers += [nn.Flatten()]
        in_features = channels * 8 * 8
        for width in dense:
            layers += [nn.Linear(in_features, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5)]
            in_features = width
        super().__init__(*layers, nn.Linear(in_features, num_classes))
