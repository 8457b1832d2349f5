import math

import pytest
import tiny
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from lightning_gap import CurvatureMonitor, LearningRateScaling, OptimizerScaling
from lightning_gap.functional import batch_statistics


class Dense(Callback):
    """The whole Hessian of the loss on all samples, in float64, whenever something is logged."""

    def __init__(self, *, use_batch_statistics=False):
        self.use_batch_statistics = use_batch_statistics
        self.eigenvalues, self.logged = [], []

    def on_train_epoch_end(self, trainer, pl_module):
        module = pl_module.net
        modes = [layer.training for layer in module]
        module.eval()
        weights = dict(module.named_parameters())
        x, y = tiny.dataset().tensors
        names = list(weights)
        sizes = [weights[name].numel() for name in names]

        def loss(flat):
            parts = {n: f.view_as(weights[n]) for n, f in zip(names, torch.split(flat, sizes), strict=True)}
            buffers = {n: b.double() if b.is_floating_point() else b.clone() for n, b in module.named_buffers()}
            return cross_entropy(functional_call(module, {**parts, **buffers}, (x.double(),)), y)

        flat = torch.cat([weights[name].detach().double().flatten() for name in names])
        if self.use_batch_statistics:
            with batch_statistics(module):
                hessian = torch.autograd.functional.hessian(loss, flat)
        else:
            hessian = torch.autograd.functional.hessian(loss, flat)
        for layer, mode in zip(module, modes, strict=True):
            layer.train(mode)
        self.hessian = hessian
        self.eigenvalues.append(torch.linalg.eigvalsh(hessian))

    def on_train_epoch_start(self, trainer, pl_module):
        self.read(trainer)

    def on_train_end(self, trainer, pl_module):
        self.read(trainer)

    def read(self, trainer):
        metrics = {k.removeprefix("curvature/"): float(v) for k, v in trainer.callback_metrics.items()}
        if "lambda_max" in metrics:
            self.logged.append(metrics)


def fit(*callbacks, module=None, epochs=2, **options):
    trainer = tiny.trainer(*callbacks, max_epochs=epochs, **options)
    trainer.fit(module or tiny.TinyClassifier(), tiny.loader())
    return trainer


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_it_logs_the_ends_of_the_dense_hessians_spectrum(mode):
    dense = Dense(use_batch_statistics=mode == "batch")
    monitor = CurvatureMonitor(samples=48, chunk_size=48, tolerance=1e-4, max_products=60, probes=60, batch_norm=mode)
    fit(dense, monitor)
    assert len(dense.logged) == len(dense.eigenvalues) == 2
    for seen, eigenvalues in zip(dense.logged, dense.eigenvalues, strict=True):
        largest = float(eigenvalues.abs().max())
        assert seen["lambda_max"] == pytest.approx(float(eigenvalues[-1]), rel=1e-3)
        assert seen["lambda_min"] == pytest.approx(float(eigenvalues[0]), abs=0.02 * largest)
        assert seen["trace"] == pytest.approx(float(eigenvalues.sum()), abs=5 * seen["trace_standard_error"])
        assert seen["lambda_max_residual"] <= 1.1e-4 * largest


def test_the_edge_is_measured_against_the_largest_rate_in_use():
    class TwoGroups(tiny.TinyClassifier):
        def configure_optimizers(self):
            first, *rest = self.parameters()
            return torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": rest}], lr=0.1)

    metrics = fit(CurvatureMonitor(samples=48), module=TwoGroups()).callback_metrics
    largest = float(metrics["curvature/lambda_max"])
    assert float(metrics["curvature/two_over_lr"]) == pytest.approx(4.0)
    assert float(metrics["curvature/edge"]) == pytest.approx(largest * 0.25, rel=1e-5)


def test_the_rate_is_that_of_the_last_step_whatever_schedulers_did_since():
    class Decays(tiny.TinyClassifier):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD(self.parameters(), lr=0.5)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)]

    metrics = fit(CurvatureMonitor(samples=48), module=Decays(), epochs=2).callback_metrics
    assert float(metrics["curvature/two_over_lr"]) == pytest.approx(2 / 0.05)  # the second epoch's


@pytest.mark.parametrize("monitor_first", [True, False])
def test_a_scaled_rate_counts_as_scaled(monitor_first):
    callbacks = [CurvatureMonitor(samples=48), LearningRateScaling(8, warmup_epochs=0)]
    trainer = fit(*(callbacks if monitor_first else callbacks[::-1]))
    assert float(trainer.callback_metrics["curvature/two_over_lr"]) == pytest.approx(2 / (0.05 * 2))  # 16 to 8 samples


class Ends(Callback):
    """The optimizer's state and rates as the monitor finds them at the end of an epoch."""

    def on_train_epoch_end(self, trainer, pl_module):
        optimizer = trainer.optimizers[0]
        self.p = torch.cat(
            [
                (1 - 0.8 ** float(state["step"]))
                * ((state["exp_avg_sq"] / (1 - 0.9 ** float(state["step"]))).sqrt() + 1e-3).flatten().double()
                for state in (optimizer.state[weight] for weight in pl_module.net.parameters())
            ]
        )


class WithAdam(tiny.TinyClassifier):
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.05, betas=(0.8, 0.9), eps=1e-3)


