"""The base of the plugins: callbacks that change the gradient of a step, with passes of their own over its batches."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from ..trainer.logs import log_step
from ..trainer.optimizers import has_optimizer, trained_weights
from ..trainer.refusals import (
    refuse_lazy_layers,
    refuse_manual_optimization,
    refuse_sharded_weights,
    refuse_static_graph,
)
from ._callback import GapCallback
from ._extra_pass import ExtraPasses
from ._gradient_change import Again, Sees
from ._run import run_of


class Plugin(GapCallback, ABC):
    """Changes the gradient of each step before it is clipped and the optimizer uses it.

    A subclass answers one question, `change_gradient`. Several plugins of one Trainer nest in the order of their class
    names, wherever they stand in its list: each changes the gradient that those before it have made, at other weights
    too. Two of one name are an error, as neither that order nor the settings in a checkpoint would tell them apart.

    Attributes:
        sees: Whose gradient `change_gradient` finds, and changes: that of all batches of a step on all processes, that
            of this process alone, or of one micro-batch after the other; what they become is then averaged, or summed.
        stands_alone: Whether no other plugin may stand beside it.
        moves_weights: Whether it adds small numbers to the weights, which half precision would round away.
    """

    sees: Sees = "step"
    stands_alone: ClassVar[bool] = False
    moves_weights: bool = False

    @abstractmethod
    def change_gradient(self, trainer: Trainer, pl_module: LightningModule, again: Again) -> None:
        """Change the gradients of the module's weights, which the pass over a step's batches has left in ``.grad``.

        Use only the weights that have one: ``.grad`` is ``None`` where the loss does not depend on a weight. Gradients
        are those of the loss itself, also under a gradient scaler; where float16 overflowed they hold inf or NaN, and
        the scaler skips the step. In the extra epoch of `StochasticWeightAveraging`, which takes no step, this is not
        called.

        Args:
            trainer: In a fit.
            pl_module: Its module.
            again: Makes the gradients anew, at the weights as they are then, by another pass over the same batches:
                with the same random numbers, and such that only the first pass counts for everything else: buffers,
                attributes, metrics and what is logged are as it left them. What objects of the user's own count, they
                count in each pass. Gives the rise of the loss against the first pass.
        """

    def changes_this_step(self, trainer: Trainer) -> bool:
        """Whether `change_gradient` is asked in the step that begins; else this plugin costs nothing."""
        return True

    def values_to_log(self) -> dict[str, Tensor]:
        """What is logged of a step, by key; asked where they are written."""
        return {}

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        refuse_manual_optimization(trainer, self)
        refuse_sharded_weights(trainer, self)
        if "dataloader_iter" in inspect.signature(module.training_step).parameters:
            raise ValueError(
                f"{type(self).__name__} takes another pass over a batch, and a training_step that takes "
                "dataloader_iter would fetch the next one; let it take (batch, batch_idx)"
            )
        run_of(trainer).claim_gradient(trainer, self, self)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        name = type(self).__name__
        refuse_lazy_layers(pl_module, self)
        if not has_optimizer(trainer):
            raise ValueError(
                f"{name} changes the gradients of trained weights, and configure_optimizers of "
                f"{type(pl_module).__name__} gives no optimizer to train them; let it return one"
            )
        weights = trained_weights(trainer, pl_module)
        if not any(weight.numel() for weight in weights.values()):
            raise ValueError(
                f"{name} changes the gradients of trained weights, and {type(pl_module).__name__} has none; "
                "let some require grad"
            )
        if isinstance(trainer.optimizers[0], torch.optim.LBFGS):
            raise ValueError(f"{name} and LBFGS both take further passes over the batch of a step; use SGD or AdamW")
        small = [each for each, weight in weights.items() if weight.dtype.itemsize < 4]
        if self.moves_weights and small:
            raise ValueError(
                f"{name} adds small numbers to the weights, which {weights[small[0]].dtype} rounds away ({small[0]}); "
                "use precision='bf16-mixed' or '16-mixed', which keep them in float32"
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        passes = run_of(trainer).extra_passes
        if passes is not None:
            passes.begin_epoch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        run = run_of(trainer)
        if run.extra_passes is None:  # not when an epoch starts: one that is resumed inside does not
            if self.sees != "step":
                refuse_static_graph(trainer, self, self.sees.replace("_", "-"))
            run.extra_passes = ExtraPasses(trainer, run.gradient_changes, run.accumulation)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        log_step(trainer, pl_module, self.values_to_log, sync=True)

    def end_fit(self, trainer: Trainer) -> None:
        run = run_of(trainer)
        if run.extra_passes is not None:
            run.extra_passes.remove()
            run.extra_passes = None
