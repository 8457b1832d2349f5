"""The papers' networks as plain modules."""

from __future__ import annotations

from torch import Tensor, nn


class F1(nn.Module):
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
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for _ in range(depth):
            layers += [nn.Linear(in_features, width), nn.BatchNorm1d(width), nn.ReLU()]
            in_features = width
        self.layers = nn.Sequential(*layers, nn.Linear(in_features, num_classes))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores (N, num_classes)."""
        scores: Tensor = self.layers(inputs)
        return scores
