"""Let the decay of Lightning's averages of the weights follow the batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from ..trainer.averaged_weights import averaged_models
from ..trainer.progress import is_inside_a_batch

AverageFunction = Callable[[Tensor, Tensor, Tensor | int], Tensor]


class FollowingDecay:
    """One exponential moving average whose decay is another at each update after a step, until it is put back.

    An update at the end of an epoch comes once per epoch, whatever the batch, and keeps the user's decay.
    """

    def __init__(self, trainer: Trainer, average: AveragedModel, decay: float, now: Callable[[float], float]) -> None:
        self._trainer, self._average, self._decay, self._now = trainer, average, decay, now
        self._users: Any = average.avg_fn
        self._of: tuple[float, Any] = decay, self._users
        average.avg_fn = self._update

    @property
    def decay(self) -> float:
        """That of an update after the last step."""
        return self._now(self._decay)

    def put_back(self) -> None:
        """Let the average have the user's decay again."""
        self._average.avg_fn = self._users

    def _update(self, averaged: Tensor, current: Tensor, updates: Tensor | int) -> Any:
        if not is_inside_a_batch(self._trainer):
            return self._users(averaged, current, updates)
        decay = self.decay
        if decay != self._of[0]:
            self._of = decay, get_ema_avg_fn(decay)  # type: ignore[no-untyped-call]
        return self._of[1](averaged, current, updates)


def follow_decays(trainer: Trainer, now: Callable[[float], float]) -> list[FollowingDecay]:
    """Let the decay of every exponential moving average be what ``now`` makes of the user's, from here on."""
    with_decay = [(average, _decay_of(average)) for average in averaged_models(trainer, after_steps=True)]
    for _, decay in with_decay:
        if decay is not None:
            now(decay)  # refuses one that is impossible before any average is changed
    return [FollowingDecay(trainer, average, decay, now) for average, decay in with_decay if decay is not None]


def _decay_of(average: AveragedModel) -> float | None:
    """The decay of an exponential moving average, found by averaging 1 and 0; None where all weights count alike."""
    function = average.avg_fn
    if function is None and average.multi_avg_fn is None:
        return None
    if function is not None and average.multi_avg_fn is None:
        one, none = (torch.tensor(value, dtype=torch.float64) for value in (1.0, 0.0))
        counts = [torch.tensor(updates) for updates in (1, 2, 1000)]
        kept = [float(function(one, none, updates)) for updates in counts]
        taken = [float(function(none, one, updates)) for updates in counts]
        if len({*kept}) == 1 and all(abs(a + b - 1) < 1e-12 for a, b in zip(kept, taken, strict=True)):
            return kept[0]
        if all(abs(share - n / (n + 1)) < 1e-12 for share, n in zip(kept, (1, 2, 1000), strict=True)):
            return None
    name = "multi_avg_fn" if average.multi_avg_fn is not None else "avg_fn"
    raise ValueError(
        f"scale_ema_decay=True: the {name} of WeightAveraging is no exponential moving average of one decay that can "
        "be read; use EMAWeightAveraging(decay=...), or scale_ema_decay=False to leave it alone"
    )
