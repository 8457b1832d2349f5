"""The command `lightning-gap experiment`: make the runs of a table or figure, and show it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from jsonargparse.typing import NonNegativeInt, PositiveInt

from ..lookup import lookup
from ..runner.options import Parser
from . import experiments

_PROGRAM = "lightning-gap experiment"


def main(args: Sequence[str] | None = None) -> int:
    """Train what the file of results does not hold yet, print the table and draw the figure.

    Returns:
        The exit status.
    """
    name, *options = list(sys.argv[1:] if args is None else args) or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: {_PROGRAM} NAME [options]; {_PROGRAM} NAME --help tells them\n")
        print("\n".join(f"  {known:16} {summary}" for known, summary in experiments().items()))
        return 0
    module = import_module(f".{lookup('experiment', name, experiments()).replace('-', '_')}", __package__)
    if hasattr(module, "COMMAND"):  # a comparison, which takes the options of one
        from ..runner.cli import main as run_command

        return run_command([*module.COMMAND, *options])
    return _run(name, module, options)


def _run(name: str, module: Any, words: Sequence[str]) -> int:
    import torch

    from .experiment import ResultsFile, perform

    experiment = module.EXPERIMENT
    parser = Parser(prog=f"{_PROGRAM} {name}", description=module.__doc__)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="Folder with the data's files.")
    parser.add_argument(
        "--out", type=Path, help="JSON file; what it holds is not made again. results/NAME.json by default."
    )
    parser.add_argument("--figure", type=Path, help="PNG file to draw.")
    parser.add_argument("--runs", type=str, nargs="+", default=list(experiment.runs), help="Runs to make now.")
    parser.add_argument(
        "--seeds", type=NonNegativeInt, nargs="+", default=list(experiment.seeds), help="Seeds to make them with."
    )
    parser.add_argument(
        "--threads", type=PositiveInt, default=1, help="CPU threads; sums round otherwise with another number."
    )
    positional = {"run", "seed", "data_dir", "changed"}
    own = [argument for argument in signature(experiment.measure).parameters if argument not in positional]
    parser.add_function_arguments(experiment.measure, skip=positional)  # type: ignore[arg-type] # a callable
    given = parser.parse_args(list(words))
    for run in given.runs:
        lookup("run", run, experiment.runs)
    if given.figure and experiment.figure is None:
        raise ValueError(f"figure={str(given.figure)!r}: {name} draws none; leave it out")
    options = {argument: given[argument] for argument in own if given[argument] != parser.get_default(argument)}
    settings = {argument: value for argument, value in options.items() if not isinstance(value, Path)}  # nor where to
    torch.set_num_threads(given.threads)
    file = ResultsFile(given.out or Path("results") / f"{name}.json", settings)
    results = perform(experiment, file, given.data_dir, runs=given.runs, seeds=given.seeds, options=options)
    print(experiment.table(results))
    if given.figure:
        experiment.figure(results).savefig(given.figure, dpi=130)
    return 0
