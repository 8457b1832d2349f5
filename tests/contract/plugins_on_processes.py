"""Train under each plugin on several processes; run by test_plugins_on_processes.py."""

import os
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset

from lightning_gap import (
    AdversarialTraining,
    ConservativeTraining,
    ExactAccumulation,
    GradientPenalty,
    SharpnessAwareMinimization,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny

# Two processes with two micro-batches of four samples each; whose gradient is changed then has so many samples.
CASES = {
    "none": (list, 16),
    "sam": (lambda: SharpnessAwareMinimization(0.2), 16),
    "asam": (lambda: SharpnessAwareMinimization(adaptive=True), 16),
    "sam of a process": (lambda: SharpnessAwareMinimization(0.2, m=8), 8),
    "sam of a micro-batch": (lambda: SharpnessAwareMinimization(0.2, m=4), 4),
    "penalty": (lambda: GradientPenalty(0.3), 16),
    "penalty of a process": (lambda: GradientPenalty(0.3, m=8), 8),
    "penalty of a micro-batch": (lambda: GradientPenalty(0.3, m=4), 4),
    "conservative": (lambda: ConservativeTraining(0.5), 16),
    "adversarial": (lambda: AdversarialTraining(0.2), 16),
    "adversarial, then sam": (lambda: [AdversarialTraining(0.2), SharpnessAwareMinimization(0.2)], 16),
}


class Plain(tiny.TinyClassifier):
    """Nothing that depends on which samples come together, or on chance."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))


def train(plugins, loader, **options):
    callbacks = plugins if isinstance(plugins, list) else [plugins]
    torch.manual_seed(0)
    module = Plain()
    trainer = tiny.trainer(*callbacks, ExactAccumulation(), precision="64-true", gradient_clip_val=0.5, **options)
    trainer.fit(module, loader)
    return tiny.state_of(module)


if __name__ == "__main__":
    folder, devices = Path(sys.argv[1]), int(sys.argv[2])
    rank = int(os.environ["RANK"])
    loader = DataLoader(Subset(tiny.dataset(48), range(rank, 48, devices)), batch_size=4)
    options = {"strategy": "ddp", "devices": devices, "accumulate_grad_batches": 2, "use_distributed_sampler": False}
    found = {name: train(make(), loader, **options) for name, (make, _) in CASES.items()}
    torch.save(found, folder / f"{rank}.pt")
