"""The base of the plugins: callbacks that change the gradient of a step, with passes of their own over its batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from lightning.pytorch import LightningModule, Trainer

from ..trainer.refusals import refuse_manual_optimization
from ._callback import GapCallback
from ._extra_pass import TwoPassStep, spread_over_several
from ._run import run_of


class Plugin(GapCallback, ABC):
    """Changes the gradient of each step before it is clipped and the optimizer uses it.

    A subclass answers one question, `change_gradient`. Several plugins of one Trainer come after each other in the
    order of their class names, wherever they stand in its list; two of one name are an error, as neither that order
    nor the settings in a checkpoint would tell them apart.
    """

    @abstractmethod
    def change_gradient(self, trainer: Trainer, pl_module: LightningModule, again: Callable[[], None]) -> None:
        """Change the gradients of the module's weights, which the pass over the batch has left in ``.grad``.

        Use only the weights that have one: ``.grad`` is ``None`` where the loss does not depend on a weight. Gradients
        are those of the loss itself, also under a gradient scaler; where float16 overflowed they hold inf or NaN, and
        the scaler skips the step. With accumulation, or in the extra epoch of `StochasticWeightAveraging`, this is not
        called: the one is an error, the other takes no step.

        Args:
            trainer: In a fit.
            pl_module: Its module.
            again: Makes the gradients anew, at the weights as they are then, by another pass over the same batch: with
                the same random numbers, and such that only the first pass counts for everything else: the buffers and
                what is logged are as it left them.
        """

    def begin_fit(self, trainer: Trainer, module: LightningModule) -> None:
        super().begin_fit(trainer, module)
        refuse_manual_optimization(trainer, self)
        run_of(trainer).claim_gradient(trainer, self, self.change_gradient)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        run = run_of(trainer)
        if run.accumulates(trainer):
            raise spread_over_several(type(self).__name__, "accumulation")
        if run.two_pass_step is None:
            run.two_pass_step = TwoPassStep(trainer, run.gradient_changes)

    def end_fit(self, trainer: Trainer) -> None:
        run = run_of(trainer)
        if run.two_pass_step is not None:
            run.two_pass_step.remove()
            run.two_pass_step = None
