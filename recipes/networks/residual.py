"""The residual networks of Hoffer et al. (2017) and Goyal et al. (2017), of torchvision's blocks where it has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn.functional import relu
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from lightning_gap.functional import residual_norms, zero_init_residual
from lightning_gap.functional._validation import check_counts, refusal

from .sequences import check_sequences


def _conv(in_channels: int, channels: int, *, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, bias=False)


class _ThreeStages(nn.Module):
    """A stem, three stages of residual blocks, and average pooling into a linear layer.

    Convolutions start from N(0, 2 / (k * k * out_channels)).
    """

    def __init__(
        self,
        stem: nn.Module,
        block: Callable[[int, int, int], nn.Module],
        widths: tuple[int, int, int, int],
        blocks: int,
        end: nn.Module,
        num_classes: int,
    ) -> None:
        """``block`` builds from (in_channels, channels, stride); ``widths`` are those of the stem and the stages."""
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential()
        for stride, (below, channels) in zip((1, 2, 2), pairwise(widths), strict=True):
            first = block(below, channels, stride)
            self.stages.append(nn.Sequential(first, *(block(channels, channels, 1) for _ in range(1, blocks))))
        self.end = end
        self.fc = nn.Linear(widths[-1], num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:
        """Class scores (N, num_classes)."""
        maps: Tensor = self.end(self.stages(self.stem(inputs)))  # (N, C, H / 4, W / 4)
        scores: Tensor = self.fc(maps.mean((2, 3)))
        return scores


def _basic_block(in_channels: int, channels: int, stride: int) -> nn.Module:
    """torchvision's, with a projection shortcut where the shape changes."""
    projection = None
    if in_channels != channels:
        projection = nn.Sequential(_conv(in_channels, channels, kernel=1, stride=stride), nn.BatchNorm2d(channels))
    block: nn.Module = BasicBlock(in_channels, channels, stride, projection)
    return block


class ResNet44(_ThreeStages):
    """Residual network for CIFAR in the layout of He et al.: a convolution and three stages of seven basic blocks.

    661,338 parameters for 10 classes. As in the code of Hoffer et al., shortcuts are projections (1x1 convolution and
    BatchNorm) where the shape changes, which He et al. pad with zeros; convolutions start from
    N(0, 2 / (k * k * out_channels)), BatchNorm from 1 and 0, the final layer as torch starts it.

    Args:
        num_classes: Width of the output, (N, num_classes) class scores, for inputs (N, 3, H, W), CIFAR's being 32 x 32.
        width: Channels of the first stage; the others have 2 and 4 times as many.
        blocks: Blocks of each stage; the depth is 6 * blocks + 2.

    Raises:
        ValueError: If one of them is not a whole number of at least 1.

    Reference: He et al. (2016), section 4.2; Hoffer et al. (2017), Table 1, and ``resnet.py`` of their repository.
    """

    def __init__(self, num_classes: int = 10, *, width: int = 16, blocks: int = 7) -> None:
        check_counts(num_classes=num_classes, width=width, blocks=blocks)
        super().__init__(
            stem=nn.Sequential(_conv(3, width), nn.BatchNorm2d(width), nn.ReLU()),
            block=_basic_block,
            widths=(width, width, 2 * width, 4 * width),
            blocks=blocks,
            end=nn.Identity(),
            num_classes=num_classes,
        )


