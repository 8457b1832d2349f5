"""The command `lightning-gap reproduce`: make the runs of tables and figures, and show them in one report."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse.typing import NonNegativeInt, PositiveInt

from ..lookup import lookup
from ..runner.examples import shown_examples
from ..runner.options import Parser
from . import experiments

if TYPE_CHECKING:
    from ..reports.parts import Report
    from ..runner.reproduce import Work

_PROGRAM = "lightning-gap reproduce"
_SCALES = ("tiny", "small", "paper")


def main(words: Sequence[str]) -> int:
    """Make what the output folder does not hold yet, and write the report; the exit status."""
    if not words or words[0] in ("-h", "--help"):
        _parser().print_help()
        print("\nexperiments:")
        for name, summary in experiments().items():
            print(textwrap.fill(f"  {name:20} {summary}", 80, subsequent_indent=" " * 23))
        return 0
    given = _parser().parse_args(list(words))
    for name in given.experiments:
        lookup("experiment", name, experiments())
    _check_lists(given)
    lookup("scale", given.scale, _SCALES)
    from rich.console import Console

    from ..runner.quiet import spoken_plainly
    from ..runner.results_folder import locked

    with spoken_plainly():
        work, chapters = _planned(given)
        console = Console(highlight=False)
        if given.dry_run:
            work.print(console)
            return 0
        with locked(given.output):
            work.check()
            work.make(console, given.workers, given.threads, given.ray)
            _show(console, given, work, chapters)
    return 0


def _parser() -> Parser:
    told = "Make the runs of a paper's tables and figures, and show them."
    parser = Parser(prog=_PROGRAM, description=told, examples=shown_examples("reproduce"))
    parser.add_argument("experiments", type=str, nargs="+", help="Names of experiments.")
    parser.add_argument(
        "--scale", type=str, default="small", help="tiny: seconds; small: hours on two cores; paper: as in the papers."
    )
    parser.add_argument("--networks", type=str, nargs="+", help="Of the experiments' networks those to make.")
    parser.add_argument("--seeds", type=NonNegativeInt, nargs="+", help="In place of those of the scale.")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="Folder with the data sets' files.")
    parser.add_argument("--download", action="store_true", help="Download data sets that are not there.")
    parser.add_argument(
        "--output", type=Path, default=Path("results"), help="Folder of runs and report; what it holds is used again."
    )
    parser.add_argument("--workers", type=PositiveInt, help="Runs that train side by side; one by default.")
    parser.add_argument(
        "--ray",
        type=str,
        help="Address of a Ray cluster to train on: auto, or local for this machine alone. All that it has processors "
        "for train side by side, or --workers at a time; the folders must be there under the same path.",
    )
    parser.add_argument(
        "--threads", type=PositiveInt, default=1, help="CPU threads of each; sums round otherwise with another number."
    )
    parser.add_argument("--dry_run", action="store_true", help="Print what would be made and what it costs.")
    return parser


def _check_lists(given: Any) -> None:
    for option in ("experiments", "networks", "seeds"):
        values = given[option] or []
        twice = [value for value in values if values.count(value) > 1]
        if twice:
            raise ValueError(f"{option} must name each once, got {twice[0]} {values.count(twice[0])} times")
    if given.output.exists() and not given.output.is_dir():
        raise NotADirectoryError(f"output={str(given.output)!r} is no folder; choose another --output")


def _planned(given: Any) -> tuple[Work, dict[str, tuple[Any, Any]]]:
    """What is to be made, and each experiment with its part by its name."""
    from ..runner.reproduce import Work
    from ..runner.run_store import RunStore
    from .scales import Choice

    needs, chapters = list[Any](), dict[str, tuple[Any, Any]]()
    for name in given.experiments:
        experiment = import_module(f".{name.replace('-', '_')}", __package__).EXPERIMENT
        networks = [network for network in experiment.networks if given.networks is None or network in given.networks]
        if experiment.networks and not networks:
            raise ValueError(
                f"networks={' '.join(given.networks)}: {name} has none of them; it has {', '.join(experiment.networks)}"
            )
        choice = Choice(given.scale, tuple(networks), None if given.seeds is None else tuple(given.seeds))
        needs += experiment.needs(choice)
        chapters[name] = experiment, choice
    for network in given.networks or []:
        lookup("network of these experiments", network, {n for found, _ in chapters.values() for n in found.networks})
    return Work.of(RunStore(given.output.absolute(), given.data_dir.absolute(), given.download), needs), chapters


def _show(console: Any, given: Any, work: Work, chapters: dict[str, tuple[Any, Any]]) -> None:
    from ..reports import write_report
    from ..runner.telling import saying

    with saying(console, "drawing the figures of the report"):
        files = write_report(made_report(given, work, chapters), given.output / "report")
    for file in files:
        console.print(f"Written: {file}", soft_wrap=True)


def made_report(given: Any, work: Work, chapters: dict[str, tuple[Any, Any]]) -> Report:
    """All chapters, with their terms."""
    from ..reports.parts import Chapter, Report
    from ..runner.notes import versions
    from .experiment import Findings
    from .terms import terms_of

    found = Findings(work.store)
    shown = [
        Chapter(name, experiment.title, tuple(experiment.show(choice, found)), terms_of(experiment, choice))
        for name, (experiment, choice) in chapters.items()
    ]
    threads = dict.fromkeys(work.store.threads(spec) for spec in work.runs) or {f"{given.threads}": None}
    terms = {"scale": given.scale, "threads of a run": " or ".join(threads), "versions": versions()}
    runs = {spec.name: work.store.run_folder(spec) for spec in work.runs}
    return Report(f"Reproduced at scale {given.scale}: {', '.join(chapters)}", shown, terms, runs)
