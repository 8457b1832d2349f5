"""How every hyperparameter of an optimizer follows the batch size, not the learning rate alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, get_args

from torch import Tensor

from ._validation import check_counts, real_number, refusal, shown

OptimizerRule = Literal["linear", "sqrt", "adaptive_sqrt", "surge", "half_life", "timescale"]

SETS: Mapping[str, frozenset[str]] = {
    "linear": frozenset({"lr"}),
    "sqrt": frozenset({"lr"}),
    "adaptive_sqrt": frozenset({"lr", "betas", "eps"}),
    "surge": frozenset({"lr"}),
    "half_life": frozenset({"betas"}),
    "timescale": frozenset({"weight_decay"}),
}
"""What only one rule can set, by rule. Weight decay of SGD also follows ``linear`` and ``sqrt``."""

_NEAR_ZERO = 1e-9  # of a beta: 1 - 0.9 is not 0.1 to the bit, and ten times the batch is to be too large for 0.9


def scaled_hyperparameters(
    hyperparameters: Mapping[str, Any],
    batch_size: int,
    base_batch_size: int,
    *,
    rule: OptimizerRule | Sequence[OptimizerRule],
    noise_scale: float | None = None,
) -> dict[str, Any]:
    """Hyperparameters for another batch size: those that the rule changes, by their names.

    With ``k = batch_size / base_batch_size``, eta the learning rate and lambda the weight decay:

    - ``"linear"``: eta k (Goyal et al.). SGD's lambda stays, so that its decay per sample, eta lambda / B, stays.
    - ``"sqrt"``: eta sqrt(k) (Hoffer et al.). SGD's lambda becomes lambda sqrt(k), for the same reason; this is our
      inference, their paper keeps it.
    - ``"adaptive_sqrt"``, for Adam and RMSprop: eta sqrt(k), ``1 - beta`` becomes ``k (1 - beta)`` for both betas or
      RMSprop's alpha, epsilon becomes epsilon / sqrt(k) (Malladi et al.). A beta of 0, which averages nothing, stays.
    - ``"surge"``, for Adam and its like: eta is ``2 eta_max / (sqrt(N/B) + sqrt(B/N))`` with N the noise scale: it
      grows as sqrt(B) far below N and falls above (Li et al.).
    - ``"half_life"``: ``beta2 ** k``, or ``alpha ** k``: its half-life in samples stays (Marek et al.). beta1 stays.
    - ``"timescale"``: lambda such that eta lambda / B stays, whatever another rule makes of eta: ``lambda k`` with none
      (Wang and Aitchison).

    Args:
        hyperparameters: Of one parameter group, as in ``optimizer.param_groups``. ``decoupled_weight_decay=False``, as
            torch's Adam states, and RMSprop's alpha tell that decay passes through the adaptive part of the step, and
            is no more proportional to eta.
        batch_size: Samples per optimizer step.
        base_batch_size: Samples per optimizer step for which the hyperparameters were chosen.
        rule: One, or several that set different hyperparameters: ``("sqrt", "half_life", "timescale")``.
        noise_scale: Batch size at which the learning rate of ``"surge"`` peaks, in samples; fitted, no default.

    Returns:
        New values of what the rule sets. A learning rate or beta that is a tensor gives a new tensor.

    Raises:
        ValueError: If a size is not a positive whole number, a rule is unknown, two set the same, ``noise_scale`` is
            missing, not positive, or given for another rule, the rule needs what is not among ``hyperparameters``, a
            beta is out of range or would reach 0, or weight decay has no timescale that could be kept.

    Reference:
        Goyal et al. (2017), section 2.1; Hoffer, Hubara and Soudry (2017), section 3; Malladi, Lyu, Panigrahi and
        Arora (2022), section 5; Li et al. (2024); Marek et al. (2025); Wang and Aitchison (2025).

    Example:
        >>> adam = {"lr": 1e-3, "betas": (0.75, 0.875), "eps": 1e-8}
        >>> scaled_hyperparameters(adam, 512, 256, rule="adaptive_sqrt")["betas"]
        (0.5, 0.75)
        >>> adamw = {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.01}
        >>> scaled_hyperparameters(adamw, 1024, 256, rule=("sqrt", "timescale"))
        {'lr': 0.002, 'weight_decay': 0.02}
    """
    rules = checked_rules(rule)
    if not isinstance(hyperparameters, Mapping):
        raise ValueError(refusal("hyperparameters", "must be a parameter group, names and values", hyperparameters))
    batch_size, base_batch_size = check_counts(unit="samples", batch_size=batch_size, base_batch_size=base_batch_size)
    ratio = batch_size / base_batch_size
    factor = learning_rate_factor(batch_size, base_batch_size, rules=rules, noise_scale=noise_scale)
    _refuse_missing(hyperparameters, rules)
    found: dict[str, Any] = {}
    if sets_learning_rate(rules):
        found["lr"] = hyperparameters["lr"] * factor
    averages = _averages_of(hyperparameters)
    if averages is not None and {"adaptive_sqrt", "half_life"} & {*rules}:
        found |= _scaled_averages(averages, hyperparameters, rules, batch_size, base_batch_size)
    if "adaptive_sqrt" in rules:
        found["eps"] = hyperparameters["eps"] / math.sqrt(ratio)
    if _follows_timescale(hyperparameters, rules):
        found["weight_decay"] = hyperparameters["weight_decay"] * (ratio / factor)
    return found


def scaled_ema_decay(decay: float, batch_size: int, base_batch_size: int) -> float:
    """Decay of an exponential moving average of the weights for another batch size: ``decay ** k``.

    The average then forgets as much per sample, with ``k = batch_size / base_batch_size`` times fewer updates.

    Args:
        decay: Of the average, at each update, from 0 to below 1.
        batch_size: Samples per optimizer step.
        base_batch_size: Samples per optimizer step for which the decay was chosen.

    Returns:
        The new decay, from 0 to below 1.

    Raises:
        ValueError: If a size is not a positive whole number, or the decay is out of range: with 1 nothing is averaged.

    Reference:
        Busbridge et al. (2023).

    Example:
        >>> round(scaled_ema_decay(0.999, 1024, 256), 6)
        0.996006
    """
    batch_size, base_batch_size = check_counts(unit="samples", batch_size=batch_size, base_batch_size=base_batch_size)
    decay = real_number("decay", decay, at_least=0, below=1, hint="with 1 the average would never move")
    return float(decay ** (batch_size / base_batch_size))


def checked_rules(rule: str | Sequence[str]) -> tuple[OptimizerRule, ...]:
    """The rules as a tuple; raise if one is unknown, there is none, or two set the same hyperparameter."""
    known: tuple[OptimizerRule, ...] = get_args(OptimizerRule)
    given = tuple(rule) if isinstance(rule, list | tuple) else (rule,)
    for each in given:
        if not isinstance(each, str) or each not in known:
            near = get_close_matches(shown(each).strip("'"), known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            names = ", ".join(map(repr, known))
            raise ValueError(f"rule must be one of {names}, or several of them, got {shown(rule)}{hint}")
    if not given:
        raise ValueError(f"rule must name at least one rule, got {shown(rule)}")
    rules: tuple[OptimizerRule, ...] = tuple(each for each in known if each in given)
    for position, first in enumerate(rules):
        for second in rules[position + 1 :]:
            if SETS[first] & SETS[second]:
                both = ", ".join(sorted(SETS[first] & SETS[second]))
                raise ValueError(f"rule={shown(rule)}: {first!r} and {second!r} both set {both}; keep one of them")
    return rules


def checked_noise_scale(noise_scale: float | None, rules: Iterable[str]) -> float | None:
    """The noise scale as a float where ``"surge"`` needs one, else None; raise if it is missing or not used."""
    if "surge" not in rules:
        if noise_scale is not None:
            raise ValueError(f"noise_scale={shown(noise_scale)} is used by rule='surge' alone; leave it out")
        return None
    hint = "fit the batch size at which the best learning rate peaks; GradientNoiseScaleMonitor gives a first guess"
    return real_number("noise_scale", noise_scale, above=0, hint=hint)


def learning_rate_factor(
    batch_size: int, base_batch_size: int, *, rules: Iterable[str], noise_scale: float | None = None
) -> float:
    """What the rules multiply a learning rate by; 1 where none of them sets it."""
    noise_scale = checked_noise_scale(noise_scale, rules)
    ratio = batch_size / base_batch_size
    if "linear" in rules:
        return ratio
    if noise_scale is not None:
        at_base, at_size = (math.sqrt(noise_scale / size) for size in (base_batch_size, batch_size))
        return (at_base + 1 / at_base) / (at_size + 1 / at_size)
    return math.sqrt(ratio) if {"sqrt", "adaptive_sqrt"} & {*rules} else 1.0


def sets_learning_rate(rules: Iterable[str]) -> bool:
    """Whether one of the rules changes the learning rate."""
    return any("lr" in SETS[each] for each in rules)


def _averages_of(hyperparameters: Mapping[str, Any]) -> str | None:
    """Where the decay of the average of squared gradients is: `betas` of Adam's family, `alpha` of RMSprop."""
    if hyperparameters.get("betas") is not None:
        return "betas"
    return "alpha" if {"alpha", "eps"} <= hyperparameters.keys() else None  # ASGD's alpha is no decay


