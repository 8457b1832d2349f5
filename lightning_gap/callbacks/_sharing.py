"""Whose gradient a plugin changes, said in samples: those of a step, of a process or of a micro-batch."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer

from ..trainer.callbacks import accumulation_scheduled
from ._gradient_change import GradientChange, Sees
from ._plugin import Plugin
from ._run import run_of


class SharingPlugin(Plugin):
    """A plugin with the argument ``m``, the samples whose gradient it changes at a time; ``None`` for the batch."""

    m: int | None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        run = run_of(trainer)
        if self.m is not None and run.decides_batch_size:
            raise ValueError(
                f"m={self.m} samples are not those of a step, of a process or of a micro-batch throughout a run whose "
                "batch size is decided as it goes; leave m out, or plan the sizes with BatchSizeScheduler"
            )
        splits = _splits_to_come(trainer)
        for micro_batch_size, accumulate in splits:
            for other in run.gradient_changes:
                self._refuse_another_sight(trainer, other, micro_batch_size, accumulate)
        self.sees = self._shared_by(trainer, *splits[0])

    def changes_this_step(self, trainer: Trainer) -> bool:
        micro_batch_size = run_of(trainer).micro_batch_size(trainer)
        self.sees = self._shared_by(trainer, micro_batch_size, trainer.accumulate_grad_batches)
        return super().changes_this_step(trainer)

    def _refuse_another_sight(
        self, trainer: Trainer, other: GradientChange, micro_batch_size: int | None, accumulate: int
    ) -> None:
        split = micro_batch_size, accumulate
        own = self._shared_by(trainer, *split)
        theirs = other._shared_by(trainer, *split) if isinstance(other, SharingPlugin) else other.sees
        if own != theirs:
            told = f"{type(self).__name__} changes the gradient of a {own}, {type(other).__name__} that of a {theirs}"
            raise ValueError(
                f"m={self.m}: {told.replace('_', '-')}, with {accumulate} batches of {micro_batch_size} samples to a "
                "step; give both the same m, or leave it out"
            )

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


def _splits_to_come(trainer: Trainer) -> list[tuple[int | None, int]]:
    """Samples of a batch, and batches of a step, in the epochs to come as far as they are known."""
    run = run_of(trainer)
    if run.planned:
        return [(split.micro_batch_size, split.accumulate) for split in run.planned]
    # Lightning's own schedule sets the first factor only when the first epoch begins.
    factors = accumulation_scheduled(trainer) or [trainer.accumulate_grad_batches]
    return [(run.micro_batch_size(trainer), factor) for factor in factors]
