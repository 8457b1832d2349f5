"""What the monitors measure on several processes, and the same by hand on the first; run by test_two_processes.py."""

import copy
import sys
from pathlib import Path

import torch
from lightning.pytorch import Callback
from torch.nn.functional import cross_entropy

from lightning_gap import (
    CurvatureMonitor,
    GeneralizationGapMonitor,
    GhostBatchNormSwap,
    RecomputeBatchNorm,
    SharpnessMonitor,
)
from lightning_gap.functional import DatasetLoss, FixedSubset, hessian_eigenvalues, hessian_trace, sharpness_profile

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny


class Compare(Callback):
    def __init__(self, monitors):
        self.monitors, self.found, self.expected = monitors, [], []

    def on_train_epoch_end(self, trainer, pl_module):
        sharp, batch, curved = self.monitors
        results = [*sharp.measure(trainer, pl_module), *batch.measure(trainer, pl_module)]
        ends, trace = curved.measure(trainer, pl_module)
        self.found += [*(r.percent for r in results), results[0].gradient_norm, ends.largest, trace.trace]
        if trainer.global_rank == 0:
            self.by_hand(copy.deepcopy(pl_module.net))

    def by_hand(self, net):
        """On this process alone; its BatchNorm buffers are those that all processes measure with."""
        weights = list(net.parameters())

        def loss(mode, samples):
            batches = [[x.double(), y] for x, y in FixedSubset(tiny.dataset(), samples=samples, chunk_size=8)]
            return DatasetLoss(net, lambda n, b: cross_entropy(n(b[0]), b[1]), batches, batch_norm=mode)

        results = []
        for mode in ("running", "batch"):
            results += sharpness_profile(loss(mode, 20), weights, (1e-3, 5e-4), max_evaluations=5)
        seeded = [torch.Generator().manual_seed(0) for _ in range(2)]
        ends = hessian_eigenvalues(loss("running", 20), weights, tolerance=1e-2, max_products=20, ends="largest",
                                   generator=seeded[0])  # fmt: skip
        trace = hessian_trace(loss("running", 20), weights, probes=3, generator=seeded[1])
        self.expected += [*(r.percent for r in results), results[0].gradient_norm, ends.largest, trace.trace]


def measure(devices: int) -> dict[str, object]:
    """What the monitors find on this process, with all others; on the first also the same by hand."""
    terms = {"samples": 20, "chunk_size": 8}
    monitors = (
        SharpnessMonitor(**terms),
        SharpnessMonitor(**terms, batch_norm="batch", suffix="_batch"),
        CurvatureMonitor(**terms, probes=3),
    )
    compare = Compare(monitors)
    torch.manual_seed(0)
    callbacks = [*monitors, GeneralizationGapMonitor(samples=20, chunk_size=8), compare]
    trainer = tiny.trainer(*callbacks, strategy="ddp", devices=devices, precision="64-true")
    trainer.fit(tiny.Validated(), tiny.loader(batch_size=4), tiny.loader(24, seed=2))
    gap = float(trainer.callback_metrics["gap/loss"])
    return {"found": compare.found, "expected": compare.expected, "gap": gap}


class Watched(tiny.Validated):
    """Keeps what each validation and the end see, and on the first process the same by hand."""

    def on_fit_start(self):
        self.states, self.expected = [], []

    def on_validation_batch_end(self, outputs, batch, batch_idx):
        if batch_idx == 0 and not self.trainer.sanity_checking:
            self.keep()

    def keep(self):
        layer = self.net[1]
        self.states.append(torch.stack([layer.running_mean, layer.running_var]))
        subset = FixedSubset(tiny.dataset(), chunk_size=8)  # six batches of 8, of which four processes get 2, 2, 1, 1
        inputs = [self.net[0](x.double()).detach() for x, _ in subset]
        statistics = torch.stack([torch.stack([x.mean(0), x.var(0)]) for x in inputs])
        self.expected.append(statistics.mean(0))


def recompute(devices: int) -> dict[str, object]:
    """What the layer of each process is validated with and left with."""
    torch.manual_seed(0)
    module = Watched()
    callbacks = [RecomputeBatchNorm(), GhostBatchNormSwap(4)]
    trainer = tiny.trainer(*callbacks, strategy="ddp", devices=devices, precision="64-true")
    trainer.fit(module, tiny.loader(batch_size=8), tiny.loader(24, seed=2))
    module.keep()
    return {"states": module.states, "expected": module.expected}


def main() -> None:
    devices = int(sys.argv[2])
    found = {**measure(devices), "statistics": recompute(devices)}
    torch.save(found, Path(sys.argv[1]) / f"{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    main()
