"""Make accumulated gradients those of the large batch, also where a window is short or its parts differ."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer

from ..trainer.refusals import refuse_manual_optimization
from ._run import run_of
from ._weighing import WeighingCallback


class ExactAccumulation(WeighingCallback):
    """Weigh every micro-batch by its samples, so that each step's gradient is the mean over the whole batch.

    Lightning divides each loss by `accumulate_grad_batches` and averages over processes. That is the mean over the
    batch only where all micro-batches are equal and none is missing: the last step of an epoch with 10 batches and
    ``accumulate_grad_batches=4`` has half the gradient it should have. With this callback losses are weighed before
    `backward`, so that gradient clipping, other callbacks and the optimizer see the right gradient. What the module
    logs stays as it is. Where all micro-batches are equal nothing is changed at all.

    The callbacks of this package that set the batch size do this by themselves; beside them this one is for ``count``.

    Args:
        count: What the mean of your loss is taken over, as a function of the batch: for instance the number of tokens
            that are not padding. A batch for which it gives 0 counts for nothing. By default the samples: as many as
            the loader states, and where it states nothing the first axis that all tensors of the batch have in common.

    Raises:
        ValueError: Before the first step in manual optimization, if the strategy accumulates by itself, with a
            second one or one with another ``count``, or if neither the loader nor its first batch says how many
            samples there are. In a step, if ``count`` gives no number of at least 0, or `accumulate_grad_batches`
            changes inside a window, where gradients would be lost.

    Reference:
        Goyal et al. (2017), section 3, remark 3: normalise by the total number of samples.
    """

    decides_training = ("count",)

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        run_of(trainer).claim(trainer, self, "weigh a batch by its samples")
        refuse_manual_optimization(trainer, self)
