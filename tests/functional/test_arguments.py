"""Every argument of every public function, fed what it is not: refused by name, or taken for what it says."""

import inspect

import pytest
import torch
from odd_arguments import FUNCTIONS, feed
from odd_values import ODD
from torch import nn
from torch.utils.data import TensorDataset
from torchvision.models.resnet import BasicBlock

import lightning_gap
from lightning_gap import data, functional, logging
from lightning_gap.functional import (
    AdaBatch,
    BatchSizeTest,
    DatasetLoss,
    FixedSubset,
    GeometricGrowth,
    GhostBatchNorm1d,
    GradientNoise,
    GradientStatistics,
    RandomSubspace,
    RatioAverage,
    SmithGrowth,
)

# What functions return, made by them alone; aliases of types; and classes whose arguments those of others are.
RESULTS = {
    *("AverageSharpness", "BatchTest", "Eigenvalues", "EpochBatch", "GradientNoise", "GroupedSharpness", "LogFit"),
    *("LongerTraining", "MicroBatching", "Sharpness", "SpectralDensity", "SubspaceSharpness", "SwapReport", "Trace"),
    *("GroupCorrelation", "RankCorrelation", "SharpShare"),
    *("BatchSharpness", "CriticalSharpness", "OptimizerEdge"),
    *("Barrier", "PointValues", "WeightPlane"),
}
TYPES = {"BatchNormMode", "Schedule", "Unit", "Augmentation"}
ERRORS = {name for name, value in vars(functional).items() if inspect.isclass(value) and issubclass(value, Exception)}
SAME = {"GhostBatchNorm2d": "GhostBatchNorm1d", "GhostBatchNorm3d": "GhostBatchNorm1d"}
TORCHS_OWN = {"device", "dtype"}
# What they return or raise is their own, as is what a batch holds that the user's function reads.
CALLABLE = {
    "loss_fn",
    "logits_of",
    "gradients_at",
    "report_on",
    "schedule",
    "rule",
    "run",
    "measure",
    "observe",
    "evaluation_mode",
    "count",
    "collate_fn",
    "decay",
    "source",
}


OPAQUE, BATCHES = {"loader"}, ("nested", "list of nan")


def weight(size=30):
    return torch.ones(size, dtype=torch.float64, requires_grad=True)


def of_weights(**needed):
    """A loss of its own for each call, and the weights that it is of."""
    w = weight()
    return {"loss_fn": lambda: w.square().sum(), "params": [w], **needed}


def of_parts():
    w = weight()
    return {"loss_fn": lambda: ((w * k).square().sum() / 4 for k in (1, 2, 3, 4)), "params": [w], "sizes": [2] * 4}


def of_stepped():
    w = weight()
    return {"optimizer": torch.optim.SGD([w], lr=0.1), "params": [w], "learning_rates": [0.2]}


def of_layers():
    w = weight()
    return {"loss_fn": lambda: w.sum(), "params": {"a.w": w}}


def of_groups(**needed):
    w = weight()
    return {"loss_fns": [lambda: w.sum()], "params": [w], **needed}


def of_logits():
    batch = (torch.ones(3, 2), torch.zeros(3, dtype=torch.long))
    return {
        "module": nn.Linear(2, 4),
        "logits_of": lambda m, b: (m(b[0]), b[1]),
        "batches": [batch],
        "epsilon": 0.1,
    }


def statistics(**needed):
    return {"statistics": GradientStatistics(2, 8, 20.0, 5.0, 40.0), **needed}


def of_one_weight(**needed):
    w = weight(4)
    return {"loss_fn": lambda: w.square().sum(), "weights": [w], **needed}


def of_inputs():
    return {"loss_fn": lambda x: x.sum(), "inputs": torch.ones(2, 4), "epsilon": 0.1}


def of_optimizer():
    w = weight(4)
    return {"loss_fn": lambda: w.square().sum(), "weights": [w], "optimizer": torch.optim.SGD([w], lr=0.1)}


def pairs(**needed):
    return {"weights": [torch.ones(4)], "gradients": [torch.ones(4)], **needed}


def line():
    return {
        "module": nn.Linear(2, 1),
        "start": nn.Linear(2, 1).state_dict(),
        "end": nn.Linear(2, 1).state_dict(),
        "alphas": [0.0],
        "measure": lambda: 1.0,
    }


def of_states(**needed):
    return {"module": nn.Linear(2, 1, bias=False), **needed}


