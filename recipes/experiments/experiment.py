"""What an experiment is: the runs that it needs, what is measured of them, and what is shown of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, overload

from ..reports.parts import Part
from ..runner.measurement import Measurement
from ..runner.run_result import RunResult
from ..runner.run_store import RunSpec, RunStore
from .scales import Choice


@dataclass(frozen=True)
class Findings:
    """What there is of runs and measurements that are done."""

    store: RunStore

    @overload
    def __getitem__(self, asked: RunSpec) -> RunResult: ...

    @overload
    def __getitem__(self, asked: Measurement) -> Any: ...

    def __getitem__(self, asked: RunSpec | Measurement) -> Any:
        """The result of a run, or what was measured."""
        return self.store.result(asked) if isinstance(asked, RunSpec) else asked.load(self.store)


@dataclass(frozen=True)
class Experiment:
    """A table or a figure of a paper, or one of our own.

    Attributes:
        title: What it shows, and of which paper.
        networks: Names of its networks, as `Choice` has them.
        needs: The runs, and what is measured of runs: of the part that is to be made.
        show: Tables, figures and remarks of that part.
        terms: What a reader must know of how its numbers were found, by name.
    """

    title: str
    networks: tuple[str, ...]
    needs: Callable[[Choice], Iterable[RunSpec | Measurement]]
    show: Callable[[Choice, Findings], Iterable[Part]]
    terms: Mapping[str, str] = field(default_factory=dict)
