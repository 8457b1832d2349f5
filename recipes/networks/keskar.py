"""The six networks of Keskar et al. (2017), Appendix B, one stage of the published tables per line.

Weights start Glorot-uniform and biases at zero, the defaults of Keras 1, in which the authors wrote. Convolutions have
their biases although a BatchNorm follows, as in the authors' code.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain, pairwise
from typing import Literal, get_args

from torch import Tensor, nn

from lightning_gap.functional._validation import check_counts, flag, one_of, whole_number

from .sequences import check_sequences

Variant = Literal["code", "paper"]


class _Layers(nn.Module):
    """Layers one after another, given by stages, with the authors' initial weights."""

    def __init__(self, *stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*chain.from_iterable(stages))
        self.apply(_start_as_the_authors_did)

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores (N, num_classes)."""
        scores: Tensor = self.layers(inputs)
        return scores


def _start_as_the_authors_did(layer: nn.Module) -> None:
    if isinstance(layer, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _conv(in_channels: int, channels: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """Convolution that leaves an image 1 / stride of its size, BatchNorm and ReLU."""
    convolution = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2)
    return [convolution, nn.BatchNorm2d(channels), nn.ReLU()]


def _dense(in_features: int, width: int) -> list[nn.Module]:
    """Linear layer, BatchNorm and ReLU."""
    return [nn.Linear(in_features, width), nn.BatchNorm1d(width), nn.ReLU()]


def _drop(probability: float, on: bool) -> nn.Module:
    """Dropout; off, it keeps its place, so that a `state_dict` fits either way."""
    return nn.Dropout(probability if on else 0.0)


def _as_in_paper(variant: Variant) -> bool:
    return bool(one_of("variant", variant, get_args(Variant)) == "paper")


class F1(_Layers):
    """Fully connected network for MNIST: five hidden layers with BatchNorm and ReLU.

    1,462,794 parameters for 784 inputs and 10 classes.

    Args:
        in_features: Numbers per sample; inputs of any shape (N, ...) are flattened to (N, in_features).
        num_classes: Width of the output, (N, num_classes) class scores.
        width: Units of each hidden layer.
        depth: Number of hidden layers.

    Raises:
        ValueError: If one of them is not a whole number of at least 1.

    Reference: Keskar et al. (2017), Appendix B.
    """

    def __init__(self, in_features: int = 784, num_classes: int = 10, *, width: int = 512, depth: int = 5) -> None:
        whole_number("in_features", in_features, hint="the recipe's inputs")
        check_counts(num_classes=num_classes, width=width, depth=depth)
        widths = [in_features, *[width] * depth]
        super().__init__(
            [nn.Flatten()],
            *(_dense(below, above) for below, above in pairwise(widths)),
            [nn.Linear(widths[-1], num_classes)],
        )


class F2(F1):
    """Fully connected network for TIMIT: `F1` with seven hidden layers, 360 inputs and 1973 classes.

    2,780,085 parameters. The inputs are frames of speech, the classes tied states.

    Args:
        in_features: See `F1`.
        num_classes: See `F1`.
        width: See `F1`.
        depth: See `F1`.

    Reference: Keskar et al. (2017), Appendix B.
    """

    def __init__(self, in_features: int = 360, num_classes: int = 1973, *, width: int = 512, depth: int = 7) -> None:
        super().__init__(in_features, num_classes, width=width, depth=depth)


class C1(_Layers):
    """Shallow convolutional network for CIFAR-10: two 5x5 convolutions and two dense layers.

    Each has BatchNorm and ReLU; 3x3 max pooling follows the convolutions, dropout the dense layers. The paper's text
    and the authors' code differ in what has stride 2: in the code the pooling (1,757,834 parameters for 10 classes),
    in the paper the convolutions, and here the pooling too, of which it gives the size alone (283,274).

    Args:
        num_classes: Width of the output, (N, num_classes) class scores, for inputs (N, 3, 32, 32).
        variant: ``"code"`` follows the authors' ``shallownet``, ``"paper"`` the text.
        channels: Channels of both convolutions.
        dense: Units of the first and of the second dense layer.
        dropout: Whether to drop half of the dense units in training, as both variants do.

    Raises:
        ValueError: If ``variant`` is unknown, or what counts something is not a whole number of at least 1.

    Reference: Keskar et al. (2017), Appendix B; ``network_zoo.py`` of their repository.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        variant: Variant = "code",
        channels: int = 64,
        dense: Sequence[int] = (384, 192),
        dropout: bool = True,
    ) -> None:
        flag("dropout", dropout)
        stride, size = (2, 2) if _as_in_paper(variant) else (1, 8)
        check_counts(num_classes=num_classes, channels=channels)
        check_sequences((384, 192), dense=dense)
        first, second = dense
        super().__init__(
            [*_conv(3, channels, kernel=5, stride=stride), nn.MaxPool2d(3, stride=2, padding=1)],
            [*_conv(channels, channels, kernel=5, stride=stride), nn.MaxPool2d(3, stride=2, padding=1)],
            [nn.Flatten()],  # (N, channels, size, size)
            [*_dense(channels * size**2, first), _drop(0.5, dropout)],
            [*_dense(first, second), _drop(0.5, dropout)],
            [nn.Linear(second, num_classes)],
        )


