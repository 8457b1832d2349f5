"""Subclasses of BatchNorm as others write them, and the ghost layer that each should make."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm


class Tagged(nn.BatchNorm1d):
    """Adds attributes and methods only."""

    tag = "own"

    def doubled(self):
        return 2 * self.num_features


class AnyRank(_BatchNorm):
    """Derives from the base of all."""

    def _check_input_dim(self, input):
        if input.dim() < 2:
            raise ValueError("expected at least 2D input")


class Rectified(nn.BatchNorm2d):
    """Ends in super().forward."""

    def forward(self, input):
        return super().forward(input).relu()


class ChannelsBehind(nn.BatchNorm1d):
    """Takes (N, L, C)."""

    def forward(self, input):
        return super().forward(input.transpose(1, 2)).transpose(1, 2)


class Rows(nn.BatchNorm1d):
    """Takes (N, L, C) and lets BatchNorm see rows, of which a ghost has L times as many as samples."""

    def forward(self, input):
        return super().forward(input.flatten(0, 1)).view_as(input)


class NormAct(nn.BatchNorm2d):
    """Calls F.batch_norm itself, then layers of its own, the last one in place: how a popular library fuses them."""

    def __init__(self, channels, *, drop=0.0, **options):
        super().__init__(channels, **options)
        self.drop, self.act = nn.Dropout(drop), nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x):
        torch._assert(x.ndim == 4, "4D")
        weight = self.momentum or 0.0
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                weight = 1.0 / float(self.num_batches_tracked)
        keeps = not self.training or self.track_running_stats
        mean, variance = (self.running_mean, self.running_var) if keeps else (None, None)
        batch = self.training or self.running_mean is None
        return self.act(self.drop(F.batch_norm(x, mean, variance, self.weight, self.bias, batch, weight, self.eps)))


class Bounded(nn.BatchNorm1d):
    """Its output is bounded by a parameter of its own."""

    def __init__(self, channels):
        super().__init__(channels)
        self.bound = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        return self.bound * torch.tanh(nn.BatchNorm1d.forward(self, x))


class TwoDomains(nn.BatchNorm2d):
    """The second half of a batch has statistics of its own."""

    def __init__(self, channels):
        super().__init__(channels)
        self.other = nn.BatchNorm2d(channels)
        nn.init.constant_(self.other.weight, 3.0)

    def forward(self, input):
        first, second = input.chunk(2)
        return torch.cat([super().forward(first), self.other(second)])


class Frozen(nn.BatchNorm2d):
    """Never uses the batch."""

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


class Conditional(nn.BatchNorm2d):
    """Takes a second input."""

    def forward(self, x, condition):
        return super().forward(x) * condition


class Noisy(nn.BatchNorm1d):
    """Draws at random."""

    def forward(self, x):
        return super().forward(x) + torch.randn_like(x)


class NaiveSyncBatchNorm(nn.BatchNorm2d):
    """Would share statistics across processes."""

    def forward(self, x):
        return super().forward(x)


class Hooked(nn.BatchNorm1d):
    """Changes how a module is called."""

    def __call__(self, x):
        return super().__call__(x + 1)


SWAPPED = [
    (lambda: Tagged(4), (4,), "joined"),
    (lambda: Tagged(4), (4, 5), "joined"),
    (lambda: AnyRank(4), (4, 2, 2), "joined"),
    (lambda: Rectified(4), (4, 3, 3), "joined"),
    (lambda: ChannelsBehind(4), (5, 4), "joined"),
    (lambda: Rows(4), (5, 4), "sliced"),
    (lambda: NormAct(4), (4, 3, 3), "sliced"),
    (lambda: NormAct(4, momentum=None), (4, 3, 3), "sliced"),
    (lambda: NormAct(4, affine=False), (4, 3, 3), "sliced"),
    (lambda: NormAct(4, track_running_stats=False), (4, 3, 3), "sliced"),
    (lambda: Bounded(4), (4,), "sliced"),
]
"""How to make a layer, the shape of a sample, and how its ghosts are computed."""

LEFT_ALONE = [
    (TwoDomains, "does not treat the samples of a batch alike"),
    (Frozen, "does not normalise by the batch in training"),
    (Conditional, r"could not be tried: TypeError: .*missing 1 required positional argument: 'condition'"),
    (Noisy, "or draws at random"),
    (NaiveSyncBatchNorm, "by its name shares statistics across processes"),
    (Hooked, "overrides how a module is called"),
]
