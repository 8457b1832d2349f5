"""`SharpnessMonitor(accurate_at_end=True)`: one value to publish, beside the curve and never in it."""

import csv
import math
import sys

import pytest
import tiny
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.nn.functional import cross_entropy

from lightning_gap import SharpnessMonitor
from lightning_gap.functional import sharpness

EPSILONS = (0.05, 0.02)
KEYS = {epsilon: f"sharpness/full_eps{epsilon * 100:g}e-2" for epsilon in EPSILONS}


def monitor(**terms):
    return SharpnessMonitor(EPSILONS, **{"samples": 16, "accurate_at_end": True, **terms})


def fitted(*callbacks, module=None, samples=48, ckpt_path=None, **options):
    trainer = tiny.trainer(*callbacks, **options)
    trainer.fit(module or tiny.TinyClassifier(), tiny.loader(samples), ckpt_path=ckpt_path)
    return trainer


def by_hand(trainer, samples, **terms):
    module = trainer.lightning_module.eval()
    x, y = tiny.dataset(samples).tensors
    return sharpness(lambda: cross_entropy(module(x), y), module.parameters(), max_evaluations=5, **terms)


def rows(folder, key):
    with open(folder / "lightning_logs" / "version_0" / "metrics.csv", newline="") as file:
        return [float(row[key]) for row in csv.DictReader(file) if row.get(key)]


def test_it_is_the_highest_of_three_searches_on_all_samples():
    watched = monitor()
    trainer = fitted(watched, samples=100)
    for epsilon, found in zip(EPSILONS, watched.final, strict=True):
        logged = float(trainer.callback_metrics[f"{KEYS[epsilon]}_final"])
        assert logged == pytest.approx(found.percent, rel=1e-6)
        assert (found.method, found.samples, found.epsilon) == ("best", 100, epsilon)
        assert found.found_by in ("corner", "lbfgsb", "lbfgsb after corner")
        whole = [by_hand(trainer, 100, epsilon=epsilon, method=method) for method in ("corner", "lbfgsb")]
        assert logged >= 0.999 * max(one.percent for one in whole)  # these do not begin on halves; float32
        assert found.evaluations > sum(one.evaluations for one in whole) - 1
        assert float(trainer.callback_metrics["sharpness/loss_final"]) == pytest.approx(whole[0].loss, rel=1e-5)
    assert set(watched.keys) <= set(trainer.callback_metrics)


def test_the_ascent_is_on_as_many_samples_as_asked_for_and_the_loss_on_all():
    class Sizes(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            if not self.training:
                seen.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    counts = {}
    for accurate_samples in (20, 200):
        seen = []
        watched = monitor(accurate_samples=accurate_samples, max_evaluations=2, chunk_size=1000)
        fitted(watched, module=Sizes(), samples=300, max_epochs=1)
        assert all(found.samples == 300 for found in watched.final)  # what is reported
        assert seen.count(accurate_samples) >= sum(found.evaluations - 1 for found in watched.final)
        counts[accurate_samples] = max(seen)
    assert counts == {20: 300, 200: 300}


def test_the_curve_is_the_same_with_it_and_the_value_stands_once_under_its_own_key(tmp_path):
    plain = tmp_path / "plain"
    fitted(monitor(accurate_at_end=False), logger=CSVLogger(plain), max_epochs=3)
    fitted(monitor(), logger=CSVLogger(tmp_path), max_epochs=3)
    for key in KEYS.values():
        assert rows(tmp_path, key) == rows(plain, key)
        assert len(rows(tmp_path, key)) == 3
        assert len(rows(tmp_path, f"{key}_final")) == 1
        assert rows(plain, f"{key}_final") == []


def test_a_share_of_the_time_that_allows_nothing_does_not_keep_it_away():
    watched = monitor(max_time_share=1e-9)
    fitted(watched)
    assert len(watched.final) == 2


def test_a_run_that_stops_early_has_it():
    watched = monitor()
    trainer = fitted(watched, EarlyStopping("loss", check_on_train_epoch_end=True, stopping_threshold=99.0))
    assert trainer.current_epoch == 1
    assert f"{KEYS[0.05]}_final" in trainer.callback_metrics


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_an_exception_ends_has_none(error, tmp_path):
    class Fails(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            if self.training and self.global_step == 4:
                raise error("user's own")
            return super().training_step(batch, batch_idx)

    watched = monitor()
    with pytest.raises((error, SystemExit)):
        fitted(watched, module=Fails(), logger=CSVLogger(tmp_path))
    assert watched.final == ()
    assert len(rows(tmp_path, KEYS[0.05])) == 1
    assert rows(tmp_path, f"{KEYS[0.05]}_final") == []


def test_a_resumed_run_ends_with_the_same_value(tmp_path):
    certain = lambda: tiny.TinyClassifier(dropout=0.0)  # noqa: E731  dropout would go on with other random numbers
    whole, half, resumed = monitor(), monitor(), monitor()
    fitted(whole, module=certain(), max_epochs=3)
    fitted(half, module=certain(), max_epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    fitted(resumed, module=certain(), max_epochs=3, ckpt_path=tmp_path / "half.ckpt")
    percents = [[found.percent for found in watched.final] for watched in (whole, half, resumed)]
    assert percents[2] == percents[0] != percents[1]


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_run_killed_during_it_makes_it_when_resumed_and_a_finished_one_does_not_again(tmp_path):
    class Killed(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            if killing and not self.training and len(batch[0]) == 48:  # only the last measurement takes all
                raise KeyboardInterrupt
            return super().training_step(batch, batch_idx)

    def run(ckpt_path=None):
        watched, keep = monitor(), ModelCheckpoint(tmp_path, save_last=True)
        trainer = fitted(watched, keep, module=Killed(dropout=0.0), ckpt_path=ckpt_path, enable_checkpointing=True)
        return trainer, watched.final

    killing = True
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run()
    killing = False
    trainer, resumed = run(tmp_path / "last.ckpt")
    trainer.save_checkpoint(tmp_path / "finished.ckpt")
    assert [found.percent for found in resumed] == [found.percent for found in run()[1]]
    assert len(resumed) == 2
    assert run(tmp_path / "finished.ckpt")[1] == ()


def test_a_second_fit_without_a_value_does_not_keep_the_first_ones():
    class Diverges(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (math.nan if self.current_epoch else 1.0)

    watched = monitor()
    fitted(watched)
    with pytest.warns(UserWarning, match="sharpness is logged as NaN"):
        trainer = fitted(watched, module=Diverges())
    assert watched.final == ()
    assert math.isnan(float(trainer.callback_metrics[f"{KEYS[0.05]}_final"]))


def test_in_a_ball_it_is_the_ascent_along_the_gradient():
    watched = monitor(norm="l2")
    trainer = fitted(watched)
    assert [found.method for found in watched.final] == ["corner", "corner"]
    expected = by_hand(trainer, 48, epsilon=0.05, norm="l2")
    assert float(trainer.callback_metrics["sharpness/l2_eps5e-2_final"]) == pytest.approx(expected.percent, rel=5e-3)


def test_without_scipy_it_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(ImportError, match="accurate_at_end=True needs SciPy; install scipy, or leave it out"):
        monitor()
    monitor(norm="l2")
    monitor(accurate_at_end=False)


@pytest.mark.parametrize("value", [0, 2.5, True])
def test_a_number_of_samples_that_is_none_is_refused(value):
    with pytest.raises(
        ValueError, match=f"accurate_samples must be a whole number of samples, at least 1, got {value}"
    ):
        monitor(accurate_samples=value)
