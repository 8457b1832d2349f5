"""Lightning's callbacks that average weights: which module they average into, and when they have put it in place."""

from __future__ import annotations

from lightning.pytorch import Callback, Trainer
from torch import nn
from torch.optim.swa_utils import AveragedModel

from . import _private
from .callbacks import callbacks_of, is_lightnings


def run_after_averaging(trainer: Trainer, callback: Callback) -> None:
    """Let the hooks of a callback run after those of all others, but for the checkpoint callbacks, which stay last.

    For a callback that needs what another does in the same hook: weight averaging puts its weights in place in
    `on_train_end`. The list is replaced, not changed, as Lightning may be going through it.
    """
    others = [other for other in callbacks_of(trainer) if other is not callback]
    saving = [other for other in others if is_lightnings(other, "Checkpoint")]
    rest = [other for other in others if not is_lightnings(other, "Checkpoint")]
    trainer.callbacks = [*rest, callback, *saving]  # type: ignore[attr-defined]


def averaged_models(trainer: Trainer, *, after_steps: bool = False) -> list[AveragedModel]:
    """What `WeightAveraging` callbacks average into; they make it in `setup`.

    With ``after_steps`` those alone that are updated after steps, not at the ends of epochs only.
    """
    found = [other for other in callbacks_of(trainer) if is_lightnings(other, "WeightAveraging")]
    if after_steps:
        found = [other for other in found if not _waits_for_epochs(other)]
    averages = [_private.averaged_model(callback) for callback in found]
    return [average for average in averages if average is not None]


def averaged_modules(trainer: Trainer) -> list[nn.Module]:
    """The averages that `WeightAveraging` callbacks keep beside the module, and save in its place."""
    return [average.module for average in averaged_models(trainer)]


def _waits_for_epochs(averaging: Callback) -> bool:
    """Whether an average is updated at the ends of epochs alone; the general class does so after steps."""
    is_ema = is_lightnings(averaging, "EMAWeightAveraging")
    return is_ema and averaging.update_every_n_steps <= 0  # type: ignore[attr-defined]
