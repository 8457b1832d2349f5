"""The commands of `lightning-gap`: a word for each thing that it does."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_gap import __version__

from ..catalogue import copy_recipe, recipe_file
from .examples import shown_examples
from .listing import print_list, print_recipe
from .options import Parser, ask
from .printing import UnprintedError, checked_output, knowing
from .quiet import spoken_plainly
from .stopping import exit_status, kept, stoppable

if TYPE_CHECKING:
    from .plan import Plan

_COMMANDS = {
    "list": "Show recipes, data sets, regimes and what else has names; of one recipe its hyperparameters.",
    "run": "Train one regime of a recipe.",
    "compare": "Train several regimes from the same weights and compare them.",
    "advise": "Measure a recipe's gradient noise and advise a batch size.",
    "critical-batch": "Branch a run at larger batches and find the largest that does no harm.",
    "copy": "Write a recipe's file into a folder, to be edited and run.",
    "report": "Show what results folders hold on one page, with figures and files.",
    "reproduce": "Make the runs of papers' tables and figures, and show them in a report.",
    "doctor": "Name the known causes of a gap that apply to a run, from its logs and configuration.",
}
_ON_STOP = {
    **dict.fromkeys(("", "list", "doctor"), "stopped; nothing was changed"),
    "advise": "stopped; nothing is kept",
    "critical-batch": "stopped; branches that are done are kept, and the same command with their --output continues",
    "report": "stopped; nothing is written",
    "reproduce": "stopped; finished runs and checkpoints of the others are kept, and the same command continues",
}


def main(args: Sequence[str] | None = None) -> int:
    """Do what is asked; the exit status."""
    given = list(sys.argv[1:] if args is None else args)
    command = next((word for word in given[:1] if word in _COMMANDS), "")
    plan: Plan | None = None
    try:
        with stoppable(), checked_output():
            if not command:
                return _help(given)
            if command not in ("run", "compare", "advise", "critical-batch"):
                return _do(command, given[1:])
            asked = ask(command, _COMMANDS[command], given[1:])  # only what is not refused by its words needs torch
            from ..critical_batch.command import find_critical_batch
            from .advising import advise_batch_size
            from .plan import make_plan
            from .runs import execute

            with spoken_plainly():
                plan = make_plan(asked.settings)
                if command == "advise":
                    return advise_batch_size(plan, asked.own["steps"], asked.changed)
                if command == "critical-batch":
                    return find_critical_batch(plan, **asked.own)
                return execute(plan)
    except UnprintedError as error:
        if error.by_closed_pipe:
            return 128 + signal.SIGPIPE
        return _refused(command, f"{error}; {error.kept or _kept(command, plan)}")
    except OverflowError as error:  # of a whole number that no float holds, where a float is wanted
        return _refused(command, f"an option's number is too large: {error}")
    except (ValueError, TypeError, OSError, ImportError) as error:
        return _refused(command, " ".join(str(error).split()))
    except Exception:  # for instance of another process that was killed; the traceback says of what
        _say_what_is_kept(command, plan)
        raise
    except (KeyboardInterrupt, SystemExit) as stop:
        status = exit_status(stop)
        if status is None:
            raise
        _say_what_is_kept(command, plan)
        return status


def _help(words: Sequence[str]) -> int:
    """Of no command: help, the version, or an error."""
    told = "Large batches in Lightning without the generalization gap."
    parser = Parser(prog="lightning-gap", description=told, examples=shown_examples(""))
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subcommands()
    for name, told in _COMMANDS.items():
        commands.add_subcommand(name, Parser(), help=told)
    parser.parse_args(words)  # ends the program
    return 2


def _do(command: str, words: list[str]) -> int:
    """List, copy, report, reproduce, or doctor."""
    if command == "report":
        from .reporting import main as report

        return report(words, _COMMANDS[command])
    if command == "reproduce":
        from ..experiments.command import main as reproduce

        return reproduce(words)
    if command == "doctor":
        from ..doctor.command import main as doctor

        return doctor(words, _COMMANDS[command])
    told, examples = _COMMANDS[command], shown_examples(command)
    parser = Parser(prog=f"lightning-gap {command}", description=told, examples=examples)
    optional = "?" if command == "list" else None
    parser.add_argument("recipe", nargs=optional, type=str, help="Recipe, as `lightning-gap list` names it.")
    if command == "copy":
        parser.add_argument("folder", type=str, help="Where its file goes; no file is overwritten.")
    given = parser.parse_args(words)
    if command == "list":
        print_list() if given.recipe is None else print_recipe(recipe_file(given.recipe))
    elif not given.folder:
        raise ValueError("folder: got '', the name of no folder; for the current folder write .")
    else:
        written = f"written: {copy_recipe(given.recipe, Path(given.folder))}"
        with knowing(written):
            print(written)
    return 0


def _refused(command: str, why: str) -> int:
    print(f"{_named(command)}: error: {why}", file=sys.stderr)
    return 2


def _kept(command: str, plan: Plan | None) -> str:
    """What a command that ends early leaves, in words."""
    return _ON_STOP.get(command) or kept(plan)


def _say_what_is_kept(command: str, plan: Plan | None) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # once, of all processes
        print(f"{_named(command)}: {_kept(command, plan)}", file=sys.stderr)


def _named(command: str) -> str:
    return f"lightning-gap {command}".rstrip()
