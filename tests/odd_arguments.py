"""Feed arguments odd values: each is refused by the argument's name, or is one of those that the argument may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sized
from numbers import Integral, Real
from typing import Any

import numpy as np
from odd_values import ODD
from torch import Tensor

Kind = Callable[[Any], bool]
FUNCTIONS = ("function", "type")


def whole(least: int = 1, most: int = 2**63 - 1) -> Kind:
    return lambda value: isinstance(value, Integral) and not is_other(value) and least <= value <= most


def real(
    *, above: float = -math.inf, least: float = -math.inf, below: float = math.inf, most: float = math.inf
) -> Kind:
    def is_one(value: Any) -> bool:
        if not isinstance(value, Real) or is_other(value):
            return False
        try:
            number = float(value)
        except OverflowError:
            return False
        return above < number < below and least <= number <= most

    return is_one


def is_other(value: Any) -> bool:
    """What Python or NumPy takes for a whole number, and nobody means as one."""
    return is_flag(value) or isinstance(value, np.timedelta64)


def series(of: Kind) -> Kind:
    """Of such values, as a list, tuple, array or tensor."""
    kinds = list | tuple | np.ndarray | Tensor
    return lambda value: isinstance(value, kinds) and np.ndim(value) == 1 and all(map(of, np.asarray(value)))


def either(*kinds: Kind) -> Kind:
    return lambda value: any(kind(value) for kind in kinds)


def is_flag(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def is_none(value: Any) -> bool:
    return value is None


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def is_empty(value: Any) -> bool:
    return isinstance(value, Sized) and not len(value) and not isinstance(value, str | set)


def is_data(value: Any) -> bool:
    """Samples or batches by index; what they are is for the user's own functions to say."""
    return hasattr(value, "__getitem__") and np.ndim(value) > 0 and len(value) > 0 and not isinstance(value, dict)


