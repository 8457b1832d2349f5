"""Resume a run exactly where it was saved."""

from __future__ import annotations

from ._callback import GapCallback


class ResumeExactly(GapCallback):
    """Fix what Lightning restores differently from what a checkpoint has saved.

    With it in the Trainer that saves and in the one that resumes, a run with a `ResumableLoader` that is stopped at any
    step, and resumed, ends bit for bit as if it had not been stopped. Lightning alone loses the position of such a
    loader where `configure_optimizers` reads `estimated_stepping_batches`, miscounts epochs after a checkpoint that
    was saved with the last batch of one or ended by ``max_steps``, and forgets what ``log(..., on_epoch=True)`` has
    gathered of the epoch. The callbacks of this package that change the batch size, the learning rate or the
    accumulation do the same by themselves; with several of them it is done once. Logs nothing.
    """

    resumes_exactly = True

    def __init__(self) -> None:
        super().__init__()
