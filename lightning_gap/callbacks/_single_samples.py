"""A last batch of one sample, of which BatchNorm has no statistics, is found before the first step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._batches import samples_per_process
from ..functional.batch_size import Split


class SingleSamples:
    """Watches, in the first training step only, which BatchNorm layers have a single value of each sample.

    Such a layer fails in training on a batch of one sample. One that has more values, of an image or a sequence, does
    not; which it is, only its input tells.
    """

    def __init__(self) -> None:
        self.watches = False
        self._hooks: list[Any] = []
        self._layers: list[str] = []
        self._size = 0

    def begin(self, trainer: Trainer, planned: Sequence[tuple[Split, int | None]]) -> None:
        """Watch the first step if an epoch of the run ends with one sample.

        Args:
            trainer: About to train.
            planned: For each epoch to come how it is split, and the samples of its last batch if they are known.
        """
        self.end()
        size = _first_that_leaves_one(trainer, planned)
        if size is None:
            return
        self._size, self.watches = size, True
        for name, layer in trainer.lightning_module.named_modules():
            if isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm):
                self._hooks.append(layer.register_forward_pre_hook(self._watch(name)))

    def check(self) -> None:
        """The first loss is there: raise if a later batch cannot be trained with."""
        layers = self._layers
        self.end()
        if layers:
            raise ValueError(
                f"the last batch of an epoch holds 1 sample once a batch has {self._size}, and BatchNorm layers "
                f"({', '.join(dict.fromkeys(layers))}) have no statistics of one sample; use another batch size, or "
                "drop_last=True in the loader"
            )

    def end(self) -> None:
        """Watch no more."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._layers, self.watches = [], [], False

    def _watch(self, name: str) -> Any:
        def see(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            shape = inputs[0].shape if inputs and isinstance(inputs[0], Tensor) else ()
            if layer.training and len(shape) >= 2 and math.prod(shape[2:]) == 1:
                self._layers.append(name)

        return see


def _first_that_leaves_one(trainer: Trainer, planned: Sequence[tuple[Split, int | None]]) -> int | None:
    """The first micro-batch size whose epoch ends with one sample, within the steps that the run takes."""
    samples, steps = samples_per_process(trainer), 0
    if samples is None or trainer.limit_train_batches != 1.0:
        return None
    for split, last in planned:
        steps += math.ceil(math.ceil(samples / split.micro_batch_size) / split.accumulate)
        if last == 1 and split.micro_batch_size > 1 and (trainer.max_steps == -1 or steps <= trainer.max_steps):
            return split.micro_batch_size
    return None
