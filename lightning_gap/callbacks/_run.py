"""Where the callbacks of one Trainer meet: what they share, each fact in one place.

A callback claims its part in `begin_fit` and reads the others' from `on_train_start` on, when all claims are made:
their order in the Trainer's list does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from weakref import finalize

from lightning.pytorch import Callback, Trainer
from torch.optim import Optimizer

from ..functional.batch_size.schedule import MicroBatching
from ..trainer.batches import micro_batch_size
from ..trainer.callbacks import accumulation_scheduled, callbacks_of
from ..trainer.processes import sum_over_processes
from ..trainer.resume import SavedEpoch, fix_resume_progress, keep_saved_step
from ._accumulation import SampleWeightedAccumulation
from ._extra_pass import ExtraPasses
from ._gradient_change import GradientChange
from ._hyperparameter_factors import HyperparameterFactors
from ._sample_counter import Count
from ._unscaled import UnscaledUpdates


@dataclass
class _Member:
    """What a callback whose fit is under way has asked for."""

    fixes_resume: bool
    weighs: bool = False
    count: Count | None = None
    gradient_change: GradientChange | None = None
    micro_batch_size: int | None = None


class Run:
    """What the callbacks of one Trainer share during a fit.

    Attributes:
        split: How this epoch's batches are split, where a callback sets the batch size; else ``None``.
        planned: The same for the epochs to come, as far as they are known.
        decides_batch_size: Whether a callback decides about it during the run, so that it is not known before.
        largest_batch_size: The largest that it may decide on, in samples; ``None`` where none decides.
        accumulation: Weighs micro-batches.
        factors: Multiplies hyperparameters around each step; ``None`` while no callback does.
        unscaled: Finds updates that the factor on the learning rate did not reach.
        saved_epoch: What the checkpoint that is resumed from tells of its epoch, until it has been used.
        extra_passes: Takes further passes over the batches of a step for plugins; ``None`` without one.
        attacks: Whether the pass under way is one whose gradient by the inputs alone is wanted, to move those.
        has_started: Whether training has begun in this fit.
    """

    def __init__(self) -> None:
        self.split: MicroBatching | None = None
        self.planned: list[MicroBatching] = []
        self.decides_batch_size = False
        self.largest_batch_size: int | None = None
        self.accumulation = SampleWeightedAccumulation()
        self.factors: HyperparameterFactors | None = None
        self.unscaled: UnscaledUpdates | None = None
        self.saved_epoch: SavedEpoch | None = None
        self.extra_passes: ExtraPasses | None = None
        self.attacks = False
        self.has_started = False
        self._members: dict[Callback, _Member] = {}
        self._owners: dict[str, Callback] = {}  # by what only one of them may do
        self._weigher: Callback | None = None  # one of those that ask for micro-batches to be weighed
        self._begin_batch_size: Callable[[Trainer], None] | None = None
        self._samples_at_a_time: int | None = None  # in the batches of all processes together

    def join(self, owner: Callback, *, fixes_resume: bool) -> None:
        """A fit of this callback begins, in `setup`; `release` ends it.

        ``fixes_resume`` asks for the progress of a resumed run to be fixed: once, for all who ask.
        """
        self._members[owner] = _Member(fixes_resume)
        self.saved_epoch, self.has_started = None, False  # of a fit before

    def serves(self, owner: Callback) -> bool:
        """Whether the fit of this callback that is under way is one of this Trainer."""
        return owner in self._members

    def claim(self, trainer: Trainer, owner: Callback, does: str, *, fix: str = "keep one of them") -> None:
        """Claim what only one callback may do.

        Args:
            trainer: Of this run; what a callback has claimed that it no longer holds is free again.
            owner: The callback.
            does: What it does, for the error that names both who claim it: a verb and its object.
            fix: What to do about it.
        """
        other = self._owners.get(does, owner)
        if other is not owner and any(other is held for held in callbacks_of(trainer)):
            raise ValueError(f"{_name(other)} and {_name(owner)} both {does}; {fix}")
        self._owners[does] = owner

    def claim_keys(self, trainer: Trainer, owner: Callback, keys: Iterable[str]) -> None:
        """Claim keys to log; Lightning would average the values of two callbacks."""
        for key in keys:
            self.claim(trainer, owner, f"log {key}", fix="give one of them a suffix, for instance suffix='_2'")

    def release(self, owner: Callback) -> None:
        """Give back all that this callback has claimed: its fit is over."""
        if owner is self._owners.get(SET_BATCH_SIZE):
            self.split, self.planned, self._begin_batch_size = None, [], None
            self.decides_batch_size, self.largest_batch_size = False, None
        self._owners = {does: other for does, other in self._owners.items() if other is not owner}
        if self.factors is not None and not self.factors.stop(owner):
            self.factors = self.unscaled = None
        self._members.pop(owner, None)
        if owner is self._weigher:
            self._weigher = next((other for other, member in self._members.items() if member.weighs), None)
        if not self._members:  # and keep no batch until the next fit
            self.has_started, self._samples_at_a_time = False, None
            self.accumulation.start(None)

    # The course of a fit

    def start(self, trainer: Trainer) -> None:
        """Training begins; called once, by the first of the callbacks, before any of them reads."""
        saved, self.saved_epoch, self.has_started = self.saved_epoch, None, True
        if any(member.fixes_resume for member in self._members.values()):
            fix_resume_progress(trainer, saved)
            keep_saved_step(trainer)
        if self._begin_batch_size is not None:
            self._begin_batch_size(trainer)
        self.accumulation.start(self.count)
        self.read_batch_size(trainer)

    # The batch size

    def claim_batch_size(self, trainer: Trainer, owner: Callback, begin: Callable[[Trainer], None]) -> None:
        """Claim to set the batch size; ``begin`` sets that of the first epoch when training begins."""
        self.claim(trainer, owner, SET_BATCH_SIZE, fix="keep one, or each would undo what the other sets")
        self.split, self.planned, self._begin_batch_size = None, [], begin

    def state_micro_batch_size(self, owner: Callback, samples: int | None) -> None:
        """Tell the samples per batch and process, where the user has stated them."""
        self._members[owner].micro_batch_size = samples

    def micro_batch_size(self, trainer: Trainer) -> int | None:
        """Samples per batch on this process: as set, as stated by the user, or as the loader states."""
        if self.split is not None:
            return self.split.micro_batch_size
        stated = next((member.micro_batch_size for member in self._members.values() if member.micro_batch_size), None)
        return stated or micro_batch_size(trainer)

    def read_batch_size(self, trainer: Trainer) -> None:
        """Read the batch size of this epoch: on all processes at once, as the loader of each may have its own."""
        own = self.micro_batch_size(trainer)
        total = sum_over_processes(trainer, math.nan if own is None else own)
        self._samples_at_a_time = None if math.isnan(total) else round(total)

    def change_split(self, trainer: Trainer, split: MicroBatching) -> None:
        """Another split holds from the next step on, inside an epoch; the same on all processes."""
        self.split = split
        self._samples_at_a_time = split.micro_batch_size * trainer.world_size

    def batch_size(self, trainer: Trainer) -> int | None:
        """Samples per optimizer step: micro-batch x accumulation x processes; ``None`` where no loader states them.

        A RuntimeError before training begins.
        """
        if not self.has_started:
            raise RuntimeError(
                "the batch size is read when training begins, by the callbacks of lightning_gap: ask from "
                "on_train_start on, after super().on_train_start(trainer, pl_module), in a Trainer that has one"
            )
        at_a_time = self._samples_at_a_time
        return None if at_a_time is None else at_a_time * trainer.accumulate_grad_batches

    # The weights of micro-batches

    def claim_weighing(self, owner: Callback, count: Count | None) -> None:
        """Ask for micro-batches to be weighed by what ``count`` gives, by default samples; the same for all who ask."""
        for other, member in self._members.items():
            if other is not owner and None not in (count, member.count) and count != member.count:
                raise ValueError(
                    f"{_name(other)} and {_name(owner)} have different count functions, and a batch is weighed once; "
                    "give count to one of them"
                )
        self._members[owner].weighs, self._members[owner].count = True, count
        self._weigher = owner

    def weighs(self, owner: Callback) -> bool:
        """Whether this is the one of the callbacks that weighs; which one makes no difference."""
        return owner is self._weigher

    @property
    def count(self) -> Count | None:
        """The function that some callback was given to count a batch with; ``None`` for its samples."""
        return next((member.count for member in self._members.values() if member.count is not None), None)

    def will_weigh(self, trainer: Trainer) -> bool:
        """Whether micro-batches are weighed at some time of this run, as far as it is known."""
        return trainer.world_size > 1 or self.accumulates(trainer) or self.count is not None

    def accumulates(self, trainer: Trainer) -> bool:
        """Whether gradients are accumulated at some time of this run, as far as it is known."""
        factors = [trainer.accumulate_grad_batches, *accumulation_scheduled(trainer)]
        return max([*factors, *(split.accumulate for split in self.planned)]) > 1

    # Further passes over the batches of a step

    def claim_gradient(self, trainer: Trainer, owner: Callback, change: GradientChange) -> None:
        """Ask for the gradient of each step to be changed; one callback of each name may."""
        self.claim(trainer, owner, f"change the gradient under the name {_name(owner)}")
        self._members[owner].gradient_change = change

    @property
    def gradient_changes(self) -> list[GradientChange]:
        """What changes the gradient of a step, in the order of the callbacks' names."""
        members = [self._members[owner] for owner in sorted(self._members, key=_name)]
        return [member.gradient_change for member in members if member.gradient_change is not None]

    @property
    def repeated(self) -> int | None:
        """The number in the epoch of the batch of which a further pass is under way; ``None`` in a first pass.

        Only the first counts: for the weights of micro-batches, gradient noise, running statistics and loggers.
        """
        return None if self.extra_passes is None else self.extra_passes.repeated

    @property
    def separates_micro_batches(self) -> bool:
        """Whether the first pass over a micro-batch leaves its own gradient alone."""
        return self.extra_passes is not None and self.extra_passes.separates_micro_batches

    # The factors on hyperparameters

    def factors_of(self, trainer: Trainer) -> HyperparameterFactors:
        """The one object that multiplies the hyperparameters of this fit."""
        if self.factors is None:
            self.factors = HyperparameterFactors(trainer)
            self.unscaled = UnscaledUpdates(self.factors)
        return self.factors

    @property
    def learning_rate_scale(self) -> float:
        """What callbacks multiplied the learning rates by in the last step."""
        return 1.0 if self.factors is None else self.factors.learning_rate_factor

    def used_rates(self, optimizer: Optimizer) -> list[float]:
        """The learning rates of the last update by parameter group; none where nothing multiplies them."""
        return [] if self.factors is None else self.factors.record.used(optimizer)


SET_BATCH_SIZE = "set the batch size"
_runs: dict[int, Run] = {}  # by the id of the Trainer, while there is one


def run_of(trainer: Trainer) -> Run:
    """The run of a Trainer; the same for all of its fits."""
    run = _runs.get(id(trainer))
    if run is None:
        run = _runs[id(trainer)] = Run()
        finalize(trainer, _runs.pop, id(trainer))
    return run


def global_batch_size(trainer: Trainer, split: MicroBatching) -> int:
    """Samples per optimizer step of a batch that is split like this."""
    return split.micro_batch_size * split.accumulate * trainer.world_size


def _name(callback: Callback) -> str:
    return type(callback).__name__
