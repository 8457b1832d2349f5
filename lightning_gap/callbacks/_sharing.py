"""Whose gradient a plugin changes, said in samples: those of a step, of a process or of a micro-batch."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer

from ._extra_pass import Sees
from ._plugin import Plugin
from ._run import run_of


class SharingPlugin(Plugin):
    """A plugin with the argument ``m``, the samples whose gradient it changes at a time; ``None`` for the batch."""

    m: int | None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        for split in run_of(trainer).planned:
            self._shared_by(trainer, split.micro_batch_size, split.accumulate)
        self.sees = self._shared_now(trainer)

    def changes_this_step(self, trainer: Trainer) -> bool:
        self.sees = self._shared_now(trainer)
        return super().changes_this_step(trainer)

    def _shared_now(self, trainer: Trainer) -> Sees:
        return self._shared_by(trainer, run_of(trainer).micro_batch_size(trainer), trainer.accumulate_grad_batches)

    def _shared_by(self, trainer: Trainer, micro_batch_size: int | None, accumulate: int) -> Sees:
        if self.m is None:
            return "step"
        if micro_batch_size is None:
            raise ValueError(f"m={self.m} samples: the train loader does not state how many a batch has; leave m out")
        of_process = micro_batch_size * accumulate
        sizes: dict[int, Sees] = {micro_batch_size: "micro_batch", of_process: "process"}
        sizes[of_process * trainer.world_size] = "step"
        if self.m not in sizes:
            raise ValueError(
                f"m={self.m} samples must be those of a step, of a process or of a micro-batch, here "
                f"{' or '.join(map(str, sorted(sizes)))}; for others load batches of m samples and set "
                "Trainer(accumulate_grad_batches=...)"
            )
        return sizes[self.m]
