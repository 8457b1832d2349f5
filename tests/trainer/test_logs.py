"""What a step had is logged in the batches in which Lightning writes."""

import pytest
import tiny
from lightning.pytorch import Callback

from lightning_gap.trainer import logs


class Asked(Callback):
    """The batches in which values are asked for, and those in which Lightning says that it writes."""

    def __init__(self, stop_after):
        self.stop_after, self.asked, self.lightnings = stop_after, [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        number = trainer.fit_loop.total_batch_idx
        if number == self.stop_after:
            trainer.should_stop = True
        if trainer._logger_connector.should_update_logs:
            self.lightnings.append(number)
        logs.log_step(trainer, pl_module, lambda: self.asked.append(number) or {})


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("every", [0, 1, 3, 50])
@pytest.mark.parametrize("stop_after", [None, 7])
def test_values_are_asked_for_where_lightning_writes_and_at_the_ends_of_epochs(accumulate, every, stop_after):
    asked = Asked(stop_after)
    trainer = tiny.trainer(asked, accumulate_grad_batches=accumulate, log_every_n_steps=every, max_epochs=3)
    trainer.fit(tiny.TinyClassifier(), tiny.loader(80, batch_size=16))  # five batches an epoch
    last = asked.asked[-1] if asked.asked else 0
    ends = {accumulate - 1, *(batch for batch in (4, 9, 14) if batch <= last)} if every else set()
    assert asked.asked == sorted({*asked.lightnings, *ends})
    assert bool(asked.asked) == (every > 0)
