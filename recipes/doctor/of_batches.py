"""Causes that lie in the batch itself: what BatchNorm makes of it, and how it is put together."""

from __future__ import annotations

from .enlarged import KEEP_A_CHECKPOINT, Enlarged, enlarged, sources
from .facts import Facts
from .verdict import Absent, Applies, Unknown, Verdict

HIGH_RATE = 0.1  # share of its peak at which a learning rate has not come down


def large_batch_norm(facts: Facts, _: Facts | None) -> Verdict:
    """BatchNorm over more samples than the small batch has."""
    if facts.batch_norm is None:
        return Unknown(f"is there BatchNorm? {KEEP_A_CHECKPOINT}")
    if not facts.batch_norm.value:
        return Absent("no BatchNorm layer")
    if facts.ghosts and facts.ghosts.value:
        return Absent(f"{facts.ghosts} ghost layers")
    both = enlarged(facts)
    if not isinstance(both, Enlarged):
        return both
    parts = facts.accumulate.value if facts.accumulate else 1.0
    size = both.batch.value / parts
    layers = f"{facts.batch_norm} BatchNorm layer{'s' * (facts.batch_norm.value != 1)}"
    told = f"{layers} over {size:.0f} samples at a time, with the small batch {both.base}"
    if size < 2 * both.base.value:
        return Absent(told)
    return Applies(
        f"{told} (on several processes each has its share of them)",
        sources(both.batch, facts.batch_norm),
        f"GhostBatchNormSwap(ghost_batch_size={both.base})",
    )


def lagging_statistics(facts: Facts, _: Facts | None) -> Verdict:
    """Running statistics behind weights that still move fast when the run ends."""
    if facts.batch_norm is None:
        return Unknown(f"is there BatchNorm? {KEEP_A_CHECKPOINT}")
    if not facts.batch_norm.value:
        return Absent("no BatchNorm layer")
    if facts.stored_statistics and not facts.stored_statistics.value:
        return Absent(f"evaluated by other statistics than the running ones ({facts.stored_statistics.source})")
    if facts.peak_rate is None or facts.last_rate is None:
        return Unknown("log the learning rate: add LearningRateMonitor() or LearningRateScaling(...)")
    share = facts.last_rate.value / facts.peak_rate.value if facts.peak_rate.value else 0.0
    told = f"the learning rate ends at {100 * share:.0f} % of its peak"
    if share <= HIGH_RATE:
        return Absent(told)
    if facts.gap_loss:
        told += f", and gap/loss, by the running statistics, at {facts.gap_loss.value:.3g}"
    return Applies(
        f"{told}: the running statistics lag behind weights that still move (on C1 that cost 3 points)",
        sources(facts.last_rate, facts.gap_loss),
        "RecomputeBatchNorm(), or a schedule that ends near 0",
    )


def ragged_accumulation(facts: Facts, _: Facts | None) -> Verdict:
    """Steps of fewer micro-batches, which Lightning divides as if they were whole."""
    if facts.weighed and facts.weighed.value:
        return Absent(f"micro-batches are weighed ({facts.weighed.source})")
    if facts.micro_batches and facts.updates:
        parts, steps = facts.micro_batches.value, facts.updates.value
        if parts == steps:
            return Absent("one batch a step, nothing is accumulated")
        told = f"{parts:g} micro-batches make {steps:g} steps an epoch"
        if parts % steps:
            fix = "ExactAccumulation()"
            return Applies(f"{told}: the last step has fewer", sources(facts.micro_batches, facts.updates), fix)
        return Unknown(
            f"{told}, but not whether the last is as large: add ExactAccumulation(), which changes no equal ones"
        )
    if facts.accumulate and facts.accumulate.value == 1:
        return Absent(f"nothing is accumulated ({facts.accumulate.source})")
    return Unknown(
        f"are micro-batches accumulated? {KEEP_A_CHECKPOINT}, or add ExactAccumulation(), which changes no equal ones"
    )
