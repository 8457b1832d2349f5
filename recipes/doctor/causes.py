"""The table of the known causes of a gap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .facts import Facts
from .of_batches import lagging_statistics, large_batch_norm, ragged_accumulation
from .of_steps import average_not_following, decay_not_following, no_warmup, rate_not_scaled, too_few_updates
from .verdict import Verdict


@dataclass(frozen=True)
class Cause:
    """A cause.

    Attributes:
        name: In a few words.
        card: The page of the remedy.
        look: Tells of it from a run, and from the small-batch run where there is one.
    """

    name: str
    card: str
    look: Callable[[Facts, Facts | None], Verdict]


CAUSES: Sequence[Cause] = (
    Cause("too few updates", "docs/methods/batch-size.md", too_few_updates),
    Cause("learning rate not scaled", "docs/methods/learning-rate.md", rate_not_scaled),
    Cause("no warmup", "docs/methods/learning-rate.md", no_warmup),
    Cause("BatchNorm batch too large", "docs/methods/ghost-batch-norm.md", large_batch_norm),
    Cause("running statistics lag", "docs/methods/recompute-batch-norm.md", lagging_statistics),
    Cause("ragged accumulation", "docs/methods/accumulation.md", ragged_accumulation),
    Cause("weight decay does not follow", "docs/methods/learning-rate.md", decay_not_following),
    Cause("averaged weights do not follow", "docs/methods/recompute-batch-norm.md", average_not_following),
)