def state(x=1.0, y=0.0):
    return {"weight": torch.tensor([[x, y]])}


def made(kind, method, *needed):
    """A method of a fresh object."""
    return lambda **given: getattr(kind(*needed), method)(**given)


# What each call cannot do without: made anew for every value.
CALLS = {
    "AccumulationWindow": (functional.AccumulationWindow, dict),
    "AccumulationWindow.add": (made(functional.AccumulationWindow, "add"), lambda: {"samples": 8, "divisor": 2}),
    "AccumulationWindow.finish": (
        made(functional.AccumulationWindow, "finish"),
        lambda: {"samples_of_all": 8, "processes": 2},
    ),
    "AdaBatch": (AdaBatch, lambda: {"batch_size": 8, "max_batch_size": 64}),
    "AdaBatch.__call__": (made(AdaBatch, "__call__", 8, 64), lambda: {"epoch": 1}),
    "BatchSizeTest": (BatchSizeTest, lambda: {"test": "norm"}),
    "BatchSizeTest.update": (
        made(BatchSizeTest, "update", "cabs"),
        lambda: statistics(batch_size=16, learning_rate=0.1, loss=1.0),
    ),
    "DatasetLoss": (
        DatasetLoss,
        lambda: {
            "module": nn.Linear(2, 1),
            "loss_fn": lambda m, b: m(b).mean(),
            "batches": [torch.ones(3, 2)],
            "sizes": [3],
        },
    ),
    "FixedSubset": (FixedSubset, lambda: {"dataset": TensorDataset(torch.ones(4))}),
    "GeometricGrowth": (GeometricGrowth, lambda: {"batch_size": 8, "max_batch_size": 64}),
    "GeometricGrowth.__call__": (made(GeometricGrowth, "__call__", 8, 64), lambda: {"epoch": 1}),
    "GhostBatchNorm1d": (GhostBatchNorm1d, lambda: {"num_features": 2, "ghost_batch_size": 4}),
    "GradientNoise.reason": (made(GradientNoise, "reason", -1.0, 2.0), lambda: {"scale": "simple_scale"}),
    "GradientStatistics": (
        GradientStatistics,
        lambda: {
            "gradients": 2,
            "samples_each": 8,
            "sum_of_norms_squared": 20.0,
            "mean_norm_squared": 5.0,
            "sum_of_products_squared": 40.0,
        },
    ),
    "PointValues.grid": (
        made(functional.PointValues, "grid", {"train": {"loss": [1.0]}}, (1,), 1, ""),
        lambda: {"split": "train", "name": "loss"},
    ),
    "RandomSubspace": (RandomSubspace, dict),
    "RatioAverage": (RatioAverage, lambda: {"decay": 0.5}),
    "RatioAverage.update": (made(RatioAverage, "update", 0.5), lambda: {"numerator": 1.0, "denominator": 2.0}),
    "SmithGrowth": (SmithGrowth, lambda: {"batch_size": 8, "milestones": (3,), "max_batch_size": 64}),
    "SmithGrowth.__call__": (made(SmithGrowth, "__call__", 8, (3,), 64), lambda: {"epoch": 1}),
    "SpectralDensity.density": (
        made(functional.SpectralDensity, "density", torch.zeros(1).double(), torch.ones(1).double(), True),
        lambda: {"grid": torch.zeros(3), "width": 0.1},
    ),
    "adaptive_sharpness": (functional.adaptive_sharpness, of_logits),
    "WeightCurve": (functional.WeightCurve, lambda: {"nodes": [state(), state(2.0)], "kind": "chain"}),
    "WeightCurve.points": (
        made(functional.WeightCurve, "points", [state(), state(2.0)], "chain"),
        lambda: {"ts": [0.5]},
    ),
    "WeightCurve.weights_at": (
        made(functional.WeightCurve, "weights_at", [state(), state(2.0)], "chain"),
        lambda: {"t": 0.5},
    ),
    "WeightPlane.points": (
        made(functional.WeightPlane, "points", state(), (state(),), ((0.0,),)),
        lambda: {"steps": [[0.0, 1.0]]},
    ),
    "WeightPoints": (functional.WeightPoints, lambda: {"basis": [state()], "coefficients": [[1.0]]}),
    "adversarial_inputs": (functional.adversarial_inputs, of_inputs),
    "along_line": (functional.along_line, line),
    "ascent_direction": (functional.ascent_direction, lambda: pairs(rho=0.1)),
    "augmented_inner_product_test": (functional.augmented_inner_product_test, statistics),
    "average_sharpness": (functional.average_sharpness, of_weights),
    "batch_sharpness": (functional.batch_sharpness, lambda: of_groups(velocity=[weight().detach()])),
    "batch_statistics": (
        lambda **given: functional.batch_statistics(**given).__enter__(),
        lambda: {"module": nn.ReLU()},
    ),
    "cabs": (functional.cabs, lambda: statistics(learning_rate=0.1, loss=1.0)),
    "conservative_step": (functional.conservative_step, of_optimizer),
    "connect": (
        functional.connect,
        lambda: of_states(
            start=state(), end=state(2.0), loss_fn=lambda m, b: m(b).mean(), loader=[torch.ones(1, 2)], epochs=1
        ),
    ),
    "constant_warmup": (functional.constant_warmup, lambda: {"step": 1, "warmup_steps": 4, "scale": 8.0}),
    "batch_at": (functional.batch_at, lambda: {"schedule": {0: 8}, "unit": "steps"}),
    "schedule_from_text": (functional.schedule_from_text, lambda: {"schedule": "0:8"}),
    "LateSwitch": (functional.LateSwitch, lambda: {"batch_size": 8, "later_batch_size": 16, "total": 100}),
    "LateSwitch.__call__": (made(functional.LateSwitch, "__call__", 8, 16, 100), lambda: {"consumed": 1}),
    "LinearRamp": (functional.LinearRamp, lambda: {"batch_size": 8, "max_batch_size": 9, "increment": 1, "ramp": 9}),
    "LinearRamp.__call__": (made(functional.LinearRamp, "__call__", 8, 9, 1, 9), lambda: {"consumed": 1}),
    "Seesaw": (functional.Seesaw, lambda: {"batch_size": 8, "max_batch_size": 64, "total": 100}),
    "Seesaw.__call__": (made(functional.Seesaw, "__call__", 8, 64, 100), lambda: {"consumed": 1}),
    "critical_sharpness": (functional.critical_sharpness, lambda: of_weights(direction=[torch.ones(30).double()])),
    "edge_of_stability": (functional.edge_of_stability, lambda: {"learning_rate": 0.1}),
    "epoch_batch_at": (functional.epoch_batch_at, lambda: {"schedule": {0: 8}, "epoch": 1}),
    "epsilon_name": (functional.epsilon_name, lambda: {"epsilon": 1e-3}),
    "evaluate_points": (
        functional.evaluate_points,
        lambda: of_states(
            points=functional.line_points(state(), state(2.0), [0.0, 1.0]),
            measure=lambda m, b: m(b).mean(),
            splits={"train": [torch.ones(1, 2)]},
        ),
    ),
    "exact_gradient_penalty": (functional.exact_gradient_penalty, lambda: of_one_weight(strength=0.1)),
    "filter_normalized_direction": (functional.filter_normalized_direction, of_states),
    "finite_difference_penalty": (
        functional.finite_difference_penalty,
        lambda: pairs(gradients_at=lambda: [torch.ones(4)], strength=0.1),
    ),
    "ghost_batch_norm": (
        functional.ghost_batch_norm,
        lambda: {"input": torch.ones(4, 2), "runs": ((2, 2),), "weight": torch.ones(2), "bias": torch.ones(2)},
    ),
    "ghost_runs": (functional.ghost_runs, lambda: {"samples": 8, "ghost_batch_size": 4}),
    "gradient_noise": (functional.gradient_noise, of_parts),
    "gradient_statistics": (
        functional.gradient_statistics,
        lambda: {"gradients": [torch.ones(2), torch.zeros(2)], "samples_each": 1},
    ),
    "gradual_warmup": (functional.gradual_warmup, lambda: {"step": 1, "warmup_steps": 4, "scale": 8.0}),
    "hessian_eigenvalues": (
        functional.hessian_eigenvalues,
        lambda: of_weights(preconditioner=[torch.ones(30).double()]),
    ),
    "hessian_trace": (functional.hessian_trace, of_weights),
    "hessian_vector_product": (functional.hessian_vector_product, lambda: of_weights(vector=[torch.ones(30).double()])),
    "inner_product_test": (functional.inner_product_test, statistics),
    "instability": (functional.instability, lambda: {"alphas": [0.0, 1.0], "errors": [1.0, 2.0]}),
    "layer_distances": (
        functional.layer_distances,
        lambda: {"weights": {"a.w": torch.ones(2)}, "reference": {"a.w": torch.ones(2)}},
    ),
    "layer_sharpness": (functional.layer_sharpness, of_layers),
    "learning_rate_gain": (
        functional.learning_rate_gain,
        lambda: {"batch_size": 9, "base_batch_size": 3, "noise_scale": 9.0},
    ),
    "learning_rate_scale": (functional.learning_rate_scale, lambda: {"batch_size": 9, "base_batch_size": 3}),
    "length_weighted_mean": (
        functional.length_weighted_mean,
        lambda: of_states(points=functional.line_points(state(), state(2.0), [0.0, 1.0]), values=[0.0, 1.0]),
    ),
    "largest_harmless_factor": (functional.largest_harmless_factor, lambda: {"losses": {1: 1.0, 2: 1.0}}),
    "line_points": (functional.line_points, lambda: {"start": state(), "end": state(2.0), "alphas": [0.0]}),
    "log_fit": (functional.log_fit, lambda: {"steps": [1, 2], "distances": [1.0, 2.0]}),
    "loss_barrier": (functional.loss_barrier, lambda: {"alphas": [0.0, 1.0], "losses": [1.0, 2.0]}),
    "m_sharpness": (functional.m_sharpness, of_groups),
    "next_batch_size": (
        functional.next_batch_size,
        lambda: {"wanted": 9.0, "current": 8, "smallest": 8, "largest": 64},
    ),
    "no_decay_groups": (functional.no_decay_groups, lambda: {"module": nn.BatchNorm1d(2), "weight_decay": 0.1}),
    "noise_from_norms": (
        functional.noise_from_norms,
        lambda: {"small_norm_squared": 13.0, "large_norm_squared": 4.0, "small_batch_size": 1, "large_batch_size": 4},
    ),
    "noise_weights": (functional.noise_weights, lambda: {"samples": 4, "sigma": 0.5}),
    "normalize_logits": (functional.normalize_logits, lambda: {"logits": torch.ones(2, 3)}),
    "normalized_logit_loss": (functional.normalized_logit_loss, lambda: {"logits_of": lambda m, b: (m(b[0]), b[1])}),
    "norm_test": (functional.norm_test, statistics),
    "optimal_learning_rate": (
        functional.optimal_learning_rate,
        lambda: {"batch_size": 8, "noise_scale": 9.0, "max_learning_rate": 1.0},
    ),
    "optimizer_edge": (functional.optimizer_edge, of_stepped),
    "orthogonality_test": (functional.orthogonality_test, statistics),
    "perturbed": (
        lambda **given: functional.perturbed(**given).__enter__(),
        lambda: {"weights": [torch.ones(4)], "directions": [torch.ones(4)]},
    ),
    "plane_through": (
        functional.plane_through,
        lambda: of_states(first=state(), second=state(2.0), third=state(0.0, 3.0)),
    ),
    "planned_optimizer_steps": (
        functional.planned_optimizer_steps,
        lambda: {"schedule": {0: 8}, "samples": 20, "epochs": 2},
    ),
    "proximal_gradient": (
        functional.proximal_gradient,
        lambda: pairs(anchor=[torch.ones(4)], strength=0.1),
    ),
    "rank_correlation": (functional.rank_correlation, lambda: {"measures": [1.0, 2.0], "gaps": [0.1, 0.2]}),
    "recomputed_statistics": (
        lambda **given: functional.recomputed_statistics(**given).__enter__(),
        lambda: {"module": nn.ReLU(), "run": lambda: None},
    ),
    "residual_norms": (functional.residual_norms, lambda: {"module": BasicBlock(2, 2)}),
    "restore_batch_norm": (functional.restore_batch_norm, lambda: {"module": nn.BatchNorm1d(2)}),
    "scaled_ema_decay": (
        functional.scaled_ema_decay,
        lambda: {"decay": 0.5, "batch_size": 9, "base_batch_size": 3},
    ),
    "scaled_hyperparameters": (
        functional.scaled_hyperparameters,
        lambda: {"hyperparameters": {"lr": 0.1}, "batch_size": 9, "base_batch_size": 3, "rule": "linear"},
    ),
    "sharp_share": (functional.sharp_share, lambda: of_weights(radius=0.1)),
    "sharpness": (functional.sharpness, of_weights),
    "sharpness_aware_gradient": (functional.sharpness_aware_gradient, lambda: of_one_weight(rho=0.1)),
    "sharpness_profile": (functional.sharpness_profile, lambda: of_weights(epsilons=(0.1,))),
    "sigma_for": (functional.sigma_for, lambda: {"batch_size": 8, "imitated": 4}),
    "spectral_density": (functional.spectral_density, of_weights),
    "split_batch": (functional.split_batch, lambda: {"batch_size": 8}),
    "stability_loss": (
        functional.stability_loss,
        lambda: {"logits": torch.ones(4, 5), "noisy_logits": torch.ones(4, 5)},
    ),
    "subspace_sharpness": (functional.subspace_sharpness, lambda: of_weights(subspace=RandomSubspace(2))),
    "surface_points": (
        functional.surface_points,
        lambda: {"centre": state(), "directions": [state()], "steps": [[0.0, 1.0]]},
    ),
    "swap_batch_norm": (functional.swap_batch_norm, lambda: {"module": nn.BatchNorm1d(2), "ghost_batch_size": 2}),
    "trajectory_plane": (functional.trajectory_plane, lambda: of_states(states=[state(), state(2.0)])),
    "train_longer": (
        functional.train_longer,
        lambda: {"epochs": 2, "milestones": (1,), "batch_size": 8, "base_batch_size": 4},
    ),
    "weight_distance": (functional.weight_distance, lambda: {"weights": [torch.ones(2)], "reference": [torch.ones(2)]}),
    "weight_quantiles": (functional.weight_quantiles, lambda: {"weights": [torch.ones(3)]}),
    "weighted_mean_loss": (
        functional.weighted_mean_loss,
        lambda: {"losses": torch.ones(4), "z": torch.ones(4)},
    ),
    "zero_init_residual": (functional.zero_init_residual, lambda: {"module": BasicBlock(2, 2)}),
    "BatchPlan": (data.BatchPlan, lambda: {"samples": 8, "batch_size": 2, "processes": 2}),
    "InMemoryLoader": (data.InMemoryLoader, lambda: {"samples": (torch.ones(8),), "batch_size": 2}),
    "ResumableLoader": (data.ResumableLoader, lambda: {"dataset": TensorDataset(torch.ones(8)), "batch_size": 2}),
    "ResumableStream": (data.ResumableStream, lambda: {"source": [1, 2, 3], "batch_size": 2}),
    "RandomAffine": (data.RandomAffine, dict),
    "RandomCrop": (data.RandomCrop, dict),
    "RandomFlip": (data.RandomFlip, dict),
    "RandomResizedCrop": (data.RandomResizedCrop, dict),
    "Column": (logging.Column, lambda: {"key": "loss", "title": "Loss"}),
    "mean_and_std": (logging.mean_and_std, lambda: {"values": [1.0, 2.0]}),
}


