"""Fits on two processes that must not start; run by test_two_processes.py.

Each case is a fit in which the two processes were given something different. All run one after the other in one pair of
processes, so that a case that hangs, or leaves the processes out of step, fails those behind it too. The last two end.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_gap import (
    AdaptiveBatchSize,
    BatchSizeScheduler,
    CurvatureMonitor,
    ExactAccumulation,
    GeneralizationGapMonitor,
    GhostBatchNormSwap,
    GradientNoiseScaleMonitor,
    InMemoryLoader,
    LearningRateScaling,
    PiggybackWarmStart,
    ResumableLoader,
    SharpnessMonitor,
    StopOnNaN,
    WeightDistanceMonitor,
)
from lightning_gap.data import RandomCrop
from lightning_gap.functional import SmithGrowth

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

RATE = partial(LearningRateScaling, 16, warmup_epochs=0)
SMALL = {"samples": 16, "chunk_size": 8}


def count(batch, of=1):
    return of * len(batch[0])


def rule_times(factor):
    return lambda size, base: factor * size / base


class Stream(IterableDataset):
    def __iter__(self):
        return iter(tiny.dataset())


def planned(**options):
    return ResumableLoader(tiny.dataset(), **({"batch_size": 8} | options))


def batches(samples):
    return DataLoader(tiny.dataset(samples), batch_size=8)


def with_one_nan(at):
    inputs, targets = tiny.dataset().tensors
    if at is not None:
        inputs[at] = torch.nan
    return TensorDataset(inputs, targets)


def callbacks(make):
    return lambda rank: {"callbacks": make(rank)}


def train(make):
    return lambda rank: {"train": make(rank)}


def other(**options):
    return lambda rank: {name: value(rank) for name, value in options.items()}


# By a part of the message: what a process of a rank is given.
CASES = {
    "base_batch_size is 8 on rank 0, 16 on rank 1": callbacks(lambda r: [LearningRateScaling(8 + 8 * r)]),
    "warmup_epochs is 0.5 on rank 0, 0.75 on rank 1": callbacks(
        lambda r: [RATE(rule="sqrt", warmup_epochs=0.5 + r / 4)]
    ),
    "rule is '<lambda> (": callbacks(lambda r: [RATE(rule=rule_times(1 + r))]),
    "rule is 'linear' on rank 0, 'sqrt' on rank 1": callbacks(lambda r: [RATE(rule=("linear", "sqrt")[r])]),
    "GhostBatchNormSwap has different settings on different processes: ghost_batch_size is 4 on rank 0, 8": callbacks(
        lambda r: [GhostBatchNormSwap(4 + 4 * r)]
    ),
    "schedule is {0: 16, 1: 16} on rank 0, {0: 16, 1: 32}": callbacks(
        lambda r: [BatchSizeScheduler({0: 16, 1: 16 << r})]
    ),
    "schedule is '<lambda> (": callbacks(lambda r: [BatchSizeScheduler((lambda e: 16, lambda e: 16 << e)[r])]),
    "'milestones': [1], 'max_batch_size': 32, 'factor': 2.0} on rank 0, {'class": callbacks(
        lambda r: [BatchSizeScheduler(SmithGrowth(16, [1 + r], 32, factor=2.0))]
    ),
    "count is ['count (": callbacks(lambda r: [ExactAccumulation(partial(count, of=1 + r))]),
    "smoothing is 0.5 on rank 0, 0.75 on rank 1": callbacks(
        lambda r: [AdaptiveBatchSize(16, 32, micro_batches=2, smoothing=0.5 + r / 4)]
    ),
    "optimizer_state is 'keep' on rank 0, 'reset' on rank 1": callbacks(
        lambda r: [PiggybackWarmStart(1, 32, optimizer_state=("keep", "reset")[r])]
    ),
    "epsilon is [0.001] on rank 0, [0.002] on rank 1": callbacks(lambda r: [SharpnessMonitor(1e-3 * (1 + r), **SMALL)]),
    "CurvatureMonitor has different settings on different processes: seed is 0": callbacks(
        lambda r: [CurvatureMonitor(seed=r, probes=0, **SMALL)]
    ),
    "probes is 1 on rank 0, 2 on rank 1": callbacks(lambda r: [GradientNoiseScaleMonitor(probes=1 + r, **SMALL)]),
    "GeneralizationGapMonitor has different settings on different processes: every_n_epochs": callbacks(
        lambda r: [GeneralizationGapMonitor(every_n_epochs=1 + r, **SMALL)]
    ),
    'data is "1 batches': callbacks(
        lambda r: [CurvatureMonitor(data=[tiny.dataset(8).tensors] * (1 + r), probes=0, **SMALL)]
    ),
    "per_layer is False on rank 0, True on rank 1": callbacks(lambda r: [WeightDistanceMonitor(per_layer=bool(r))]),
    "their callbacks are [LearningRateScaling] on rank 0, [WeightDistanceMonitor, LearningR": callbacks(
        lambda r: [*[WeightDistanceMonitor()] * r, RATE()]
    ),
    "their callbacks are [LearningRateScaling, WeightDistanceMonitor] on rank 0, [WeightDistanceMonitor": callbacks(
        lambda r: [RATE(), WeightDistanceMonitor()][:: (1, -1)[r]]
    ),
    "Trainer has different settings on different processes: accumulate_grad_batches is 1": other(
        accumulate_grad_batches=lambda r: 1 + r
    ),
    "Trainer has different settings on different processes: max_epochs is 2": other(max_epochs=lambda r: 2 + r),
    "ResumableLoader has different settings on different processes: seed is 3": train(lambda r: planned(seed=3 + r)),
    "shuffle is False on rank 0, True on rank 1": train(lambda r: planned(shuffle=bool(r))),
    "drop_last is False on rank 0, True on rank 1": train(lambda r: planned(drop_last=bool(r))),
    "reseed is True on rank 0, False on rank 1": train(lambda r: planned(reseed=not r)),
    "batch_size is 8 on rank 0, 4 on rank 1": train(lambda r: planned(batch_size=8 // (1 + r))),
    "samples is 48 on rank 0, 49 on rank 1": train(
        lambda r: InMemoryLoader(tiny.dataset(48 + r).tensors, batch_size=8)
    ),
    "augment is False on rank 0, True on rank 1": train(
        lambda r: InMemoryLoader(tiny.dataset().tensors, batch_size=8, augment=(None, RandomCrop(1))[r])
    ),
    "their loaders are [DataLoader] on rank 0, [ResumableLoader] on rank 1": train(
        lambda r: (batches(48), planned())[r]
    ),
    "the train loader gives 6 batches on rank 0, 5 batches on rank 1": train(lambda r: batches(48 - 8 * r)),
    "whether train loaders have a length is [True] on rank 0, [False] on rank 1": train(
        lambda r: (batches(48), DataLoader(Stream(), batch_size=8))[r]
    ),
    "whether validation loaders have a length is [True] on rank 0, [True, True] on rank 1": other(
        val=lambda r: [batches(8)] * (1 + r)
    ),
    "ended by FloatingPointError after 2 steps with finite weights": other(
        callbacks=lambda r: [StopOnNaN()], train=lambda r: DataLoader(with_one_nan(20 if r else None), batch_size=8)
    ),
    "ended with lr/scale 0.75": train(lambda r: DataLoader(tiny.dataset(24 << r), batch_size=4 << r)),  # 12 of 16
    "ended": other(
        callbacks=lambda r: [RATE(), ExactAccumulation(count), WeightDistanceMonitor()],
        val=lambda r: batches(8 + 8 * r),
    ),
}


def fit(rank, callbacks=None, train=None, val=None, **options):
    """The error of a fit, or that it ended."""
    trainer = tiny.trainer(
        *(callbacks or [RATE()]),
        **({"strategy": "ddp", "devices": 2, "use_distributed_sampler": False, "num_sanity_val_steps": 0} | options),
    )
    module = tiny.Validated() if val is not None else tiny.TinyClassifier()
    try:
        trainer.fit(module, batches(48) if train is None else train, val)
    except ValueError as error:
        return f"{error} [after {trainer.global_step} steps]"
    except FloatingPointError:
        weights = "finite" if all(weight.isfinite().all() for weight in module.parameters()) else "spoilt"
        return f"ended by FloatingPointError after {trainer.global_step} steps with {weights} weights"
    return f"ended with lr/scale {float(trainer.callback_metrics.get('lr/scale', 1))}"


def main() -> None:
    rank = int(os.environ.get("LOCAL_RANK", 0))
    if sys.argv[1] == "large":
        trainer = tiny.trainer(GhostBatchNormSwap(9), strategy="ddp", devices=2)
        trainer.fit(tiny.TinyClassifier(), tiny.loader(batch_size=8))
        return
    told = {}
    for case, make in CASES.items():
        told[case] = fit(rank, **make(rank))
        print(f"RANK {rank}: {case}: {told[case]}", file=sys.stderr, flush=True)  # which one hangs, if one does
    Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