class C2(_Layers):
    """Deep convolutional network for CIFAR-10: thirteen 3x3 convolutions in five stages, and a dense layer.

    Each has BatchNorm and ReLU; 2x2 max pooling ends a stage. 14,991,946 parameters for 10 classes. The authors' code
    drops units after most layers, the paper's text lists dropout for the dense layer only.

    Args:
        num_classes: Width of the output, (N, num_classes) class scores, for inputs (N, 3, 32, 32).
        variant: ``"code"`` follows the authors' ``deepnet``, ``"paper"`` the text.
        width: Channels of the first stage; the others have 2, 4, 8 and 8 times as many.
        dense: Units of the dense layer.
        dropout: Whether to drop units in training, where the variant does and at its probabilities.

    Raises:
        ValueError: If ``variant`` is unknown, or what counts something is not a whole number of at least 1.

    Reference: Keskar et al. (2017), Appendix B; ``network_zoo.py`` of their repository. There the pooling is Theano's
    "same", which shifts the windows by one pixel and reads no last row and column; here they tile the image.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        variant: Variant = "code",
        width: int = 64,
        dense: int = 512,
        dropout: bool = True,
    ) -> None:
        early = flag("dropout", dropout) and not _as_in_paper(variant)
        check_counts(num_classes=num_classes, width=width, dense=dense)
        a, b, c, d = width, 2 * width, 4 * width, 8 * width
        super().__init__(
            [*_conv(3, a), _drop(0.3, early), *_conv(a, a), nn.MaxPool2d(2)],
            [*_conv(a, b), _drop(0.4, early), *_conv(b, b), nn.MaxPool2d(2)],
            [*_conv(b, c), _drop(0.4, early), *_conv(c, c), _drop(0.4, early), *_conv(c, c), nn.MaxPool2d(2)],
            [*_conv(c, d), _drop(0.4, early), *_conv(d, d), _drop(0.4, early), *_conv(d, d), nn.MaxPool2d(2)],
            [*_conv(d, d), _drop(0.4, early), *_conv(d, d), _drop(0.4, early), *_conv(d, d), nn.MaxPool2d(2)],
            [nn.Flatten(), _drop(0.5, early)],  # (N, d), from (N, d, 1, 1)
            [*_dense(d, dense), _drop(0.5, dropout)],
            [nn.Linear(dense, num_classes)],
        )


class C3(C1):
    """`C1` for CIFAR-100: 1,775,204 parameters.

    Args:
        num_classes: See `C1`.
        variant: See `C1`.
        channels: See `C1`.
        dense: See `C1`.
        dropout: See `C1`.

    Reference: Keskar et al. (2017), Appendix B.
    """

    def __init__(
        self,
        num_classes: int = 100,
        *,
        variant: Variant = "code",
        channels: int = 64,
        dense: Sequence[int] = (384, 192),
        dropout: bool = True,
    ) -> None:
        super().__init__(num_classes, variant=variant, channels=channels, dense=dense, dropout=dropout)


class C4(C2):
    """`C2` for CIFAR-100: 15,038,116 parameters.

    Args:
        num_classes: See `C2`.
        variant: See `C2`.
        width: See `C2`.
        dense: See `C2`.
        dropout: See `C2`.

    Reference: Keskar et al. (2017), Appendix B.
    """

    def __init__(
        self,
        num_classes: int = 100,
        *,
        variant: Variant = "code",
        width: int = 64,
        dense: int = 512,
        dropout: bool = True,
    ) -> None:
        super().__init__(num_classes, variant=variant, width=width, dense=dense, dropout=dropout)
