"""Learning rate and batch size by step, where no callback logs them: few points, and no slanting corner."""

from types import SimpleNamespace

import pytest

from lightning_gap import LearningRateScaling
from lightning_gap.recipes.runner.step_curves import StepCurves


class Kept:
    experiment = None

    def __init__(self):
        self.points = {}

    def log_metrics(self, values, step):
        for key, value in values.items():
            self.points.setdefault(key, []).append((step, value))


def seen(rates, *, epoch=4, callbacks=()):
    logger = Kept()
    curves = StepCurves(SimpleNamespace(callbacks=callbacks, loggers=[logger], is_global_zero=True))
    for step, rate in enumerate(rates):
        curves.see(step, {"lr/effective": rate, "batch/size": 32.0}, ends_epoch=(step + 1) % epoch == 0)
    return logger.points


def test_a_constant_has_its_first_step_and_the_last_of_each_epoch():
    assert seen([0.1] * 12)["lr/effective"] == [(0, 0.1), (3, 0.1), (7, 0.1), (11, 0.1)]


def test_a_step_has_the_points_on_both_sides():
    rates = [0.1] * 6 + [0.01] * 6
    assert seen(rates, epoch=100)["lr/effective"] == [(0, 0.1), (5, 0.1), (6, 0.01)]


def test_a_slope_has_every_point_once():
    rates = [step / 10 for step in range(8)]
    assert seen(rates)["lr/effective"] == list(enumerate(rates))


@pytest.mark.parametrize("rank", [True, False])
def test_what_a_callback_logs_is_left_to_it_and_other_processes_write_nothing(rank):
    assert seen([0.1] * 4, callbacks=[LearningRateScaling(8)]) == {}
    logger = Kept()
    curves = StepCurves(SimpleNamespace(callbacks=[], loggers=[logger], is_global_zero=rank))
    curves.see(0, {"lr/effective": 0.1, "batch/size": 32.0}, ends_epoch=True)
    assert bool(logger.points) == rank
