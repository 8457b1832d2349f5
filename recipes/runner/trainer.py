"""The Trainer of a run: the user's arguments before ours."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import Logger

OURS: dict[str, Any] = {
    "devices": 1,
    "log_every_n_steps": 1,  # a large batch takes few steps; nothing but rate and batch size is logged by step
    "num_sanity_val_steps": 0,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def make_trainer(
    users: Mapping[str, Any], *, epochs: int, callbacks: Sequence[Callback], logger: Logger | None
) -> Trainer:
    """A Trainer of a user's arguments, and ours where the user has none.

    Args:
        users: As in YAML: callbacks, loggers, strategies and plugins may be given as class_path and init_args, and are
            made anew for every Trainer. Callbacks and loggers come beside ours; ``logger=False`` leaves ours out.
        epochs: Of the run.
        callbacks: Our callbacks.
        logger: Our logger, if there is one.
    """
    made = instantiated(users)
    theirs = made.pop("logger", True)
    loggers = [] if logger is None or theirs is False else [logger]
    if not isinstance(theirs, bool | None):
        loggers += theirs if isinstance(theirs, list) else [theirs]
    made["callbacks"] = [*callbacks, *made.get("callbacks", [])]
    return Trainer(**{**OURS, "max_epochs": epochs, **made, "logger": loggers or False})


def check_trainer(users: Mapping[str, Any]) -> Trainer:
    """A Trainer of the user's arguments that trains nothing: its processes and micro-batches can be asked for.

    Raises:
        ValueError: If Lightning refuses an argument, or an argument takes away what a recipe needs.
    """
    if users.get("barebones"):
        raise ValueError(
            "trainer.barebones=True leaves out loggers, checkpoints and callbacks, which a recipe needs; leave it out"
        )
    if users.get("overfit_batches"):
        raise ValueError(
            "trainer.overfit_batches takes stock DataLoaders only; use --trainer.limit_train_batches and --trainer."
            "max_epochs, or a smaller data set"
        )
    if str(users.get("precision")) in ("16-true", "bf16-true", "transformer-engine"):
        raise ValueError(
            f"trainer.precision={users['precision']!r} keeps the weights in half precision, in which no sharpness can "
            "be measured; use 16-mixed or bf16-mixed"
        )
    for name in ("accumulate_grad_batches", "check_val_every_n_epoch", "max_steps", "limit_train_batches"):
        value = users.get(name)
        if value == 0 or (isinstance(value, int | float) and value < 0 and name != "max_steps"):
            raise ValueError(f"trainer.{name}={value} cannot be used here; use more than 0, or leave it out")
    try:
        return Trainer(**{**OURS, **instantiated(users), "logger": False, "max_epochs": 1})
    except (MisconfigurationException, ModuleNotFoundError, TypeError, ValueError) as error:
        given = ", ".join(f"trainer.{name}={value!r}" for name, value in users.items())
        raise ValueError(f"{given or 'the Trainer'} cannot be used here: {error}") from error


def instantiated(users: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with an object for each class_path, and callbacks in a list.

    Raises:
        ValueError: If an argument is not one of the Trainer's, or has a value that it does not take.
    """
    if not users:
        return {}
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Trainer, "trainer", instantiate=False)
    make = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before jsonargparse 4.49
    try:
        parsed = make(parser.parse_object({"trainer": copy.deepcopy(dict(users))}))["trainer"]
    except Exception as error:  # of whatever type a class of the user's choice ends with
        raise ValueError(_reason(error)) from error
    callbacks = parsed["callbacks"] or []
    parsed["callbacks"] = callbacks if isinstance(callbacks, list) else [callbacks]
    return {name: parsed[name] for name in users}


def _reason(error: Exception) -> str:
    """Of what jsonargparse tells of every type that a value could have had: what was wrong with the class."""
    told = re.search(
        r"Errors:\s*- (?!Expected|Not a valid)(.*?)(?:\n\s*- (?:Expected|Not a valid)|$)", str(error), re.DOTALL
    )
    return " ".join((told[1] if told else str(error).partition("Errors:")[0]).split())
