"""Find the critical batch size of a recipe along its run: which branches to train, and what they come to."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_gap.functional import largest_harmless_factor
from lightning_gap.functional._validation import each, real_number, whole_number

from ..runner.plan import Plan
from ..runner.records import read_record
from ..runner.telling import Say, silent
from ..runner.whole_files import write_record
from .branching import Fork, branch, train_up_to


@dataclass(frozen=True)
class Search:
    """Where a run branches, and into what.

    Attributes:
        at: Shares of the small batch's run after which it branches.
        factors: On the small batch; 1 among them.
        samples: That each branch trains on, a multiple of the largest batch.
        tolerance: As in `largest_harmless_factor`.
        run: Samples of the small batch's run.
        steps: Its optimizer steps by share of ``at``.
    """

    at: tuple[float, ...]
    factors: tuple[int, ...]
    samples: int
    tolerance: float
    run: int
    steps: Mapping[float, int]

    @classmethod
    def of(
        cls, plan: Plan, *, at: Sequence[float], factors: Sequence[int], samples: int | None, tolerance: float
    ) -> Search:
        """With what was left open filled in: branches of a tenth of the run, of the largest batch at least 4 steps.

        Raises:
            ValueError: If an option is out of range, or a branch would outlast the run.
        """
        shares = each("at", at, lambda name, share: real_number(name, share, above=0, below=1))
        chosen = each("factors", factors, whole_number)
        for name, values in (("at", shares), ("factors", chosen)):
            if not values:
                raise ValueError(f"{name} must name at least one, got []")
            if sorted(set(values)) != list(values):
                raise ValueError(f"{name} must rise, got {' '.join(map(str, values))}")
        if chosen[0] != 1 or len(chosen) < 2:
            raise ValueError(f"factors must begin with 1 and have others to compare, got {' '.join(map(str, chosen))}")
        base = plan.settings.hyperparameters["small_batch_size"]
        largest = base * chosen[-1]
        recipe = plan.recipe("small", plan.settings.seed)
        training = len(plan.data(recipe, plan.settings.seed).train)
        run, total = recipe.epochs * training, recipe.epochs * math.ceil(training / base)
        if largest > training:
            raise ValueError(
                f"factors={chosen[-1]} makes a batch of {largest}, more than the {training} training samples; leave it "
                f"out, or lower --small_batch_size {base}"
            )
        wanted = run / 10 if samples is None else whole_number("samples", samples)
        if samples is not None and wanted < 4 * largest:
            raise ValueError(
                f"samples={samples} is less than 4 steps of the largest batch, {largest}; use at least {4 * largest}, "
                "or fewer factors"
            )
        long = max(4, round(wanted / largest)) * largest
        if shares[-1] * run + long > run:
            raise ValueError(
                f"at={shares[-1]:g} leaves {run - round(shares[-1] * run):,} samples of the run, fewer than the "
                f"{long:,} of a branch, whose learning rate would then be that of no run; branch at most at "
                f"{math.floor(1000 * (1 - long / run)) / 1000:g}, or use fewer samples or factors"
                if long < run
                else f"branches of {long:,} samples are no shorter than the run of {run:,}; use fewer samples or "
                "factors, or more epochs"
            )
        tolerance = real_number("tolerance", tolerance, at_least=0)
        steps = {share: max(1, round(share * total)) for share in shares}
        return cls(tuple(shares), tuple(chosen), long, tolerance, run, steps)

    def cost(self, trials: int) -> float:
        """Samples that all of it trains on, over those of one run."""
        return max(self.at) + trials * len(self.at) * len(self.factors) * self.samples / self.run


@dataclass(frozen=True)
class Found:
    """What the branches of one fork come to.

    Attributes:
        share: Of the run, at which it branched.
        fork: The state there.
        losses: By factor, one for each trial.
        critical: Largest factor that does no harm.
    """

    share: float
    fork: Fork
    losses: Mapping[int, tuple[float, ...]]
    critical: int


def search(plan: Plan, asked: Search, say: Say = silent) -> Iterator[str | Found]:
    """Train the branches that are not there yet; a line for each thing that is done, and what each fork comes to.

    Args:
        plan: What was asked for.
        asked: Where to branch, and into what.
        say: Called with what is done next, in words, wherever that may take long.

    Raises:
        ValueError: If the folder was made with other settings, or a file cannot be read.
    """
    _check_folder(plan, asked)
    files = {step: plan.output / f"fork-{step}.pt" for step in asked.steps.values()}
    if not all(file.exists() for file in files.values()):
        yield f"training the small batch for {max(files):,} steps, with its noise scale where it branches"
        train_up_to(plan, files, say)
    for share, step in asked.steps.items():
        fork = Fork.load(files[step])
        losses = dict[int, tuple[float, ...]]()
        for factor in asked.factors:
            by_trial = []
            for trial in range(plan.settings.trials):
                file = plan.output / f"branch-{step}-{factor}-{trial}.json"
                if not file.exists():
                    said = f"step {step}, batch x {factor}, trial {trial + 1}"
                    say(f"training the branch at {said}")
                    loss = branch(plan, fork, factor, asked.samples, trial=trial)
                    write_record(file, {"loss": loss})
                    yield f"{said}: loss {loss:.4f}"
                by_trial.append(_loss(file))
            losses[factor] = tuple(by_trial)
        means = {factor: statistics.fmean(values) for factor, values in losses.items()}
        yield Found(share, fork, losses, largest_harmless_factor(means, tolerance=asked.tolerance))


def _check_folder(plan: Plan, asked: Search) -> None:
    """Note down what was asked for; refuse a folder in which something else was."""
    settings = plan.settings
    terms = {
        "recipe": settings.recipe,
        "data": settings.data,
        "seed": settings.seed,
        "trainer": dict(settings.trainer),
        "hyperparameters": dict(settings.hyperparameters),
        "samples": asked.samples,
    }
    terms = json.loads(json.dumps(terms, default=str))
    file = plan.output / "critical-batch.json"
    if not file.exists():
        write_record(file, terms)
        return
    try:
        there = read_record(file)
    except ValueError as error:
        raise ValueError(f"{str(file)!r} cannot be read ({error}); choose another --output") from error
    differs = [name for name, value in terms.items() if there.get(name) != value]
    if differs:
        raise ValueError(
            f"output={str(plan.output)!r} holds branches made with other settings: {', '.join(differs)}; choose "
            "another --output, or the same settings"
        )


def _loss(file: Path) -> float:
    try:
        return float(read_record(file)["loss"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{str(file)!r} cannot be read ({error}); delete it to train this branch again") from error
