"""Smith (2017): the range test of the learning rate, and rates that go up and down, beside a fixed one.

C1 with momentum and the small batch. Cyclical rates are torch's `CyclicLR`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from lightning.pytorch import Callback
from torch.optim.lr_scheduler import CyclicLR, LambdaLR

from ..c1 import C1
from ..recipe import Recipe
from ..regimes import small
from ..reports.drawing import SERIES, blank, label, line_with_band
from ..reports.parts import Chart, Numbers, Part, Remark, Table
from ..runner.measurement import Measurement
from ..runner.run_store import RunSpec
from .experiment import Experiment, Findings
from .measures import by_epoch
from .scales import Choice
from .sgd_c1 import sgd_run

HIGHEST = 0.5  # rate at the end of the range test
BASE, MAXIMUM = 0.005, 0.05  # of the cycles: the maximum is ten times the base
_CYCLES = 4
_POLICIES = {
    "fixed": "fixed rate",
    "triangular": "triangular",
    "triangular2": "triangular, halved with each cycle",
    "exp_range": "triangular, falling exponentially",
}


class CyclicC1(C1):
    """C1 whose rate a regime moves with every step."""

    def configure_optimizers(self) -> Any:
        """The recipe's, and a scheduler of each step where the regime has one."""
        optimizer: Any = super().configure_optimizers()
        if self.regime == "fixed":
            return optimizer
        try:
            steps = int(self.trainer.estimated_stepping_batches)
        except RuntimeError:  # no Trainer yet: only the optimizer is to be checked
            return optimizer
        scheduler: Any
        policy: Any = self.regime  # torch's own names
        if self.regime == "range":  # from near 0 to the highest, a step at a time
            scheduler = LambdaLR(optimizer, lambda step: (step + 1) / steps * HIGHEST / self.learning_rate)
        else:
            half = max(1, steps // (2 * _CYCLES))
            # In the last form the cycles' height falls to a quarter over the run, as it does in the second.
            scheduler = CyclicLR(
                optimizer, BASE, MAXIMUM, half, mode=policy, gamma=0.25 ** (1 / steps), cycle_momentum=False
            )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _small(recipe: Recipe) -> list[Callback]:
    """The small batch."""
    return small(recipe)


CyclicC1.regimes = dict.fromkeys((*_POLICIES, "range"), _small)


def run(choice: Choice, regime: str, seed: int, **more: Any) -> RunSpec:
    """The fixed rate is the middle of the cycles."""
    plain = sgd_run(choice, "small", seed, learning_rate=(BASE + MAXIMUM) / 2, **more)
    return RunSpec(CyclicC1, regime, plain.data, seed, plain.changed, plain.trainer, plain.kept_epochs)


def range_test(choice: Choice, seed: int) -> Measurement:
    """Accuracy after every epoch of the rising rate."""
    epochs = choice.epochs("c1")
    kept = tuple(range(1, epochs + 1))
    return Measurement("by-epoch", (run(choice, "range", seed, kept=kept),), by_epoch, {"epochs": list(kept)})


def needs(choice: Choice) -> Iterator[RunSpec | Measurement]:
    for seed in choice.seeds_or(3):
        yield range_test(choice, seed)
        for regime in _POLICIES:
            yield run(choice, regime, seed)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    seeds, epochs = choice.seeds_or(3), choice.epochs("c1")
    curves = [found[range_test(choice, seed)] for seed in seeds]
    rates = [HIGHEST * row["epoch"] / epochs for row in curves[0]]
    figure, (axes,) = blank(4)
    line_with_band(axes, rates, [[row["train_accuracy"] for row in own] for own in curves], name="", like=SERIES[0])
    label(axes, "learning rate", "training accuracy (%)")
    yield Chart(
        "Range test",
        figure,
        "Training accuracy while the learning rate rises linearly over the run: it rises, then falls.",
        "A point for each epoch. Band: 95 % interval over the seeds.",
    )
    tops = [rates[max(range(len(own)), key=lambda i: own[i]["train_accuracy"])] for own in curves]
    yield Remark(
        f"Accuracy is highest at a rate of {', '.join(f'{top:.3g}' for top in tops)} (by seed); the cycles go from "
        f"{BASE} to {MAXIMUM}."
    )
    rows = list[Sequence[str | Numbers]]()
    fixed = [100 * found[run(choice, "fixed", seed)].test_accuracy for seed in seeds]
    for regime, title in _POLICIES.items():
        own = [100 * found[run(choice, regime, seed)].test_accuracy for seed in seeds]
        more = tuple(a - b for a, b in zip(own, fixed, strict=True))
        above = "-" if regime == "fixed" else Numbers(more, differences=True)
        rows.append((title, Numbers(tuple(own)), above))
    head = ["policy", "test accuracy %", "above the fixed rate, points"]
    yield Table("Policies", head, rows, f"{_CYCLES} cycles in the run; the fixed rate is their middle.")


EXPERIMENT = Experiment(
    "Smith (2017): the range test and cyclical learning rates",
    ("c1",),
    needs,
    show,
    {"optimizer": "SGD, momentum 0.9, weight decay 5e-4; the paper's network and rates are others"},
)
