"""The command line that the scripts share: one run, or all that the table needs, and a line of JSON for each."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

Trained = tuple[torch.nn.Module, float, Any]
Train = Callable[[argparse.Namespace], Trained]

LARGER = 8
SEEDS = (0, 1, 2)


def command(train: Train, *, project: str, task: str, metric: str, better: str, batch_size: int) -> None:
    """Run ``train`` as the command line says and print what came of it.

    Args:
        train: Trains by the parsed arguments; returns the trained module, its validation score and the Trainer.
        project: The project's name on the package index.
        task: Model and data in a few words.
        metric: The project's own validation metric, with its unit.
        better: ``"lower"`` or ``"higher"``.
        batch_size: The small batch, in samples.
    """
    parser = argparse.ArgumentParser(description=f"{project}: {task}")
    parser.add_argument("--batch_size", type=int, default=batch_size, help=f"samples per step; {batch_size} by default")
    parser.add_argument("--ours", action="store_true", help="with the remedies for a large batch")
    parser.add_argument("--monitors", action="store_true", help="train without and with all monitors, and compare")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max_epochs", type=int, help="instead of the script's own number")
    parser.add_argument(
        "--compare", type=Path, metavar="FILE", help="all runs of the table that FILE does not have yet"
    )
    args = vars(parser.parse_args())
    file = args.pop("compare")
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    terms = {"project": project, "version": version(project), "task": task, "metric": metric, "better": better}
    terms["small"], terms["torch"], terms["lightning"] = batch_size, version("torch"), version("lightning")
    for settings in [args] if file is None else missing(file, batch_size):
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for the results
            line = json.dumps({**terms, **settings, **_run(train, settings)})
        print(line, flush=True)
        if file is not None:
            with file.open("a", encoding="utf-8") as kept:
                kept.write(line + "\n")


def missing(file: Path, small: int) -> list[dict[str, Any]]:
    """The settings of the runs to make: an epoch with all monitors, then seed by seed the three that are compared."""
    plain = {"ours": False, "monitors": False, "max_epochs": None}
    planned = [{"batch_size": small, **plain, "monitors": True, "max_epochs": 1, "seed": 0}]
    for seed in SEEDS:
        planned.append({"batch_size": small, **plain, "seed": seed})
        planned += [{"batch_size": LARGER * small, **plain, "ours": ours, "seed": seed} for ours in (False, True)]
    kept = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.exists() else []
    return [settings for settings in planned if not any(settings.items() <= result.items() for result in kept)]


def _run(train: Train, settings: dict[str, Any]) -> dict[str, Any]:
    begin = time.perf_counter()
    module, score, trainer = train(argparse.Namespace(**settings))
    found = {"score": float(score), "steps": trainer.global_step, "seconds": round(time.perf_counter() - begin, 1)}
    if settings["monitors"]:
        plain, *_ = train(argparse.Namespace(**settings | {"monitors": False}))
        found["bit_identical"] = same_bits(module.state_dict(), plain.state_dict())
        monitors = [callback for callback in trainer.callbacks if hasattr(callback, "history")]
        found["logged"] = {type(each).__name__: each.history[-1] for each in monitors if each.history}
    return found


def same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states have the same names and equal tensors."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