def arguments_of(name):
    """Those of its signature; of a method, which is called by a function here, those that it needs."""
    _, needed = CALLS[name]
    if "." in name:
        return list(needed())
    own = getattr(functional, name, None) or getattr(data, name, None) or getattr(logging, name, None)
    parameters = inspect.signature(own).parameters.values()
    return [p.name for p in parameters if p.name not in TORCHS_OWN and p.kind is not p.VAR_KEYWORD]


def public(module):
    return {name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}


def test_every_public_function_is_here():
    drawn = {"log_figure", "parametric_figure", "sharpness_figure", "surface_figure", "write_csv", "write_markdown"}
    drawn |= {"Augmentations", "layout_of", "write_layout", "meaning"}
    wanted = public(functional) | public(data) | public(logging)
    assert wanted - RESULTS - TYPES - ERRORS - SAME.keys() - drawn == {name for name in CALLS if "." not in name}
    callbacks = public(lightning_gap.callbacks)  # which have a test of their own
    assert set(lightning_gap.__all__) <= CALLS.keys() | SAME.keys() | callbacks


@pytest.mark.promise("arguments")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than this machine has cores
@pytest.mark.parametrize("name", CALLS)
def test_an_argument_is_refused_by_name_or_means_something(name, record_property):
    call, needed = CALLS[name]
    tried = taken = 0
    for argument in arguments_of(name):
        skip = (FUNCTIONS if argument in CALLABLE else ()) + (BATCHES if argument in OPAQUE else ())
        tried += len(ODD) - len(skip)
        taken += sum(1 for _ in feed(name, argument, call, needed, skip=skip))
    record_property("cases", tried)
    record_property("refused", tried - taken)