COUNT, FROM_0, SEED = whole(), whole(0), whole(0, 2**32 - 1)
POSITIVE, NOT_NEGATIVE = real(above=0), real(least=0)
BELOW_1, SHARE, INSIDE = real(least=0, below=1), real(least=0, most=1), real(above=0, below=1)
MEASURED: Kind = lambda value: isinstance(value, Real) and not is_flag(value)  # noqa: E731 - may have failed
NUMBERS = series(real())
ALLOWED: dict[str, Kind] = {
    name: kind
    for kind, names in (
        (
            COUNT,
            "accumulate accurate_samples base_batch_size batch_size bends blocks channels chunk_size classes "
            "components current depth dimension directions divisor draws epochs evaluation_chunk every every_n "
            "every_n_epochs every_n_steps ghost_batch_size gradients heads imitated increment inner_steps "
            "large_batch_size later_batch_size "
            "max_batch_size max_batches max_evaluations max_iterations max_products measure_every_n_steps "
            "micro_batches min_batches multiple_of num_features permutations positions processes ramp samples "
            "samples_each seeds sequences sharpness_samples small_batch_size smallest steps switch_epoch total widen "
            "width width_per_group",
        ),
        (FROM_0, "consumed digits epoch num_workers padding probes rank restarts validation_size"),
        (SEED, "seed"),
        (
            either(is_none, COUNT),
            "batches decide_every_n_steps m max_bytes max_micro_batch micro_batch_size points_at_once population "
            "prefetch_factor subspace tokens_per_sample",
        ),
        (
            POSITIVE,
            "adversarial_epsilon epsilon guess learning_rate learning_rate_factor length max_learning_rate noise_scale "
            "nu penalty_strength radius sam_rho theta",
        ),
        (
            NOT_NEGATIVE,
            "conservative_strength degrees eps eta samples_of_all scale sigma start step strength warmup_epochs "
            "weight_decay",
        ),
        (either(is_none, POSITIVE), "gradient_clip largest max_time_share rho step_size"),
        (BELOW_1, "beta2 clean decay smoothing warmup_share"),
        (SHARE, "probability shift t warmup_start"),
        (INSIDE, "share tolerance"),
        (either(is_none, BELOW_1), "momentum"),
        (real(above=1), "factor max_growth"),
        (MEASURED, "large_norm_squared loss mean_norm_squared small_norm_squared sum_of_norms_squared"),
        (MEASURED, "sum_of_products_squared wanted"),
        (real(), "denominator numerator"),
        (
            is_flag,
            "accurate_at_end adaptive affine at_start bias channels_last check_repeatable decay_all download drop_last "
            "dropout exact keep_moments momentum_correction monotone normalize per_layer persistent_workers pin_memory "
            "preconditioned relative reseed scale_ema_decay second_derivatives shuffle standardise track_running_stats "
            "zero_last_gammas",
        ),
        (either(is_flag, is_none), "higher_is_better random_start"),
        (is_text, "batch_arg_name data_dir key suffix title"),  # the empty suffix is the default
        (is_text, "optimizer"),  # a recipe of one's own may make another one
        (
            is_none,
            "augment augmentation clip count_tokens generator observe preconditioner process_group report_on "
            "recipe source_checkpoint statistics velocity weight",
        ),
        (either(is_none, callable), "accuracy_fn collate_fn count loss_fn"),
        (callable, "evaluation_mode logits_of rule run schedule measure"),
        (either(is_none, is_text), "compare_with folder outputs"),
        (NUMBERS, "alphas distances epsilons errors gaps losses measures ratio ts"),
        (series(COUNT), "milestones dense"),
        (series(MEASURED), "values"),
        (either(is_none, series(POSITIVE)), "learning_rates"),
        (either(is_none, series(COUNT)), "sizes"),
        (series(SHARE), "levels"),
        (series(COUNT), "shape"),
        (is_empty, "buffers later_sizes"),
        (either(is_none, is_empty), "layers hyperparameters learning_rate_steps"),
        (is_tensor, "grid inputs logits weights"),
        (is_data, "dataset loader"),
        (either(is_data, is_empty), "source"),
        (either(is_none, is_data, is_empty), "data train_data validation_data"),  # none is told from none at the start
        (lambda value: value == [[1]], "coefficients"),
        (lambda value: value is None or isinstance(value, dict), "trainer"),  # which reads them before the first step
        (lambda value: is_text(value) and value != "", "name"),
    )
    for name in names.split()
}
# Where one word means several things.
ALLOWED |= {
    "AccumulationWindow.add.samples": NOT_NEGATIVE,
    "AdversarialTraining.inputs": either(FROM_0, is_text),
    "BatchSizeTest.update.learning_rate": MEASURED,
    "BatchSizeTest.update.loss": MEASURED,
    "CriticalSharpnessMonitor.micro_batches": either(is_none, COUNT),
    "C2.dense": COUNT,
    "C4.dense": COUNT,
    "DatasetLoss.batches": is_data,
    "F1.inputs": COUNT,
    "F2.inputs": COUNT,
    "FixedSubset.samples": either(is_none, COUNT),
    "GPT.length": COUNT,
    "GhostBatchNorm1d.momentum": either(is_none, SHARE),
    "InMemoryLoader.samples": is_data,
    "LearningRateScaling.warmup_steps": either(is_none, FROM_0),
    "OptimizerScaling.noise_scale": is_none,  # of the rule that needs it alone
    "Seesaw.decay": callable,
    "SpectralDensity.density.width": POSITIVE,
    "StabilityTraining.inputs": either(FROM_0, is_text),
    "WeightPlane.points.steps": ALLOWED["coefficients"],
    "ascent_direction.rho": NOT_NEGATIVE,
    "compare.ghost_batch_size": either(is_none, COUNT),
    "constant_warmup.warmup_steps": NOT_NEGATIVE,
    "ghost_batch_norm.bias": is_none,
    "ghost_runs.samples": FROM_0,
    "gradient_statistics.gradients": is_tensor,
    "gradual_warmup.warmup_steps": NOT_NEGATIVE,
    "largest_harmless_factor.tolerance": NOT_NEGATIVE,
    "log_fit.steps": series(COUNT),
    "next_batch_size.largest": COUNT,
    "next_batch_size.max_growth": real(least=1),
    "scaled_hyperparameters.noise_scale": is_none,
    "sharpness.subspace": is_none,
    "sharpness_aware_gradient.rho": NOT_NEGATIVE,
    "sharpness_profile.subspace": is_none,
    "surface_points.steps": ALLOWED["coefficients"],
}
DATA = ("CIFAR10", "CIFAR100", "Digits", "ImageNet", "MNIST", "PythonLibrary", "TIMIT", "TIMITStandIn", "Text")
ALLOWED |= {  # what the recipe says where they are None
    f"{name}.{argument}": either(is_none, kind)
    for name in DATA
    for argument, kind in (
        ("length", COUNT),
        ("num_workers", FROM_0),
        ("sequences", COUNT),
        ("standardise", is_flag),
        ("validation_size", FROM_0),
    )
}


def feed(
    owner: str, argument: str, call: Callable[..., Any], needed: Callable[[], dict[str, Any]], *, skip: tuple[str, ...]
) -> Iterator[tuple[Any, Any]]:
    """Try every odd value for one argument; each that is taken comes with what was made of it.

    Args:
        owner: Whose argument it is, for ``ALLOWED``.
        argument: Its name.
        call: Takes it and what is needed beside it.
        needed: The other arguments, fresh for each call.
        skip: Labels of values that are not tried.
    """
    allowed = ALLOWED.get(f"{owner}.{argument}", ALLOWED.get(argument, lambda value: False))
    for label, value in ODD.items():
        if label in skip:
            continue
        try:
            made = call(**{**needed(), argument: value})
        except (TypeError, ValueError, OSError) as refusal:
            told = str(refusal)
        else:
            assert allowed(value), f"{owner} takes {label} for {argument}; if it should, say so in {__file__}"
            yield value, made
            continue
        assert argument in told, f"{owner}({argument}: {label}) does not name it: {told}"