def _refuse_missing(hyperparameters: Mapping[str, Any], rules: Iterable[str]) -> None:
    for rule in rules:
        for name in sorted(SETS[rule]):
            found = _averages_of(hyperparameters) if name == "betas" else hyperparameters.get(name)
            if found is None:
                wanted = "betas or alpha, the decay of averages," if name == "betas" else name
                raise ValueError(
                    f"rule={rule!r} needs {wanted} and the hyperparameters have none; use another rule or optimizer"
                )
            if name != "betas" and not isinstance(found, Tensor):
                real_number(f"hyperparameters[{name!r}]", found, at_least=0)


def _scaled_averages(
    name: str, hyperparameters: Mapping[str, Any], rules: Iterable[str], batch_size: int, base_batch_size: int
) -> dict[str, Any]:
    value = hyperparameters[name]
    betas = tuple(value) if name == "betas" else (value,)
    if name == "betas" and len(betas) != 2:
        raise ValueError(f"betas={value} are not two, and no rule says what becomes of them; use AdamW or its like")
    for beta in betas:
        real_number(name, float(beta), at_least=0, below=1, hint="it is the decay of an average")
    ratio = batch_size / base_batch_size
    if "half_life" in rules:
        scaled = (*betas[:-1], betas[-1] ** ratio)
    else:
        # k (1 - beta) taken from 1, written so that k = 1 changes no bit
        scaled = tuple(beta if float(beta) == 0.0 else beta - (ratio - 1) * (1 - beta) for beta in betas)
        for index, (before, after) in enumerate(zip(betas, scaled, strict=True)):
            if float(before) > 0.0 and float(after) < _NEAR_ZERO:
                of = f"beta{index + 1}" if name == "betas" else name
                largest = math.ceil(base_batch_size / (1 - float(before)) * (1 - _NEAR_ZERO)) - 1
                raise ValueError(
                    f"rule='adaptive_sqrt' has no {of} for batch_size={batch_size}: {float(before):g} at "
                    f"base_batch_size={base_batch_size} would reach {float(after):g}, and 0 is where it ends; use "
                    f"batches of at most {largest}, a {of} nearer to 1, or rule=('sqrt', 'half_life')"
                )
    return {name: scaled if name == "betas" else scaled[0]}


def _follows_timescale(hyperparameters: Mapping[str, Any], rules: Iterable[str]) -> bool:
    """Whether weight decay is changed with the learning rate so that the decay per sample stays.

    In SGD and where it is decoupled, a step decays by eta lambda. Where it is part of an adaptive optimizer's gradient
    it is divided as that is: there it has no timescale of its own, and the rules for the gradient hold for it.
    """
    stated = hyperparameters.get("decoupled_weight_decay", hyperparameters.get("weight_decouple"))
    averages = _averages_of(hyperparameters)
    adaptive = {"lr_decay", "rho"} & hyperparameters.keys()  # Adagrad, Adadelta: coupled, and no SGD
    if "timescale" in rules:
        if (stated is False or averages == "alpha" or adaptive) and float(hyperparameters["weight_decay"]):
            raise ValueError(
                f"rule='timescale' keeps learning rate x weight_decay, and weight_decay="
                f"{hyperparameters['weight_decay']!r} is coupled here, part of the gradient that is divided by its "
                "average; use AdamW, or leave 'timescale' out"
            )
        return True
    is_sgd = averages is None and stated is None and not adaptive and "weight_decay" in hyperparameters
    return is_sgd and bool({"linear", "sqrt"} & {*rules})
