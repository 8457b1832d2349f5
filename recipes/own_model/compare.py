"""Compare training regimes on a LightningModule of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_gap import __version__
from lightning_gap.functional._validation import (
    check_counts,
    each,
    function,
    one_of,
    real_number,
    refusal,
    seed_number,
    text,
    whole_number,
)

from .kept_runs import OwnRun, kept_in, load, save
from .metric import is_higher_better
from .own_comparison import OwnComparison
from .regime_settings import OwnRegime, RegimeSettings, named_regimes
from .training import OwnTraining, check_module_maker, takes_epochs, trainer_options


def compare(
    make_module: Callable[..., Any],
    make_data: Callable[[int], Any],
    regimes: Sequence[str | OwnRegime] = ("small", "large", "linear-lr"),
    *,
    small_batch_size: int,
    large_batch_size: int,
    epochs: int,
    metric: str,
    higher_is_better: bool | None = None,
    on: Literal["test", "validate"] = "test",
    seeds: int | Sequence[int] = 3,
    ghost_batch_size: int | None = None,
    warmup_epochs: float = 5.0,
    trainer: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    name: str = "own model",
) -> OwnComparison:
    """Train a module of your own under several regimes from the same weights, and compare them seed by seed.

    Every run is a stock Trainer's ``fit`` and then ``test`` or ``validate`` of the final weights, on one process. The
    random numbers of the caller are left as they were.

    Args:
        make_module: Gives a fresh LightningModule; called after the seed is set, so that all regimes of a seed begin
            from the same weights. If it takes ``epochs``, it is told how many the regime trains, for its schedule.
        make_data: Gives a LightningDataModule, or loaders (train, validation) or (train, validation, test), for a
            number of samples in a batch.
        regimes: Names of ours, of which ``small`` must be one, or functions: they get a `RegimeSettings`, may change
            it, and return a list of callbacks.
        small_batch_size: Samples per optimizer step for which your learning rate was tuned.
        large_batch_size: Samples per optimizer step of the other regimes.
        epochs: Of every regime but ``longer``.
        metric: A name that your module logs in its ``test_step`` or ``validation_step``.
        higher_is_better: Whether larger values of it are better; needed where its name does not tell.
        on: Evaluate the trained module by ``trainer.test`` or ``trainer.validate``.
        seeds: How many, counted from 0, or which.
        ghost_batch_size: Samples per ghost of the ghost regimes; by default ``small_batch_size``.
        warmup_epochs: In which the learning rate of ``linear-lr`` is reached; 5 in Goyal et al. (2017).
        trainer: Arguments of the Trainer, for instance ``{"precision": "bf16-mixed"}``.
        folder: Keeps every finished run, with its metrics.csv. A later call with the same settings trains what is
            missing. None keeps nothing.
        name: Of module and data. Code cannot be compared: give another name when you change yours.

    Returns:
        Values by regime and seed, gaps with their intervals, shares that are brought back; print it, or call
        ``report(folder)``.

    Raises:
        TypeError: If the functions return anything but modules and data.
        ValueError: If an argument is out of range, a regime needs a recipe, the metric is not logged (names those
            that are), or ``folder`` has runs with other settings. Before the first step.
        OSError: If ``folder`` cannot be used.
    """
    check_module_maker(make_module, "nothing, or epochs")
    function("make_data", make_data, "the batch size")
    small_batch_size, large_batch_size, epochs = check_counts(
        small_batch_size=small_batch_size, large_batch_size=large_batch_size, epochs=epochs
    )
    if large_batch_size <= small_batch_size:
        raise ValueError(f"large_batch_size must be above small_batch_size={small_batch_size}, got {large_batch_size}")
    ghosts = small_batch_size if ghost_batch_size is None else whole_number("ghost_batch_size", ghost_batch_size)
    warmup_epochs = real_number("warmup_epochs", warmup_epochs, at_least=0)
    one_of("on", on, ("test", "validate"))
    if not text("name", name):
        raise ValueError("name must be a text that is not empty, got ''")
    if not (folder is None or isinstance(folder, str | Path)):
        raise ValueError(refusal("folder", "must be a path", folder, "None keeps nothing"))
    higher = is_higher_better(metric, higher_is_better)
    chosen = _seeds(seeds)
    options = trainer_options(trainer)
    functions = named_regimes(regimes, takes_epochs=takes_epochs(make_module))
    settings = RegimeSettings(small_batch_size, large_batch_size, epochs, ghosts, warmup_epochs)
    training = OwnTraining(make_module, make_data, metric, on, options, settings)
    plans = {regime: training.plan(regime, function)[0] for regime, function in functions.items()}
    kept = {
        "name": name,
        **{key: value for key, value in asdict(settings).items() if key not in ("hparams", "learning_rate_steps")},
        "metric": metric,
        "higher_is_better": higher,
        "on": on,
        "trainer": {key: value if _is_plain(value) else type(value).__name__ for key, value in options.items()},
    }
    root = None if folder is None else Path(folder)
    runs: dict[str, dict[int, OwnRun]] = {regime: {} for regime in functions}
    with nullcontext() if root is None else kept_in(root, kept):
        places = {(r, s): root / "runs" / r / f"seed-{s}" if root else None for s in chosen for r in functions}
        found = {key: load(place) if place else None for key, place in places.items()}
        if not all(found.values()):
            training.check([plan.batch_size for plan in plans.values()])
        for (regime, seed), place in places.items():
            run = found[regime, seed] or training.run(regime, functions[regime], seed, place)
            if place and not found[regime, seed]:
                save(run, place)
            runs[regime][seed] = run
    terms = {key: f"{value}" for key, value in kept.items() if key not in ("name", "batch_size")}
    versions = {
        "seeds": ", ".join(map(str, chosen)),
        "versions": f"lightning-gap {__version__}, torch {torch.__version__}",
    }
    return OwnComparison(name, metric, higher, runs, terms | versions)


def _seeds(given: int | Sequence[int]) -> list[int]:
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        seeds = each("seeds", given, seed_number)
    else:
        seeds = list(range(whole_number("seeds", given, hint="how many, or a list of which", most=2**32)))
    if not seeds or len({*seeds}) < len(seeds):
        raise ValueError(refusal("seeds", "must be how many, or different whole numbers from 0", given))
    return seeds


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
