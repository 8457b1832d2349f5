"""Causes that lie in the steps: too few of them, too short, too long at first, and what is done once in each."""

from __future__ import annotations

import math

from .enlarged import KEEP_A_CHECKPOINT, Enlarged, enlarged, scale_of, sources
from .facts import Facts
from .verdict import Absent, Applies, Unknown, Verdict

STILL_FALLING = 0.05  # share of the whole fall in the last fifth of a run; it is 0.25 on a straight line
WORSE = 0.1  # relative excess of a training loss over the small batch's
WARM_FROM = 2.0  # factors of the learning rate that are not reached in one step
UNFOLLOWED = 0.5  # share of the small batch's decay below which decay has not followed
LEFT = 0.01  # share of an averaged weight that is still the initial one
_LOG_LOSS = 'log it once an epoch: self.log("train_loss", loss, on_step=False, on_epoch=True)'


def too_few_updates(facts: Facts, small: Facts | None) -> Verdict:
    """Fewer steps than the small batch, and a training loss that shows it."""
    both = enlarged(facts)
    if not isinstance(both, Enlarged):
        return both
    if facts.steps is None:
        return Unknown("log by step: add LearningRateScaling(...) with Trainer(log_every_n_steps=1)")
    theirs = small.steps if small else None
    needed = theirs.value if theirs else facts.steps.value * both.ratio
    if facts.steps.value >= 0.9 * needed:
        return Absent(f"{facts.steps} steps against {needed:.0f}")
    steps = f"{facts.steps} steps where batch {both.base} takes {needed:.0f}"
    fix = (
        f"scale the learning rate, or grow the batch: BatchSizeScheduler({{0: {both.base}, ...: "
        f"{both.batch}}}), or train longer: train_longer(...) of lightning_gap.functional"
    )
    loss, other = facts.train_loss, small.train_loss if small else None
    if loss and other:
        told = f"training loss {loss.value:.4g} against {other.value:.4g}"
        if loss.value <= other.value + WORSE * abs(other.value):
            return Absent(f"{steps}, but {told}")
        return Applies(f"{steps}; {told}", sources(facts.steps, loss), fix)
    if facts.still_falling is None:
        return Unknown(f"{steps}, but no training loss of five epochs tells whether that is too few; {_LOG_LOSS}")
    told = f"{100 * facts.still_falling.value:.0f} % of the training loss's fall came in the last fifth of the run"
    if facts.still_falling.value < STILL_FALLING:
        return Absent(f"{steps}, but the training loss has settled: {told}")
    return Applies(f"{steps}; {told}", sources(facts.steps, facts.still_falling), fix)


def rate_not_scaled(facts: Facts, small: Facts | None) -> Verdict:
    """A learning rate that stayed, or followed the batch by less than the root rule."""
    both = enlarged(facts)
    if not isinstance(both, Enlarged):
        return both
    if facts.first_batch_size and facts.first_batch_size.value < both.batch.value:
        return Absent(f"the batch grows from {facts.first_batch_size} to {both.batch} while the run trains")
    scale = scale_of(facts, small)
    if scale is None:
        return Unknown(
            "log the learning rate: add LearningRateScaling(base_batch_size=...), or LearningRateMonitor() here and "
            "in the small-batch run beside it"
        )
    told = f"learning rate × {scale.value:.3g} for a batch × {both.ratio:.3g}"
    if scale.value >= 0.99 * math.sqrt(both.ratio):
        return Absent(told)
    fix = f'LearningRateScaling(base_batch_size={both.base}); for ADAM also rule="sqrt"'
    return Applies(told, sources(scale, both.batch), fix)