class _PreActivationBlock(nn.Module):
    """BatchNorm and ReLU before each convolution; where the width changes, the first ReLU feeds the shortcut too."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = _conv(in_channels, channels, stride=stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = _conv(channels, channels)
        self.shortcut = None if in_channels == channels else _conv(in_channels, channels, kernel=1, stride=stride)

    def forward(self, inputs: Tensor) -> Tensor:
        active = relu(self.bn1(inputs))
        residual: Tensor = self.conv2(relu(self.bn2(self.conv1(active))))
        return residual + (inputs if self.shortcut is None else self.shortcut(active))


class WRN16_4(_ThreeStages):
    """Wide residual network for CIFAR, pre-activation: three stages of two blocks, four times as wide as He et al.'s.

    2,748,890 parameters for 10 classes; no dropout. Convolutions start from N(0, 2 / (k * k * out_channels)), the final
    biases at zero, as in the authors' code. (The "WResNet16-4" in the code of Hoffer et al. has the same widths and
    depth but activations after the additions, and 2,800,804 parameters for 100 classes.)

    Args:
        num_classes: Width of the output, (N, num_classes) class scores, for inputs (N, 3, H, W), CIFAR's being 32 x 32.
        depth: Number of convolutions, those of the shortcuts included: 6 n + 4 for n blocks in each stage.
        widen: Channels of the first stage over those of the first convolution; the other stages have 2 and 4 times as
            many as the first.
        width: Channels of the first convolution.

    Raises:
        ValueError: If ``depth`` is not 10, 16, 22, ..., or another is not a whole number of at least 1.

    Reference: Zagoruyko & Komodakis (2016), section 2 and Table 1.
    """

    def __init__(self, num_classes: int = 10, *, depth: int = 16, widen: int = 4, width: int = 16) -> None:
        check_counts(num_classes=num_classes, widen=widen, width=width)
        rule = "6 n + 4 for n blocks in each stage (10, 16, 22, ...)"
        is_count = isinstance(depth, int) and not isinstance(depth, bool)
        if not is_count or not 10 <= depth < 2**63 or depth % 6 != 4:
            raise ValueError(refusal("depth", f"must be {rule}", depth))
        wide = widen * width
        super().__init__(
            stem=_conv(3, width),
            block=_PreActivationBlock,
            widths=(width, wide, 2 * wide, 4 * wide),
            blocks=(depth - 4) // 6,
            end=nn.Sequential(nn.BatchNorm2d(4 * wide), nn.ReLU()),
            num_classes=num_classes,
        )
        nn.init.zeros_(self.fc.bias)


class ResNet50(ResNet):
    """torchvision's ResNet-50 with the initial weights of Goyal et al. (2017), but for zero gammas.

    25,557,032 parameters for 1000 classes. The final layer starts from N(0, 0.01²) with zero biases, convolutions from
    N(0, 2 / (k * k * out_channels)), every BatchNorm from 1 and 0. Goyal et al. start the last BatchNorm of each block
    at zero: that is `zero_last_gammas`, which the recipe applies.

    Args:
        num_classes: Width of the output, (N, num_classes) class scores, for inputs (N, 3, H, W), ImageNet's being
            224 x 224.
        blocks: Bottleneck blocks of the four stages.
        width_per_group: Channels inside the blocks of the first stage; the others have 2, 4 and 8 times as many. The
            outputs of the stages keep their 256, 512, 1024 and 2048.

    Raises:
        ValueError: If what counts something is not a whole number of at least 1, or there are not four ``blocks``.

    Reference: Goyal et al. (2017), section 5.1; He et al. (2016), Table 1, with stride 2 on the 3x3 convolutions.
    """

    def __init__(
        self, num_classes: int = 1000, *, blocks: Sequence[int] = (3, 4, 6, 3), width_per_group: int = 64
    ) -> None:
        check_counts(num_classes=num_classes, width_per_group=width_per_group)
        check_sequences((3, 4, 6, 3), blocks=blocks)
        super().__init__(Bottleneck, list(blocks), num_classes=num_classes, width_per_group=width_per_group)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)


def zero_last_gammas(network: nn.Module) -> int:
    """Start each residual block as its shortcut, as `zero_init_residual` does, where the network has such blocks.

    Args:
        network: Any module. Pre-activation blocks, as in `WRN16_4`, end in a convolution and have no such weight.

    Returns:
        The number of weights set, one for each block; 0 for a network without such blocks.

    Reference: Goyal et al. (2017), section 5.1.

    Example:
        >>> zero_last_gammas(ResNet44(blocks=2))
        6
    """
    return len(zero_init_residual(network)) if residual_norms(network) else 0
