"""Cohen et al. (2021): in full-batch descent the Hessian's largest eigenvalue rises to 2 / rate and stays there.

A fully connected tanh network on digits, squared error, plain gradient descent on all training samples at once.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import ClassVar

from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lightning_gap.functional import DatasetLoss, hessian_eigenvalues

from ..evaluation import as_the_weights_are
from ..recipe import Batch, Recipe
from ..reports.drawing import blank, label, legend_below, line_with_band, look
from ..reports.parts import Chart, Numbers, Part, Published, Table
from ..runner.measurement import Measurement
from ..runner.run_store import RunSpec, TrainedRun
from .experiment import Experiment, Findings
from .scales import Choice

RATES = {0.05: "small", 0.1: "large", 0.2: "ghost-lr"}  # and which regime's colour draws it
_LOOKED_AT = 40
STEPS = {"tiny": 40, "small": 2000, "paper": 4000}


def descent(recipe: Recipe) -> list[Callback]:
    """All training samples in each step."""
    recipe.batch_size = recipe.large_batch_size
    return []


class TanhOnDigits(Recipe):
    """Two hidden layers of tanh units, squared error."""

    regimes: ClassVar = {"descent": descent}
    data_sets: ClassVar = {"digits": {}}

    def __init__(
        self,
        regime: str = "descent",
        *,
        epochs: int = 4000,
        small_batch_size: int = 1280,
        large_batch_size: int = 1280,  # all
        optimizer: str = "sgd",
        learning_rate: float = 0.1,
        validation_size: int = 157,
        sharpness_samples: int = 1280,
        width: int = 100,
    ) -> None:
        layers = [nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 10)]
        super().__init__(nn.Sequential(nn.Flatten(), *layers), regime)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Half the squared distance of the scores from one-hot targets, mean over the samples."""
        scores = self(batch[0])
        loss = squared_error(scores, batch[1])
        self.train_means.update(loss, scores.detach(), batch[1])
        return loss


def squared_error(scores: Tensor, targets: Tensor) -> Tensor:
    """As in the paper."""
    return 0.5 * (scores - one_hot(targets, 10).to(scores)).square().sum(dim=1).mean()


def eigenvalues(run: TrainedRun, *, epochs: Sequence[int]) -> list[dict[str, float]]:
    """Loss and the Hessian's largest eigenvalue on all training samples after epochs that were kept."""
    rows = []
    for epoch in epochs:
        recipe = run.recipe(epoch)
        batches = list(as_the_weights_are(recipe, run.data(recipe).evaluation("train", 1280)))
        loss = DatasetLoss(recipe, lambda network, batch: squared_error(network(batch[0]), batch[1]), batches)
        found = hessian_eigenvalues(loss, list(recipe.parameters()), tolerance=0.01, ends="largest")
        rows.append({"epoch": epoch, "step": run.step(epoch), "loss": found.loss, "eigenvalue": found.largest})
    return rows


def trace(choice: Choice, rate: float, seed: int) -> Measurement:
    """Along a run."""
    steps = STEPS[choice.scale]
    kept = tuple(sorted({round(steps * i / _LOOKED_AT) for i in range(_LOOKED_AT + 1)}))
    changed = {"learning_rate": rate, "epochs": steps}
    trainer = {"check_val_every_n_epoch": steps}
    run = RunSpec(TanhOnDigits, "descent", "digits", seed, changed, trainer, kept)
    return Measurement("eigenvalues", (run,), eigenvalues, {"epochs": list(kept)}, cost=20)


def needs(choice: Choice) -> Iterator[Measurement]:
    for seed in choice.seeds_or(3):
        for rate in RATES:
            yield trace(choice, rate, seed)


def show(choice: Choice, found: Findings) -> Iterator[Part]:
    figure, (axes,) = blank(4.4)
    rows = list[Sequence[str | Numbers]]()
    for rate, regime in RATES.items():
        like = look(regime)
        runs = [found[trace(choice, rate, seed)] for seed in choice.seeds_or(3)]
        curves = [[row["eigenvalue"] for row in run] for run in runs]
        line_with_band(axes, [row["step"] for row in runs[0]], curves, name=f"rate {rate}", like=like)
        axes.axhline(2 / rate, color=like.color, linestyle=":", linewidth=1)
        late = tuple(statistics.fmean(curve[2 * len(curve) // 3 :]) for curve in curves)
        rows.append(
            (
                f"{rate}",
                f"{2 / rate:g}",
                Numbers(tuple(curve[0] for curve in curves), 1),
                Numbers(late, 1, Published(2 / rate)),
                Numbers(tuple(value * rate / 2 for value in late), 3, Published(1.0)),
                Numbers(tuple(run[-1]["loss"] for run in runs), 4),
            )
        )
    label(axes, "step", "largest eigenvalue of the Hessian")
    legend_below(figure, axes)
    yield Chart(
        "The largest eigenvalue along the runs",
        figure,
        "The largest eigenvalue rises along each run and stays close to the dotted line of its rate, at 2 / rate.",
        "Dotted: 2 / rate. Band: 95 % interval over the seeds.",
    )
    head = ["learning rate", "2 / rate", "eigenvalue at the start", "mean over the last third", "over 2 / rate", "loss"]
    yield Table("At the edge of stability", head, rows, "The paper's numbers are 2 / rate, above which it hovers.")


EXPERIMENT = Experiment(
    "Cohen et al. (2021): the edge of stability",
    (),
    needs,
    show,
    {"network": "64, 100, 100, 10 with tanh, squared error; the paper's: 3,072, 200, 200, 10 on 5,000 CIFAR-10 images"},
)
