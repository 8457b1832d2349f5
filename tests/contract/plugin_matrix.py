"""The cells of the plugins' matrix as a user's own fits; those of two processes are run by test_plugin_matrix.py."""

import collections
import itertools
import pickle
import sys
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap import (
    AdversarialTraining,
    ConservativeTraining,
    ExactAccumulation,
    GhostBatchNormSwap,
    GradientPenalty,
    ResumableLoader,
    ResumeExactly,
    SharpnessAwareMinimization,
)

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
import plugin_oracle as oracle
import tiny

MICRO_BATCH = oracle.MICRO_BATCH


def plugins(cell):
    m = {
        oracle.PER_STEP: None,
        oracle.OF_PROCESS: MICRO_BATCH * cell.accumulation,
        oracle.OF_MICRO_BATCH: MICRO_BATCH,
    }[cell.shared_by]
    made = {
        "sam": lambda: SharpnessAwareMinimization(0.2, m=m),
        "asam": lambda: SharpnessAwareMinimization(adaptive=True, m=m),
        "conservative": lambda: ConservativeTraining(0.5),
        "penalty": lambda: GradientPenalty(0.3, m=m),
        "adversarial": lambda: AdversarialTraining(0.2),
    }
    return [made[name]() for name in cell.method.split(" then ")]


class Module(tiny.TinyClassifier):
    def __init__(self):
        super().__init__()
        self.net = oracle.network(nn.BatchNorm1d)

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            step = batch_idx // self.trainer.accumulate_grad_batches
            torch.manual_seed(oracle.seed(self.global_rank, self.trainer.current_epoch, step))

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return oracle.optimizer_of(self.parameters())


def fit(cell, *callbacks, ckpt_path=None, module=None, **options):
    """Train one cell, or resume it; what the oracle gives at the end, of this process."""
    scaler = oracle.scaler() if cell.precision == "16-mixed" else None
    options |= {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]} if scaler else {"precision": cell.precision}
    if cell.processes > 1:
        options |= {"strategy": DDPStrategy(static_graph=cell.static_graph), "devices": cell.processes}
    others = [GhostBatchNormSwap(oracle.GHOST)] if cell.norm == "ghosts" else []
    others += [ExactAccumulation()] if cell.accumulation > 1 else []  # micro-batches are alike: it changes nothing
    trainer = tiny.trainer(
        *plugins(cell),
        *others,
        ResumeExactly(),
        *callbacks,
        max_epochs=oracle.EPOCHS,
        accumulate_grad_batches=cell.accumulation,
        gradient_clip_val=oracle.CLIP if cell.clipping else None,
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        use_distributed_sampler=False,
        **options,
    )
    module = module or Module()
    loader = ResumableLoader(tiny.dataset(cell.samples), batch_size=MICRO_BATCH, reseed=False)
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    (optimizer,) = trainer.optimizers
    return {
        "weights": {name: weight.detach().clone() for name, weight in module.net.named_parameters()},
        "momentum": [optimizer.state.get(w, {}).get("momentum_buffer") for w in module.parameters()],
        "buffers": [buffer.clone() for buffer in module.buffers()],
        "scale": None if scaler is None else scaler.get_scale(),
    }


def ends(cell, folder):
    """The end of the whole run, and of those that go on where the cell says."""
    saves = ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=min(cell.resumed_at))
    whole = fit(cell, saves)
    return [whole, *(fit(cell, ckpt_path=Path(folder, f"step={step}.ckpt")) for step in cell.resumed_at)]


METHODS = ("sam", "asam", "conservative", "penalty", "adversarial")
FACTORS = {
    "method": METHODS,
    "accumulation": (1, 4),
    "precision": ("64-true", "32-true", "bf16-mixed", "16-mixed"),
    "processes": (1, 2),
    "norm": ("batch", "ghosts"),
    "clipping": (False, True),
}
WHOLE = [oracle.Cell(*values) for values in itertools.product(*FACTORS.values())]
FACTORS["resumed"] = range(1, oracle.EPOCHS * oracle.STEPS)


def pairwise():
    """Few cells that have every pair of values: each time one with the most new pairs, and the rarest values so far."""
    cells = {
        oracle.Cell(**dict(values)): frozenset(itertools.combinations(values, 2))
        for values in itertools.product(*([(name, value) for value in values] for name, values in FACTORS.items()))
    }
    missing, used, found = set().union(*cells.values()), collections.Counter(), []

    def worth(cell):
        return len(missing & cells[cell]), -sum(used[name, getattr(cell, name)] for name in FACTORS)

    while missing:
        found.append(max(cells, key=worth))
        missing -= cells[found[-1]]
        used.update((name, getattr(found[-1], name)) for name in FACTORS)
    return found


# Beyond the matrix: whose gradient is changed, two plugins together, and a static graph.
OTHERS = [
    oracle.Cell("sam", 4, "64-true", 2, "ghosts", True, 2, oracle.OF_PROCESS),
    oracle.Cell("sam", 4, "64-true", 2, "batch", False, 4, oracle.OF_MICRO_BATCH),
    oracle.Cell("penalty", 4, "64-true", 2, "batch", True, 2, oracle.OF_PROCESS),
    oracle.Cell("penalty", 4, "64-true", 2, "ghosts", False, 4, oracle.OF_MICRO_BATCH),
    oracle.Cell("adversarial then sam", 4, "64-true", 2, "ghosts", True, 3),
    oracle.Cell("adversarial then sam", 1, "64-true", 2, "batch", True, 1, static_graph=True),
    oracle.Cell("conservative", 1, "64-true", 2, "batch", True, 5, static_graph=True),
]
REFUSED = {
    "process": oracle.Cell("sam", 1, "64-true", 2, "batch", False, 1, oracle.OF_PROCESS, static_graph=True),
    "micro-batch": oracle.Cell("penalty", 4, "64-true", 2, "batch", False, 1, oracle.OF_MICRO_BATCH, static_graph=True),
}


def refusal(cell):
    """What the fit is refused with, and whether the weights are those that it began with."""
    module = Module()
    before = tiny.state_of(module)
    try:
        fit(cell, module=module)
    except ValueError as error:
        return str(error), tiny.same(tiny.state_of(module.float()), before)


if __name__ == "__main__":
    file, folder = Path(sys.argv[1]), Path(sys.argv[2])
    found = {}
    for number, cell in enumerate(pickle.loads(file.read_bytes())):
        found[str(cell)] = ends(cell, folder / str(number))
    found["refused"] = {gradients: refusal(cell) for gradients, cell in REFUSED.items()}
    torch.save(found, folder / f"{torch.distributed.get_rank()}.pt")
