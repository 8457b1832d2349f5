"""When the monitors measure, and what they do to the run's time; driven through SharpnessMonitor in real runs."""

import time

import pytest
import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gap import CurvatureMonitor, GeneralizationGapMonitor, SharpnessMonitor
from lightning_gap.callbacks import _schedule

KEY = "sharpness/full_eps1e-3"


def steps_logged(folder, key=KEY):
    events = EventAccumulator(str(folder)).Reload()
    return [event.step for event in events.Scalars(key)]


def fit(tmp_path, *callbacks, module=None, **options):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer = tiny.trainer(*callbacks, logger=logger, **options)
    trainer.fit(module or tiny.Validated(), tiny.loader(), tiny.loader(24, seed=2))
    return trainer


@pytest.mark.parametrize(
    ("arguments", "epochs", "expected"),
    [
        ({}, 4, [2, 5, 8, 11]),
        ({"every_n_epochs": 3}, 5, [8, 14]),
        ({"every_n_epochs": "log"}, 11, [2, 5, 11, 23, 32]),
        ({"every_n_epochs": 100, "at_start": True}, 3, [0, 8]),
    ],
)
def test_it_measures_when_asked_and_at_the_end(tmp_path, arguments, epochs, expected):
    """Three steps an epoch; what is logged at an epoch's end has the index of its last step."""
    fit(tmp_path, SharpnessMonitor(1e-3, samples=20, **arguments), max_epochs=epochs)
    assert steps_logged(tmp_path) == expected


@pytest.mark.parametrize(
    ("monitor", "key"),
    [
        (lambda: SharpnessMonitor(1e-3, every_n_epochs=50, samples=20), KEY),
        (lambda: CurvatureMonitor(every_n_epochs=50, samples=20, probes=0), "curvature/lambda_max"),
        (lambda: GeneralizationGapMonitor(every_n_epochs=50, samples=20), "gap/loss"),
    ],
)
def test_a_run_that_early_stopping_ends_is_measured_at_its_end(tmp_path, monitor, key):
    stopping = EarlyStopping("val_loss", stopping_threshold=1e9)  # at the end of the first epoch
    trainer = fit(tmp_path, monitor(), stopping, max_epochs=20)
    assert trainer.global_step == 3
    assert steps_logged(tmp_path, key) == [2]
    assert key in trainer.callback_metrics


def test_a_run_that_is_stopped_inside_an_epoch_is_measured_at_its_end(tmp_path):
    class Stops(Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == 2

    trainer = fit(tmp_path, SharpnessMonitor(1e-3, every_n_epochs=50, samples=20), Stops(), max_epochs=20)
    assert steps_logged(tmp_path) == [trainer.global_step - 1]


def test_the_value_before_the_first_step_is_that_of_the_first_weights(tmp_path):
    class Keeps(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step == 1:
                self.loss = float(trainer.callback_metrics["sharpness/loss"])

    keeps = Keeps()
    fit(tmp_path, SharpnessMonitor(1e-3, samples=48, at_start=True), keeps, max_epochs=1)
    module = tiny.Validated().eval()
    x, y = tiny.dataset().tensors
    expected = float(torch.nn.functional.cross_entropy(module(x), y).detach())
    assert keeps.loss == pytest.approx(expected, rel=1e-5)


class Slow(tiny.Validated):
    """An epoch of three steps takes 0.15 s, and a measurement of one batch longer than that."""

    def training_step(self, batch, batch_idx):
        time.sleep(0.05)
        return super().training_step(batch, batch_idx)


@pytest.mark.promise("slow")
def test_a_slow_measurement_waits_until_its_share_of_the_time_allows_it(tmp_path, monkeypatch):
    """0.3 s a measurement against 0.15 s an epoch, a share of one half: every fourth epoch or so, and the last."""
    monkeypatch.setattr(_schedule, "FREE_SECONDS", 0.0)
    monitor = SharpnessMonitor(1e-3, samples=16, chunk_size=16, max_time_share=0.5, max_evaluations=3)
    with pytest.warns(UserWarning, match=r"SharpnessMonitor: a measurement takes .* pass max_time_share=None") as told:
        fit(tmp_path, monitor, module=Slow(), max_epochs=12)
    steps = steps_logged(tmp_path)
    assert steps[0] == 2
    assert steps[-1] == 35
    assert 3 <= len(steps) <= 9
    assert sum("max_time_share" in str(warning.message) for warning in told) == 1


def test_without_a_limit_every_measurement_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(_schedule, "FREE_SECONDS", 0.0)
    monitor = SharpnessMonitor(1e-3, samples=16, chunk_size=16, max_time_share=None, max_evaluations=3)
    fit(tmp_path, monitor, module=Slow(), max_epochs=4)
    assert steps_logged(tmp_path) == [2, 5, 8, 11]


def test_the_first_seconds_are_free(tmp_path):
    fit(tmp_path, SharpnessMonitor(1e-3, samples=20, max_time_share=1e-9), max_epochs=4)
    assert steps_logged(tmp_path) == [2, 5, 8, 11]


def test_a_csv_logger_gets_the_last_value_too(tmp_path):
    logger = CSVLogger(tmp_path)
    stopping = EarlyStopping("val_loss", stopping_threshold=1e9)
    trainer = tiny.trainer(SharpnessMonitor(1e-3, every_n_epochs=50), stopping, logger=logger, max_epochs=9)
    trainer.fit(tiny.Validated(), tiny.loader(), tiny.loader(24, seed=2))
    assert KEY in (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
