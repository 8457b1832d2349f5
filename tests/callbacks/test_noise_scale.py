import copy
import math
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import processes
import pytest
import tiny
import torch
from lightning.pytorch import Callback
from torch.nn.functional import cross_entropy

from lightning_gap import GradientNoiseScaleMonitor
from lightning_gap.functional import DatasetLoss, FixedSubset, GradientNoise, RatioAverage, gradient_noise

NAMES = (
    *("simple_scale", "simple_scale_now", "critical_batch", "critical_batch_now"),
    *("gradient_norm_squared", "variance"),
)


class ByHand(Callback):
    """The gradient of every sample and the whole Hessian, in evaluation mode, whenever an epoch ends."""

    def __init__(self):
        self.found = []

    def on_train_epoch_end(self, trainer, pl_module):
        module = pl_module.net
        modes = [layer.training for layer in module]
        module.eval()
        x, y = tiny.dataset().tensors
        each = [self.gradient(module, x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
        chunks = [self.gradient(module, *batch) for batch in FixedSubset(tiny.dataset(), samples=48, chunk_size=8)]
        for layer, mode in zip(module, modes, strict=True):
            layer.train(mode)
        mean, spread = torch.stack(each).mean(0), torch.stack(chunks) - torch.stack(each).mean(0)
        self.found.append({"norm": float(mean @ mean), "variance": 8 * float(spread.square().sum()) / 5})

    def gradient(self, module, x, y):
        slopes = torch.autograd.grad(cross_entropy(module(x), y), list(module.parameters()))
        return torch.cat([s.flatten() for s in slopes]).double()


class Logged(Callback):
    """What the monitor logged in each epoch."""

    def __init__(self):
        self.seen = []

    def on_train_epoch_start(self, trainer, pl_module):
        self.read(trainer)

    def on_train_end(self, trainer, pl_module):
        self.read(trainer)

    def read(self, trainer):
        found = {k.removeprefix("noise/"): float(v) for k, v in trainer.callback_metrics.items() if "noise/" in k}
        if found:
            self.seen.append(found)


def fit(*callbacks, module=None, epochs=2, **options):
    trainer = tiny.trainer(*callbacks, max_epochs=epochs, **options)
    trainer.fit(module or tiny.TinyClassifier(), tiny.loader())
    return trainer


def monitor(**terms):
    return GradientNoiseScaleMonitor(**({"samples": 48, "chunk_size": 8} | terms))


def test_it_logs_the_measurement_and_the_running_mean_of_what_the_gradients_of_all_samples_give():
    """All samples are measured, so that the gradient has no noise, and the mean is that of the scales."""
    by_hand, logged = ByHand(), Logged()
    fit(by_hand, monitor(decay=0.5, probes=0), logged)
    first, second = (found["variance"] / found["norm"] for found in by_hand.found)
    for seen, found, mean in zip(logged.seen, by_hand.found, (first, first / 3 + second * 2 / 3), strict=True):
        assert seen["gradient_norm_squared"] == pytest.approx(found["norm"], rel=1e-4)
        assert seen["variance"] == pytest.approx(found["variance"], rel=1e-4)
        assert seen["simple_scale_now"] == pytest.approx(found["variance"] / found["norm"], rel=1e-4)
        assert seen["simple_scale"] == pytest.approx(mean, rel=1e-4)


class Simulated(GradientNoiseScaleMonitor):
    """Measures a gradient that shrinks tenfold in two epochs while the noise scale grows slowly, with some chance."""

    slow = False

    def measure(self, trainer, pl_module):
        epoch = trainer.current_epoch
        chance = torch.Generator().manual_seed(epoch)
        size = 10.0 ** (-epoch / 2)
        length, variance, along, across = 1 + 0.05 * torch.randn(4, generator=chance, dtype=torch.float64)
        variance = float(variance) * size * self.scale(epoch)
        norm = float(length) * size
        return GradientNoise(norm, variance, float(along) * norm, float(across) * 2 * variance, norm + variance / 2000)

    @staticmethod
    def scale(epoch):
        return 50.0 + 5 * epoch


@pytest.fixture(scope="module")
def simulated():
    def run(every_n_epochs, slow=()):
        logged, measuring = Logged(), Simulated(samples=48, chunk_size=8, every_n_epochs=every_n_epochs)
        if slow:  # the end of an epoch at which time was left for a measurement
            measuring._budget.allows = lambda trainer, name, share: trainer.current_epoch in slow
        fit(measuring, logged, epochs=16, limit_train_batches=1)
        return logged.seen[-1]

    return [run(1), run("log"), run(1, slow=(0, 1, 2, 5, 15)), run(1, slow=(11, 15))]


@pytest.mark.parametrize(("name", "factor"), [("simple_scale", 1), ("critical_batch", 2)])
def test_neither_the_schedule_nor_the_speed_of_the_machine_nor_early_gradients_decide_the_mean(simulated, name, factor):
    expected = factor * Simulated.scale(15)
    for seen in simulated:
        assert seen[name] == pytest.approx(expected, rel=0.2)
        assert seen[f"{name}_now"] == pytest.approx(expected, rel=0.25)


def test_averages_that_count_every_measurement_alike_are_decided_by_early_gradients():
    """What the mean above is not: seven eighths of the denominator are those of the first two epochs."""
    plain, measuring = RatioAverage(0.5), Simulated()
    for epoch in (0, 1, 3, 7, 15):
        noise = measuring.measure(SimpleNamespace(current_epoch=epoch), None)
        plain.update(noise.variance, noise.gradient_norm_squared)
    assert plain.ratio < 0.5 * Simulated.scale(15)


def test_with_no_decay_each_measurement_stands_alone():
    by_hand, logged = ByHand(), Logged()
    fit(by_hand, monitor(decay=0.0, probes=0), logged)
    for seen, expected in zip(logged.seen, by_hand.found, strict=True):
        assert seen["variance"] == pytest.approx(expected["variance"], rel=1e-4)


def test_the_critical_batch_is_that_of_the_measurement():
    class Compares(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            self.noise = measuring.measure(trainer, pl_module)

    measuring, compares = monitor(decay=0.0), Compares()
    metrics = fit(measuring, compares, epochs=1).callback_metrics
    assert float(metrics["noise/critical_batch"]) == pytest.approx(compares.noise.critical_batch, rel=1e-6)


@pytest.mark.parametrize("probes", [0, 2])
def test_the_critical_batch_is_logged_where_it_has_probes(probes):
    metrics = fit(monitor(probes=probes)).callback_metrics
    assert ("noise/critical_batch" in metrics) == ("noise/critical_batch_now" in metrics) == bool(probes)
    assert "noise/simple_scale" in metrics


def test_a_gradient_lost_in_its_noise_has_no_scale_and_one_warning_says_so():
    def loss_fn(module, batch):  # its gradient is the mean of the inputs
        return (batch[0] * module.net[0].weight[0]).sum(1).mean()

    (x, y), logged = tiny.dataset(8).tensors, Logged()
    measuring = monitor(loss_fn=loss_fn, data=[[x, y], [-x, y]], probes=0)  # two batches that pull against each other
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(measuring, logged)
    told = [str(w.message) for w in caught if "noise/simple_scale" in str(w.message)]
    assert len(told) == 1
    assert "noise/simple_scale or noise/simple_scale_now is NaN, which is said once: |G|^2 comes out as -" in told[0]
    assert "measure more samples" in told[0]
    for seen in logged.seen:
        assert math.isnan(seen["simple_scale"])
        assert math.isnan(seen["simple_scale_now"])
        assert seen["gradient_norm_squared"] < 0 < seen["variance"]


def test_without_repetition_the_gradient_is_that_of_the_training_set():
    """Of all samples nothing is left to chance, of the same samples from elsewhere it is."""
    inside = fit(monitor(probes=0), epochs=1).callback_metrics
    batches = [[batch[0], batch[1]] for batch in FixedSubset(tiny.dataset(), samples=48, chunk_size=8)]
    outside = fit(monitor(probes=0, data=batches), epochs=1).callback_metrics
    assert torch.equal(inside["noise/variance"], outside["noise/variance"])
    norms = [float(metrics["noise/gradient_norm_squared"]) for metrics in (inside, outside)]
    assert norms[0] - norms[1] == pytest.approx(float(inside["noise/variance"]) / 48, rel=1e-4)


def test_a_resumed_run_has_the_averages_of_an_uninterrupted_one(tmp_path):
    def run(epochs, ckpt_path=None):
        trainer = tiny.trainer(monitor(decay=0.9), max_epochs=epochs)
        trainer.fit(tiny.TinyClassifier(dropout=0.0), tiny.loader(), ckpt_path=ckpt_path)
        return trainer

    whole = run(4)
    run(2).save_checkpoint(tmp_path / "half.ckpt")
    resumed = run(4, tmp_path / "half.ckpt")
    for name in NAMES:
        assert torch.equal(whole.callback_metrics[f"noise/{name}"], resumed.callback_metrics[f"noise/{name}"])
    first, second = (t.callbacks[0].state_dict() for t in (whole, resumed))
    assert first == second
    assert set(torch.load(tmp_path / "half.ckpt", weights_only=True)["callbacks"]) >= {monitor().state_key}


def test_a_diverged_run_goes_on_and_its_noise_is_missing():
    class Diverges(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (math.nan if self.current_epoch == 1 else 1.0)

    logged = Logged()
    with pytest.warns(UserWarning, match="gradient noise is logged as NaN: the loss at params and its gradients"):
        trainer = fit(monitor(), logged, module=Diverges())
    assert trainer.global_step == 6
    assert all(math.isnan(logged.seen[-1][name]) for name in NAMES)
    assert all(math.isfinite(value) for value in logged.seen[0].values())


@pytest.mark.parametrize(("samples", "seed"), [(12, 0), (12, 1), (16, 2)])
def test_two_chunks_have_a_critical_batch_of_their_own_or_none_and_never_one_of_rounding(samples, seed):
    measuring, found = monitor(samples=samples, seed=seed, decay=0.0), []

    class Compares(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            found.append(measuring.measure(trainer, pl_module))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = fit(measuring, Compares()).callback_metrics
    assert all(abs(noise.curvature_variance) > 1e-4 * noise.variance for noise in found)
    for name in ("critical_batch", "critical_batch_now"):
        logged = float(metrics[f"noise/{name}"])
        assert math.isnan(logged) or logged == pytest.approx(found[-1].critical_batch, rel=1e-5)


@pytest.mark.parametrize("probes", [0, 2])
def test_samples_that_are_all_alike_show_no_noise_and_no_scale(probes):
    x, y = tiny.dataset(8).tensors
    logged = Logged()
    with pytest.warns(UserWarning, match="the gradients are equal up to rounding, and show no noise"):
        fit(monitor(data=[[x, y]] * 4, probes=probes), logged)
    for seen in logged.seen:
        assert math.isnan(seen["simple_scale"])
        assert math.isnan(seen["simple_scale_now"])
        assert seen["variance"] == 0.0


def test_a_checkpoint_holds_plain_numbers_whatever_the_arguments_were(tmp_path):
    arguments = {"decay": np.float64(0.5), "samples": np.int64(48), "chunk_size": np.int32(8), "probes": np.uint8(1)}
    trainer = fit(GradientNoiseScaleMonitor(**arguments, seed=np.int64(3), max_time_share=np.float32(0.5)))
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    assert torch.load(tmp_path / "plain.ckpt", weights_only=True)["callbacks"]


def test_samples_in_a_single_chunk_are_refused_before_the_first_step():
    with pytest.raises(ValueError, match="the 48 samples are one; pass a smaller chunk_size than 50, or data="):
        fit(GradientNoiseScaleMonitor())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples must be a whole number, at least 1, got 0"),
        ({"chunk_size": 2.5}, r"chunk_size must be a whole number, at least 1, got 2\.5"),
        ({"probes": -1}, "probes must be a whole number, at least 0, got -1"),
        ({"decay": 1.0}, r"decay must be a number, at least 0 and below 1, got 1\.0"),
        ({"batch_norm": "eval"}, "batch_norm must be one of 'running', 'batch', 'recomputed', got 'eval'"),
        ({"every_n_epochs": 0}, "every_n_epochs must be a whole number, at least 1, got 0"),
        ({"max_time_share": 0}, "max_time_share must be a positive number"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradientNoiseScaleMonitor(**arguments)


# Processes: this file, run as a script, trains on two


@pytest.mark.slow
def test_two_processes_measure_and_log_what_one_measures_alone(tmp_path):
    processes.run(__file__, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first["found"] == pytest.approx(first["alone"], rel=1e-8)
    assert first["found"] == second["found"]
    assert first["logged"] == second["logged"]
    assert first["logged"]["noise/variance"] == pytest.approx(first["found"]["variance"])


class Alone(Callback):
    """What the first process measures of all samples, with the same generator."""

    def on_train_epoch_end(self, trainer, pl_module):
        self.found = vars(trainer.callbacks[0].measure(trainer, pl_module))
        self.alone = {}
        if trainer.global_rank == 0:
            subset = FixedSubset(tiny.dataset(), samples=20, chunk_size=4)
            net, batches = copy.deepcopy(pl_module.net), [[x.double(), y] for x, y in subset]
            loss = DatasetLoss(net, lambda n, b: cross_entropy(n(b[0]), b[1]), batches)
            self.alone = vars(gradient_noise(loss, net.parameters(), sizes=subset.sizes, probes=3, population=48))


def main(folder):
    alone = Alone()
    torch.manual_seed(0)
    measuring = monitor(samples=20, chunk_size=4)
    trainer = tiny.trainer(measuring, alone, strategy="ddp", devices=2, precision="64-true", max_epochs=1)
    trainer.fit(tiny.TinyClassifier(), tiny.loader(batch_size=4))
    logged = {key: float(value) for key, value in trainer.callback_metrics.items() if key in measuring.keys}
    result = {"found": alone.found, "alone": alone.alone, "logged": logged}
    torch.save(result, Path(folder) / f"{trainer.global_rank}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