def test_with_adam_it_logs_the_largest_eigenvalue_of_the_preconditioned_hessian_beside_its_edge():
    dense, ends = Dense(), Ends()
    monitor = CurvatureMonitor(
        samples=48, chunk_size=48, tolerance=1e-4, max_products=60, probes=0, preconditioned=True
    )
    trainer = fit(dense, ends, monitor, LearningRateScaling(8, warmup_epochs=0), module=WithAdam())
    logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
    expected = torch.linalg.eigvalsh(dense.hessian / ends.p.sqrt()[:, None] / ends.p.sqrt())[-1]
    assert logged["curvature/preconditioned_lambda_max"] == pytest.approx(float(expected), rel=1e-3)
    threshold = (2 + 2 * 0.8) / ((1 - 0.8) * 0.05 * 2)  # 16 samples, tuned for 8
    assert logged["curvature/preconditioned_threshold"] == pytest.approx(threshold, rel=1e-6)
    assert logged["curvature/preconditioned_edge"] == pytest.approx(float(expected) / threshold, rel=1e-3)
    assert logged["curvature/preconditioned_lambda_max_residual"] <= 1.1e-4 * float(expected)
    monitor = CurvatureMonitor(samples=48, probes=0, preconditioned=True)
    followed = fit(monitor, OptimizerScaling(8, "adaptive_sqrt"), module=WithAdam()).callback_metrics
    threshold = (2 + 2 * 0.6) / ((1 - 0.6) * 0.05 * math.sqrt(2))  # beta1 0.8 is 0.6 for twice the batch
    assert float(followed["curvature/preconditioned_threshold"]) == pytest.approx(threshold, rel=1e-6)
    plain = fit(CurvatureMonitor(samples=48, probes=0), LearningRateScaling(8, warmup_epochs=0), module=WithAdam())
    assert "curvature/preconditioned_edge" not in plain.callback_metrics


def test_with_sgd_the_edge_is_that_of_its_momentum():
    trainer = fit(CurvatureMonitor(samples=48, probes=0, preconditioned=True))
    logged = {key.removeprefix("curvature/"): float(value) for key, value in trainer.callback_metrics.items()}
    assert logged["preconditioned_lambda_max"] == logged["lambda_max"]
    assert logged["preconditioned_threshold"] == pytest.approx(3.8 / 0.05)


def test_before_the_first_step_adam_has_no_edge_yet(tmp_path):
    monitor = CurvatureMonitor(samples=48, probes=0, preconditioned=True, at_start=True)
    seen = []

    class Reads(Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            seen.append(set(trainer.callback_metrics))

    trainer = fit(monitor, Reads(), module=WithAdam(), epochs=1)
    assert "curvature/lambda_max" in seen[0]
    assert "curvature/preconditioned_edge" not in seen[0]
    assert "curvature/preconditioned_edge" in trainer.callback_metrics


def test_an_optimizer_whose_edge_is_not_known_is_refused_before_the_first_step():
    class Other(tiny.TinyClassifier):
        def configure_optimizers(self):
            return torch.optim.Adagrad(self.parameters())

    module = Other()
    start = tiny.state_of(module)
    with pytest.raises(ValueError, match=r"preconditioned=True cannot be measured: optimizer .* got Adagrad"):
        fit(CurvatureMonitor(samples=48, preconditioned=True), module=module)
    assert tiny.same(tiny.state_of(module), start)


def test_no_probes_log_no_trace():
    metrics = fit(CurvatureMonitor(samples=48, probes=0)).callback_metrics
    assert "curvature/trace" not in metrics
    assert "curvature/lambda_max" in metrics


def test_without_double_backward_it_goes_on_with_finite_differences_and_says_so():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.tanh()

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * (1 - x.tanh() ** 2)

    class Smooth(nn.Module):
        def __init__(self, once):
            super().__init__()
            self.once = once

        def forward(self, x):
            return Once.apply(x) if self.once else x.tanh()

    def module(once):
        made = tiny.TinyClassifier(dropout=0.0)
        made.net[2] = Smooth(once)
        return made

    exact = fit(CurvatureMonitor(samples=48, probes=0), module=module(False), precision="64-true", epochs=1)
    with pytest.warns(UserWarning, match="no double backward"):
        seen = fit(CurvatureMonitor(samples=48, probes=0), module=module(True), precision="64-true", epochs=1)
    key = "curvature/lambda_max"
    assert float(seen.callback_metrics[key]) == pytest.approx(float(exact.callback_metrics[key]), rel=1e-4)


def test_a_diverged_run_goes_on_and_its_curvature_is_missing():
    class Diverges(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (math.nan if self.current_epoch else 1.0)

    with pytest.warns(UserWarning, match="curvature is logged as NaN: the loss at params must be finite"):
        trainer = fit(CurvatureMonitor(samples=48), module=Diverges())
    assert trainer.global_step == 6
    assert math.isnan(float(trainer.callback_metrics["curvature/lambda_max"]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 0}, "samples must be a whole number, at least 1, got 0"),
        ({"probes": -1}, "probes must be a whole number, at least 0, got -1"),
        ({"max_products": 2.5}, "max_products must be a whole number"),
        ({"tolerance": 0.0}, "tolerance must be a number, above 0 and below 1, got 0.0"),
        ({"tolerance": 2}, "tolerance must be a number, above 0 and below 1, got 2"),
        ({"batch_norm": "eval"}, "batch_norm must be one of 'running', 'batch', 'recomputed', got 'eval'"),
        ({"every_n_epochs": 0}, "every_n_epochs must be a whole number, at least 1, got 0"),
        ({"max_time_share": 0}, "max_time_share must be a positive number"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CurvatureMonitor(**arguments)
