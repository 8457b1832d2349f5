"""Log how sharp the current solution is, while it trains."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, get_args

from lightning.pytorch import LightningModule, Trainer
from lightning_utilities.core.rank_zero import rank_zero_warn

from ..functional._validation import flag, one_of, seed_number, text, whole_number
from ..functional.dataset_loss import BatchNormMode
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
from ._arguments import optional_function
from ._evaluations import LossFunction
from ._fixed_subset import Batches, Count
from ._loader_subset import reading
from ._module_loss import MeasuredLoss, trained_weights
from ._schedule import EveryNEpochs, Schedule, check_every_n_epochs, check_time_share
from ._scheduled_monitor import LossMonitor, NoValueError

_QUANTILES = {"weight_p05": 0.05, "weight_p50": 0.5, "weight_p95": 0.95}
_FINAL_SAMPLES = 10_000  # where the value of a well-fitted small-batch solution has settled


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
        every_n_epochs: Measure at the end of every n-th epoch, or with "log" of epochs 1, 2, 4, 8, ...; and at the end
            of the run.
        at_start: Measure also before the first step.
        accurate_at_end: Measure at the end of the run also what to publish: the ascent on 10,000 samples and the
            loss on all training samples, logged as ``sharpness/full_eps1e-3_final`` and ``sharpness/loss_final``.
            Takes about as long as an epoch, or two.
        samples: Training samples to measure on. On a well-fitted small-batch solution the value settles only at
            about 10,000; keep the number and ``seed`` equal in runs that you compare.
        chunk_size: Most samples in memory at a time; with ``batch_norm="batch"`` it is part of the definition. With
            several chunks the search begins on halves of them.
        batch_norm: ``"running"`` evaluates with running statistics, ``"batch"`` with those of each chunk, as the
            paper's networks did, ``"recomputed"`` with those of the samples, gathered afresh. On large-batch solutions
            the first gives about ten times the second.
        method: ``"corner"``, or ``"lbfgsb"``, the paper's (needs SciPy); see `lightning_gap.functional.sharpness`.
        max_evaluations: Most evaluations of the loss for one epsilon.
        subspace: Dimension of the random subspace to seek in, drawn by ``seed``; the paper's has 100. By default the
            full space.
        relative: Make the box relative to ``|x_i|`` alone, which no rescaling of the weights can fool.
        norm: ``"max"`` for the box, ``"l2"`` for the ball of sharpness-aware minimization.
        seed: Seed of the subset of samples.
        data: Batches to measure on instead of the subset, as `training_step` takes them.
        loss_fn: Mean loss of one batch, a function of (module, batch), instead of `training_step`.
        count: What the mean loss of a batch is taken over, a function of the batch, for instance its tokens. By default
            its samples; needed for ``data`` whose tensors do not agree on a first axis.
        max_time_share: Most time that measuring between the first and the last epoch may take, as a share of the
            training time; measurements wait until it allows them. Ten seconds are free. None for no limit.
        suffix: Appended to the keys, so that two monitors can stand side by side.

    Raises:
        ValueError: If an argument is out of range; before the first step, if no fixed subset can be drawn, the loss
            cannot be measured, the strategy shards the weights, or two monitors log the same key.

    Reference:
        Keskar et al. (2017), Metric 2.1 and Figure 6; see `lightning_gap.functional.sharpness`.
    """

    _quantity = "sharpness"

    def __init__(
        self,
        epsilon: float | tuple[float, ...] = (1e-3, 5e-4),
        *,
        every_n_epochs: EveryNEpochs = 1,
        at_start: bool = False,
        accurate_at_end: bool = False,
        samples: int = 768,
        chunk_size: int = 250,
        batch_norm: BatchNormMode = "running",
        method: Method = "corner",
        max_evaluations: int = 5,
        subspace: int | None = None,
        relative: bool = False,
        norm: Norm = "max",
        seed: int = 0,
        data: Iterable[Any] | None = None,
        loss_fn: LossFunction | None = None,
        count: Count | None = None,
        max_time_share: float | None = 0.1,
        suffix: str = "",
    ) -> None:
        self.epsilon = checked_epsilons(epsilon if isinstance(epsilon, tuple | list) else (epsilon,))
        if len(set(map(epsilon_name, self.epsilon))) < len(self.epsilon):
            raise ValueError(f"epsilon must hold sizes that differ in six digits, for their keys, got {self.epsilon}")
        if data is not None and accurate_at_end:
            raise ValueError("accurate_at_end draws from the train loader, and data=... was given; leave one out")
        self.every_n_epochs = check_every_n_epochs(every_n_epochs)
        self.at_start = flag("at_start", at_start)
        self.accurate_at_end = flag("accurate_at_end", accurate_at_end)
        self.samples = whole_number("samples", samples)
        self.chunk_size = whole_number("chunk_size", chunk_size)
        self.batch_norm: BatchNormMode = one_of("batch_norm", batch_norm, get_args(BatchNormMode))
        self.subspace = None if subspace is None else whole_number("subspace", subspace, hint="the paper: 100")
        self.seed = seed_number("seed", seed)
        self.data = data
        self.loss_fn = optional_function("loss_fn", loss_fn)
        self.count = optional_function("count", count, "the batch")
        self.max_time_share = check_time_share(max_time_share)
        self.suffix = text("suffix", suffix)
        directions = None if self.subspace is None else RandomSubspace(self.subspace, seed=self.seed)
        self._search = Search(
            method=method, max_evaluations=max_evaluations, subspace=directions, relative=relative, norm=norm
        )
        self.method: Method = method
        self.max_evaluations = self._search.max_evaluations
        self.relative = self._search.relative
        self.norm: Norm = norm
        self._schedule = Schedule(self.every_n_epochs, self.max_time_share)
        self._loss = MeasuredLoss(
            data=data,
            loss_fn=self.loss_fn,
            samples=self.samples,
            chunk_size=self.chunk_size,
            batch_norm=batch_norm,
            seed=self.seed,
            count=self.count,
        )
        self._history: list[dict[str, float]] = []
        self._told = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys this monitor logs."""
        final = (*self._names("_final"), "loss_final") if self.accurate_at_end else ()
        names = (*self._names(), "loss", "gradient_norm", *_QUANTILES, *final)
        return tuple(f"sharpness/{name}{self.suffix}" for name in names)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage == "fit":  # runs before a checkpoint is loaded: what was measured in an earlier fit is over
            self._history, self._told = [], False

    def _draw(self, trainer: Trainer, module: LightningModule) -> None:
        super()._draw(trainer, module)
        if self._search.subspace:
            self._search.subspace.check(sum(weight.numel() for weight in trained_weights(trainer, module).values()))

    def _measure_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.accurate_at_end and not is_trial(trainer):
            log_now(trainer, self._final_values(trainer, module))
        if trainer.is_global_zero and len(self._history) > 1:
            log_figure(trainer.loggers, f"sharpness/against_loss{self.suffix}", self.figure, step=trainer.global_step)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"history": [dict(point) for point in self._history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._history = list(state_dict["history"])

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> tuple[Sharpness, ...]:
        """Measure now, inside fit; one result for each epsilon, nothing logged.

        Raises:
            UndefinedSharpnessError: If the loss at the weights is not finite, or -1 or below.
        """
        with self._loss.undisturbed(trainer, pl_module):
            return self._profile(trainer, pl_module)

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
        return tuple(f"{kind}_eps{epsilon_name(epsilon)}{ending}" for epsilon in self.epsilon)

    def _values(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        sizes = self._weight_sizes(trainer, module)
        results = self.measure(trainer, module)
        self._tell(results)
        found = [*(result.percent for result in results), results[0].loss, results[0].gradient_norm]
        return self._noted(trainer, found, sizes)

    def _no_values(self, trainer: Trainer) -> dict[str, float]:
        return self._noted(
            trainer, [math.nan] * (len(self.epsilon) + 2), self._weight_sizes(trainer, trainer.lightning_module)
        )

    def _weight_sizes(self, trainer: Trainer, module: LightningModule) -> tuple[float, ...]:
        return tuple(weight_quantiles(trained_weights(trainer, module).values(), tuple(_QUANTILES.values())))

    def _noted(self, trainer: Trainer, found: list[float], sizes: tuple[float, ...]) -> dict[str, float]:
        """The values by their keys; they are a point of the figure."""
        named = dict(zip((*self._names(), "loss", "gradient_norm", *_QUANTILES), (*found, *sizes), strict=True))
        self._history.append({"step": float(trainer.global_step), **named})
        return {f"sharpness/{name}{self.suffix}": value for name, value in named.items()}

    def _final_values(self, trainer: Trainer, module: LightningModule) -> dict[str, float]:
        """The value to publish: ascent on 10,000 samples, loss on all."""
        try:
            found = self._attempt(lambda: self._final(trainer, module), trainer, module)
        except NoValueError as error:
            rank_zero_warn(f"sharpness is logged as NaN: {error}")
            found = [math.nan] * (len(self.epsilon) + 1)
        names = (*self._names("_final"), "loss_final")
        return {f"sharpness/{name}{self.suffix}": value for name, value in zip(names, found, strict=True)}

    def _final(self, trainer: Trainer, module: LightningModule) -> list[float]:
        ascent = self._loss.draw_more(trainer, _FINAL_SAMPLES)
        everything = self._loss.everything(trainer)  # too many to hold
        with self._loss.undisturbed(trainer, module), reading(trainer.train_dataloader, "data"):
            results = self._profile(trainer, module, ascent, everything)
        self._tell(results)
        return [*(result.percent for result in results), results[0].loss]

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
        self,
        trainer: Trainer,
        module: LightningModule,
        ascent: Batches | None = None,
        report_on: Batches | None = None,
    ) -> tuple[Sharpness, ...]:
        reported = self._loss.on(trainer, module, report_on) if report_on else None
        search, loss = replace(self._search, report_on=reported), self._loss.on(trainer, module, ascent)
        return search.profile(loss, trained_weights(trainer, module), self.epsilon, process_group(trainer))
