"""`plot` of every monitor: matplotlib's axes in and out, from the values that the monitor holds."""

import sys
from functools import cache

import pytest
import tiny
import torch
from contract.registry import REGISTRY
from matplotlib.figure import Figure

from lightning_gap import GeneralizationGapMonitor, SharpnessMonitor
from lightning_gap.callbacks._history import MOST, note

MONITORS = sorted(name for name, entry in REGISTRY.items() if entry.is_monitor)
MAIN = {
    "CriticalSharpnessMonitor": "curvature/critical_sharpness",
    "CurvatureMonitor": "curvature/lambda_max",
    "GeneralizationGapMonitor": "gap/accuracy",
    "GradientNoiseScaleMonitor": "noise/simple_scale",
    "SharpnessMonitor": "sharpness/full_eps1e-3",
    "WeightDistanceMonitor": "weights/distance_from_init",
}


def fit(*callbacks, epochs=3, ckpt_path=None, **options):
    torch.manual_seed(0)
    trainer = tiny.trainer(*callbacks, max_epochs=epochs, **options)
    trainer.fit(tiny.Validated(dropout=0.0), tiny.loader(), tiny.loader(24, seed=2), ckpt_path=ckpt_path)
    return trainer


@cache
def fitted():
    callbacks = {name: REGISTRY[name].make() for name in MONITORS}
    return callbacks, fit(*callbacks.values()).callback_metrics


@pytest.mark.parametrize("name", MONITORS)
def test_each_monitor_draws_what_it_logged(name):
    callbacks, metrics = fitted()
    figure, axes = callbacks[name].plot()
    assert isinstance(figure, Figure)
    assert axes.get_xlabel() == "optimizer step"
    assert set(MAIN) == set(MONITORS)
    _, drawn = (list(values) for values in axes.lines[0].get_data())
    assert drawn[-1] == pytest.approx(float(metrics[MAIN[name]]), rel=1e-6)
    labels = [line.get_label() for line in axes.lines]
    assert labels[0] == MAIN[name].split("/")[1]


@pytest.mark.parametrize("name", MONITORS)
def test_it_draws_on_given_axes_one_of_any_name(name):
    monitor = fitted()[0][name]
    figure = Figure()
    axes = figure.subplots(1, 2)
    last = [each for each in monitor.history[-1] if each != "step"][-1]
    assert monitor.plot(last, ax=axes[1]) == (figure, axes[1])
    assert not axes[0].lines
    (line,) = axes[1].lines
    assert axes[1].get_ylabel() == last
    assert line.get_xdata()[-1] == monitor.history[-1]["step"]
    with pytest.raises(ValueError, match=r"names must be of .*got 'volume'"):
        monitor.plot("volume")


@pytest.mark.parametrize("name", MONITORS)
def test_before_anything_was_measured_and_without_matplotlib_it_says_what_to_do(name, monkeypatch):
    with pytest.raises(RuntimeError, match=rf"{name}.plot .* fit first"):
        REGISTRY[name].make().plot()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"install lightning-gap\[recipes\]"):
        fitted()[0][name].plot()


def test_a_resumed_run_draws_the_whole_curve_and_a_new_fit_begins_anew(tmp_path):
    whole, first, second = (SharpnessMonitor(samples=20) for _ in range(3))
    fit(whole)
    fit(first, epochs=2).save_checkpoint(tmp_path / "run.ckpt")
    fit(second, ckpt_path=tmp_path / "run.ckpt")
    assert second.history == whole.history
    assert [point["step"] for point in second.history] == [3, 6, 9]
    fit(second, epochs=1)
    assert [point["step"] for point in second.history] == [3]


def test_the_gap_in_loss_is_drawn_where_no_accuracy_is_known():
    monitor = GeneralizationGapMonitor(samples=20, loss_fn=lambda module, batch: (module(batch[0]) ** 2).mean())
    fit(monitor)
    _, axes = monitor.plot()
    assert axes.get_ylabel() == "loss"


def test_a_run_of_any_length_is_held():
    history = []
    for step in range(3 * MOST):
        note(history, step, {"a": 1.0})
        assert len(history) <= MOST
    steps = [point["step"] for point in history]
    assert steps[0] == 0
    assert steps[-1] == 3 * MOST - 1
    assert steps == sorted(set(steps))
