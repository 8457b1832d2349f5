"""Log how sharp the current solution is, while it trains."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from ..functional._validation import flag, whole_number
from ..functional.sharpness._lbfgsb import require_scipy
from ..functional.sharpness._neighbourhood import Norm
from ..functional.sharpness._search import Search
from ..functional.sharpness.random_subspace import RandomSubspace
from ..functional.sharpness.result import Method, Sharpness
from ..functional.sharpness.sharpness import checked_epsilons, epsilon_name
from ..functional.weight_quantiles import weight_quantiles
from ..logging.figure_sink import log_figure
from ..logging.figures import sharpness_figure
from ..trainer.logs import log_now
from ..trainer.processes import process_group
from ..trainer.progress import is_trial
from ._arguments import optional_whole_number
from ._attempts import NoValueError
from ._evaluations import Evaluations
from ._fixed_subset import Batches, lazy_subset
from ._loader_subset import reading
from ._loss_monitor import LossMonitor
from ._module_loss import trained_weights

_QUANTILES = {"weight_p05": 0.05, "weight_p50": 0.5, "weight_p95": 0.95}


@dataclass(kw_only=True, eq=False, repr=False)
class SharpnessMonitor(LossMonitor):
    """Log the sharpness of the solution: the rise of the loss, in percent, within a small box around the weights.

    The loss comes from your own `training_step`, run silenced and isolated in evaluation mode on a fixed subset of
    the training data; ``loss_fn`` overrides it. The run is bit for bit the same with and without the monitor.

    Logs at the end of an epoch, in percent, ``sharpness/full_eps1e-3`` for each epsilon (instead of ``full``:
    ``relative``, ``subspace``, ``l2``, ``l2_relative``), and beside it, on the same samples and at the weights
    themselves, ``sharpness/loss`` and ``sharpness/gradient_norm``, and the 5, 50 and 95 % quantiles of ``|x_i|``,
    ``sharpness/weight_p05``, ``_p50`` and ``_p95``. When fit ends, a figure of sharpness against loss.
    Where the loss is not finite somewhere in the box, sharpness is infinite or NaN, with one warning.

    Args:
        epsilon: Half-widths of the box, relative to ``|x_i| + 1``. The paper uses 1e-3 and 5e-4.
        accurate_at_end: Measure at the end of the run also what to publish: by ``method="best"`` (needs SciPy; in a
            ball by gradient ascent), with the ascent on ``accurate_samples`` and the loss on all training samples.
            Logged once as ``sharpness/full_eps1e-3_final`` and ``sharpness/loss_final``, not if an exception ends the
            run; the attribute ``final`` holds the results with their terms. ``max_time_share`` does not limit it, and
            it takes as long as several epochs: the card has measurements.
        accurate_samples: Training samples of that ascent.
        samples: Training samples to measure on. On a well-fitted small-batch solution the value settles only at
            about 10,000; keep the number and ``seed`` equal in runs that you compare.
        method: ``"corner"``; ``"lbfgsb"``, the paper's, or ``"best"``, the highest of both (these need SciPy). See
            `lightning_gap.functional.sharpness`.
        max_evaluations: Most evaluations of the loss for one epsilon.
        subspace: Dimension of the random subspace to seek in, drawn by ``seed``; the paper's has 100. By default the
            full space.
        relative: Make the box relative to ``|x_i|`` alone, which no rescaling of the weights can fool.
        norm: ``"max"`` for the box, ``"l2"`` for the ball of sharpness-aware minimization.

    The other arguments are those of `Monitor`, `SubsetMonitor` and `LossMonitor`. With ``batch_norm="batch"`` the chunk
    size is part of the definition; with several chunks the search begins on halves of them.

    Raises:
        ValueError: If an argument is out of range; before the first step, if no fixed subset can be drawn, the loss
            cannot be measured, the strategy shards the weights, or two monitors log the same key.
        ImportError: If SciPy is needed and not installed.

    Attributes:
        final: The results of ``accurate_at_end``, one for each epsilon; empty before the end, or without a value.

    Reference:
        Keskar et al. (2017), Metric 2.1 and Figure 6; see `lightning_gap.functional.sharpness`.
    """

    area = "sharpness"
    quantity = "sharpness"

    epsilon: float | tuple[float, ...] = field(default=(1e-3, 5e-4), kw_only=False)
    accurate_at_end: bool = False
    accurate_samples: int = 10_000  # where the value of a well-fitted small-batch solution has settled
    samples: int = 768
    method: Method = "corner"
    max_evaluations: int = 5
    subspace: int | None = None
    relative: bool = False
    norm: Norm = "max"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._told = False
        self.final: tuple[Sharpness, ...] = ()
        self._final_step: int | None = None

    def check_arguments(self) -> None:
        super().check_arguments()
        epsilon: Any = self.epsilon
        self.epsilon = self._epsilons = checked_epsilons(epsilon if isinstance(epsilon, tuple | list) else (epsilon,))
        if len(set(map(epsilon_name, self._epsilons))) < len(self._epsilons):
            raise ValueError(f"epsilon must hold sizes that differ in six digits, for their keys, got {self.epsilon}")
        if self.data is not None and self.accurate_at_end:
            raise ValueError("accurate_at_end draws from the train loader, and data=... was given; leave one out")
        self.accurate_at_end = flag("accurate_at_end", self.accurate_at_end)
        self.accurate_samples = whole_number("accurate_samples", self.accurate_samples, unit="samples")
        self.subspace = optional_whole_number("subspace", self.subspace, hint="the paper: 100")
        self._search = Search(
            method=self.method,
            max_evaluations=self.max_evaluations,
            subspace=None if self.subspace is None else RandomSubspace(self.subspace, seed=self.seed),
            relative=self.relative,
            norm=self.norm,
        )
        self.max_evaluations, self.relative = self._search.max_evaluations, self._search.relative
        if self.accurate_at_end and self.norm == "max":
            require_scipy("accurate_at_end=True", "leave it out")

    @property
    def names(self) -> tuple[str, ...]:
        """What is logged, without area and suffix."""
        final = (*self._names("_final"), "loss_final") if self.accurate_at_end else ()
        return (*self._names(), "loss", "gradient_norm", *_QUANTILES, *final)

    @property
    def optional_names(self) -> tuple[str, ...]:
        """What is logged by `finish` alone."""
        return (*self._names("_final"), "loss_final")

    @property
    def plotted(self) -> tuple[str, ...]:
        """Sharpness, for each epsilon."""
        return self._names()

    def begin(self, trainer: Trainer) -> None:
        super().begin(trainer)
        self._told, self.final, self._final_step = False, (), None

    def draw(self, trainer: Trainer, module: LightningModule) -> None:
        super().draw(trainer, module)
        if self._search.subspace:
            self._search.subspace.check(sum(weight.numel() for weight in trained_weights(trainer, module).values()))

    def finish(self, trainer: Trainer, module: LightningModule) -> None:
        if self.accurate_at_end and not is_trial(trainer):
            log_now(trainer, self._final_values(trainer, module))
            self._final_step = trainer.global_step
        if trainer.is_global_zero and len(self._history) > 1:
            log_figure(trainer.loggers, f"sharpness/against_loss{self.suffix}", self.figure, step=trainer.global_step)

    def owes_at_end(self, trainer: Trainer) -> bool:
        return self.accurate_at_end and self._final_step != trainer.global_step

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"final_step": self._final_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._final_step = state_dict.get("final_step")

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> tuple[Sharpness, ...]:
        """Measure now, inside fit; one result for each epsilon, nothing logged.

        Raises:
            UndefinedSharpnessError: If the loss at the weights is not finite, or -1 or below.
        """
        with self.undisturbed(trainer, pl_module) as evaluations:
            return self._profile(evaluations, self._search)

    def figure(self) -> Any:
        """Sharpness against loss along the run so far, as a matplotlib figure."""
        losses = [point["loss"] for point in self._history]
        return sharpness_figure(
            losses,
            {name: [point.get(name, math.nan) for point in self._history] for name in self._names()},
            steps=[int(point["step"]) for point in self._history],
        )

    def _names(self, ending: str = "") -> tuple[str, ...]:
        kind = "l2" if self.norm == "l2" else "subspace" if self.subspace else "" if self.relative else "full"
        kind = "_".join(part for part in (kind, "relative" if self.relative else "") if part)
        return tuple(f"{kind}_eps{epsilon_name(epsilon)}{ending}" for epsilon in self._epsilons)

    def named(self, trainer: Trainer, module: LightningModule, result: tuple[Sharpness, ...]) -> dict[str, float]:
        self._tell(result)
        found = [*(each.percent for each in result), result[0].loss, result[0].gradient_norm]
        return self._with_quantiles(trainer, module, found)

    def unknown(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        return self._with_quantiles(trainer, module, [math.nan] * (len(self._epsilons) + 2))

    def _with_quantiles(self, trainer: Trainer, module: LightningModule, found: list[float]) -> dict[str, float]:
        """What was found by name, with the quantiles of the weights."""
        sizes = weight_quantiles(trained_weights(trainer, module).values(), tuple(_QUANTILES.values()))
        return dict(zip((*self._names(), "loss", "gradient_norm", *_QUANTILES), (*found, *sizes), strict=True))

    def _final_values(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """The value to publish: the highest of three ascents on many samples, loss on all."""
        try:
            found = self._attempt(lambda: self._final(trainer, module), trainer, module)
        except NoValueError as error:
            rank_zero_warn(f"sharpness is logged as NaN: {error}")
            found = [math.nan] * (len(self._epsilons) + 1)
        names = (*self._names("_final"), "loss_final")
        return self._by_key(dict(zip(names, found, strict=True)))

    def _final(self, trainer: Trainer, module: LightningModule) -> list[float]:
        loader = trainer.train_dataloader
        ascent = self._drawn({"data": (None, loader)}, self.accurate_samples)["data"]
        search = replace(self._search, method="best") if self.norm == "max" else self._search
        with self.undisturbed(trainer, module) as evaluations, reading(loader, "data"):
            everything = lazy_subset(loader, "data", chunk_size=self._chunk_size, seed=self.seed, count=self.count)
            search = replace(search, report_on=self.loss(evaluations, everything))
            self.final = self._profile(evaluations, search, ascent)
        self._tell(self.final)
        return [*(result.percent for result in self.final), self.final[0].loss]

    def _tell(self, results: tuple[Sharpness, ...]) -> None:
        """Say once what it means that a sharpness is not finite."""
        broken = next((result for result in results if result.non_finite), None)
        if broken is not None and not self._told:
            self._told = True
            what = "infinite" if broken.percent == math.inf else "NaN or had no finite gradient"
            rank_zero_warn(
                f"sharpness is logged as {broken.percent}, which is said once: the loss is finite at the weights, but "
                f"{what} in {broken.non_finite} of {broken.evaluations} evaluations within epsilon={broken.epsilon}; "
                "measure a smaller epsilon, or see what overflows there"
            )

    def _profile(
        self, evaluations: Evaluations, search: Search, ascent: Batches | None = None
    ) -> tuple[Sharpness, ...]:
        trainer, weights = evaluations.trainer, trained_weights(evaluations.trainer, evaluations.module)
        return search.profile(self.loss(evaluations, ascent), weights, self._epsilons, process_group(trainer))