def no_warmup(facts: Facts, small: Facts | None) -> Verdict:
    """A scaled learning rate from the first step on."""
    if facts.scale is None or facts.first_scale is None:
        scale = scale_of(facts, small)
        if scale is not None and scale.value < WARM_FROM:
            return Absent(f"learning rate × {scale.value:.3g}")
        return Unknown("log the factor of the learning rate: LearningRateScaling(...) logs lr/scale")
    if facts.scale.value < WARM_FROM:
        return Absent(f"learning rate × {facts.scale.value:.3g}")
    told = f"learning rate × {facts.first_scale.value:.3g} in the first step, × {facts.scale.value:.3g} at most"
    if facts.first_scale.value < facts.scale.value / 2:
        return Absent(told)
    if facts.clip and facts.clip.value:
        return Absent(f"{told}, and gradients clipped at {facts.clip} instead, as Hoffer et al. do")
    base = facts.base_batch_size or "..."
    fix = f"LearningRateScaling(base_batch_size={base}, warmup_epochs=5), or half of a short run"
    return Applies(told, facts.first_scale.source, fix)


def decay_not_following(facts: Facts, small: Facts | None) -> Verdict:
    """Weight decay in fewer steps, and not larger for it: each decays by rate × decay."""
    decay = facts.weight_decay
    if decay is None:
        return Unknown(f"is there weight decay? {KEEP_A_CHECKPOINT}, which holds the optimizer's")
    if not decay.value:
        return Absent("no weight decay")
    both = enlarged(facts)
    if not isinstance(both, Enlarged):
        return both
    if facts.decay_in_gradient and facts.decay_in_gradient.value:
        return Unknown(
            "ADAM divides a decay in the gradient by its size: use AdamW, whose decay is rate × weight_decay"
        )
    scale = scale_of(facts, small)
    if scale is None:
        return Unknown("log the learning rate: add LearningRateScaling(base_batch_size=...)")
    before = small.weight_decay.value if small and small.weight_decay else decay.value
    used = facts.used_weight_decay or decay
    share = scale.value / both.ratio * (used.value / before if before else 1.0)
    told = (
        f"weight_decay {used}, learning rate × {scale.value:.3g}, steps / {both.ratio:.3g}: an epoch decays the "
        f"weights {share:.2g} times as much as with the small batch"
    )
    if share >= UNFOLLOWED:
        return Absent(told)
    fix = f"scale the learning rate linearly, else weight_decay={used.value / share:.2g}"
    return Applies(told, sources(used, scale), fix)


def average_not_following(facts: Facts, small: Facts | None) -> Verdict:
    """Averaged weights that reach back further than the small batch's did, or to the beginning."""
    decay = facts.ema_decay
    if facts.used_ema_decay is not None:
        return Absent(f"decay {facts.used_ema_decay}, which OptimizerScaling changes with the batch")
    if decay is None:
        return Unknown(
            'are weights averaged? save the decay as a hyperparameter: self.save_hyperparameters("ema_decay")'
        )
    if not decay.value:
        return Absent("no averaged weights")
    both = enlarged(facts)
    if isinstance(both, Enlarged) and small and small.ema_decay and small.ema_decay.value:
        wanted = small.ema_decay.value**both.ratio
        told = f"decay {decay}; the small batch's {small.ema_decay} to the power {both.ratio:.3g} is {wanted:.4g}"
        if 1 - decay.value >= UNFOLLOWED * (1 - wanted):
            return Absent(told)
        return Applies(told, decay.source, f"decay={wanted:.4g} (Busbridge et al. 2023)")
    if facts.steps is None:
        return Unknown("log by step: add LearningRateScaling(...) with Trainer(log_every_n_steps=1)")
    left = decay.value**facts.steps.value
    told = f"after {facts.steps} steps at decay {decay} the average still has {100 * left:.2g} % of the initial weights"
    if left <= LEFT:
        return Unknown(f"{told}; name a folder that has the small-batch run too, to compare the decays")
    power = f"**{both.ratio:.3g}" if isinstance(both, Enlarged) else " to the power of batch / small batch"
    return Applies(told, sources(decay, facts.steps), f"decay={decay}{power} (Busbridge et al. 2023)")
