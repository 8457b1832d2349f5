"""The base of the plugins: callbacks that change the gradient of a step, with passes of their own over its batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from lightning.pytorch import LightningModule, Trainer

from ..trainer.refusals import refuse_manual_optimization
from ._callback import GapCallback
from ._extra_pass import TwoPassStep
from ._run import run_of


class Plugin(GapCallback, ABC):
    """Changes the gradient of each step before it is clipped and the optimizer uses it.

    A subclass answers one question, `change_gradient`. Several plugins of one Trainer come after each other in the
    order of their class names, wherever they stand in its list.
    """

    @abstractmethod
    def change_gradient(self, trainer: Trainer, pl_module: LightningModule, again: Callable[[], None]) -> None:
        """Change the gradients of the module's weights, which the pass over the batch has left in ``.grad``.

        Args:
            trainer: In a fit.
            pl_module: Its module.
            again: Makes the gradients anew, at the weights as they are then, by another pass over the same batch: with
                the same random numbers, and such that only the first pass counts for everything else.
        """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            refuse_manual_optimization(trainer, self)
            run_of(trainer).claim_gradient(self, self.change_gradient)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        run = run_of(trainer)
        if run.accumulates(trainer):
            raise ValueError(
                f"{type(self).__name__} takes another pass over the batch of a step, and with accumulation that is "
                "spread over several; use Trainer(accumulate_grad_batches=1), and no max_micro_batch below the batch"
            )
        if run.two_pass_step is None:
            run.two_pass_step = TwoPassStep(trainer, pl_module, run.gradient_changes)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._unwrap(trainer)
        super().teardown(trainer, pl_module, stage)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._unwrap(trainer)
        super().on_exception(trainer, pl_module, exception)

    def _unwrap(self, trainer: Trainer) -> None:
        run = run_of(trainer)
        if run.two_pass_step is not None:
            run.two_pass_step.remove()
            run.two_pass_step = None
