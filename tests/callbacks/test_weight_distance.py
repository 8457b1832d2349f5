import math

import numpy as np
import pytest
import tiny
import torch
from lightning.pytorch import Callback
from scipy import stats
from torch import nn

from lightning_gap import WeightDistanceMonitor


class ByHand(Callback):
    """NumPy's norm of the weights' way since the start, and SciPy's regression on the logarithm of the step."""

    def __init__(self):
        self.steps, self.distances, self.logged = [], [], []

    def on_train_start(self, trainer, pl_module):
        self.start = np.concatenate([p.detach().numpy().ravel().copy() for p in pl_module.parameters()])

    def on_train_epoch_end(self, trainer, pl_module):
        now = np.concatenate([p.detach().numpy().ravel() for p in pl_module.parameters()])
        self.steps.append(trainer.global_step)
        self.distances.append(float(np.linalg.norm((now - self.start).astype(np.float64))))
        keys = ("distance_from_init", "log_slope", "log_r2")
        self.logged.append([float(trainer.callback_metrics.get(f"weights/{key}", math.nan)) for key in keys])


def test_it_logs_the_distance_and_its_fit_against_the_logarithm_of_the_step():
    by_hand = ByHand()
    tiny.trainer(WeightDistanceMonitor(), by_hand, max_epochs=5).fit(tiny.TinyClassifier(), tiny.loader())
    assert [row[0] for row in by_hand.logged] == pytest.approx(by_hand.distances, rel=1e-5)
    assert all(math.isnan(row[1]) for row in by_hand.logged[:2])
    line = stats.linregress(np.log(by_hand.steps), by_hand.distances)
    assert by_hand.logged[-1][1:] == pytest.approx([line.slope, line.rvalue**2], rel=1e-4)


def test_a_resumed_run_measures_from_the_first_start(tmp_path):
    trainer = tiny.trainer(WeightDistanceMonitor(), max_epochs=2)
    module = tiny.TinyClassifier(dropout=0.0)
    trainer.fit(module, tiny.loader())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    elsewhere = tiny.TinyClassifier(dropout=0.0, seed=9)  # a new process starts from other random weights
    resumed = tiny.trainer(WeightDistanceMonitor(), max_epochs=4)
    resumed.fit(elsewhere, tiny.loader(), ckpt_path=tmp_path / "half.ckpt")
    initial = tiny.TinyClassifier(dropout=0.0)
    expected = math.sqrt(
        sum((a - b).square().sum().item() for a, b in zip(elsewhere.parameters(), initial.parameters(), strict=True))
    )
    assert float(resumed.callback_metrics["weights/distance_from_init"]) == pytest.approx(expected, rel=1e-5)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    trainer = tiny.trainer(WeightDistanceMonitor(), max_epochs=1)
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    module = tiny.TinyClassifier()
    module.net.append(nn.Linear(3, 3))
    module.strict_loading = False
    with pytest.raises(ValueError, match=r"differ in parameters: net\.5\.bias, net\.5\.weight"):
        tiny.trainer(WeightDistanceMonitor(), max_epochs=2).fit(module, tiny.loader(), ckpt_path=tmp_path / "run.ckpt")


def test_weights_that_are_unfrozen_on_the_way_count():
    class Unfreezes(tiny.TinyClassifier):
        def on_train_epoch_start(self):
            self.net[0].requires_grad_(self.current_epoch > 0)

    by_hand = ByHand()
    tiny.trainer(WeightDistanceMonitor(), by_hand, max_epochs=3).fit(Unfreezes(), tiny.loader())
    assert [row[0] for row in by_hand.logged] == pytest.approx(by_hand.distances, rel=1e-5)


def test_a_checkpoint_that_knows_no_start_is_said_so(tmp_path):
    trainer = tiny.trainer(max_epochs=1)
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    with pytest.warns(UserWarning, match="saved without WeightDistanceMonitor"):
        tiny.trainer(WeightDistanceMonitor(), max_epochs=2).fit(
            tiny.TinyClassifier(), tiny.loader(), ckpt_path=tmp_path / "run.ckpt"
        )


@pytest.mark.filterwarnings(
    "ignore:Lazy modules", "ignore:The total number of parameters", "ignore:A layer with Uninit"
)
def test_lazy_weights_are_refused_by_name():
    module = tiny.TinyClassifier()
    module.net[0] = nn.LazyLinear(16)
    with pytest.raises(ValueError, match=r"parameter net\.0\.weight is lazy"):
        tiny.trainer(WeightDistanceMonitor()).fit(module, tiny.loader())


def test_every_n_epochs_must_be_positive():
    with pytest.raises(ValueError, match="every_n_epochs must be a whole number, at least 1, got 0"):
        WeightDistanceMonitor(every_n_epochs=0)


def test_its_state_holds_plain_types_only():
    monitor = WeightDistanceMonitor()
    tiny.trainer(monitor).fit(tiny.TinyClassifier(), tiny.loader())
    state = monitor.state_dict()
    assert {type(value) for value in state["start"].values()} == {torch.Tensor}
    assert all(type(value) is float for value in state["distances"])
