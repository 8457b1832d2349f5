"""Make what experiments need, side by side and never twice, and show it in one report."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from rich.table import Table as PrintedTable

from .measurement import Measurement
from .memory import keep_freed_memory
from .plan import check_plan
from .run_store import RunSpec, RunStore
from .side_by_side import InThisProcess, Pool, Task, finish, processes
from .telling import saying

_PASSES = {"sam": 2.0, "sam-late": 1.2, "conservative": 2.6, "penalty": 2.0, "adversarial": 2.5}  # beside a plain step


@dataclass(frozen=True)
class Work:
    """Runs and measurements to be made.

    Attributes:
        store: Where they are kept.
        runs: Each once, in the order in which they are made.
        measurements: Each once.
    """

    store: RunStore
    runs: tuple[RunSpec, ...]
    measurements: tuple[Measurement, ...]

    @classmethod
    def of(cls, store: RunStore, needs: Iterable[RunSpec | Measurement]) -> Work:
        """What is needed, a run that is needed twice keeping what either asks for; seed by seed."""
        runs, measurements = dict[str, RunSpec](), dict[Path, Measurement]()
        for asked in needs:
            if isinstance(asked, Measurement):
                measurements.setdefault(asked.file(store), asked)
            for spec in asked.of if isinstance(asked, Measurement) else (asked,):
                kept = sorted({*spec.kept_epochs, *runs.get(spec.name, spec).kept_epochs})
                runs[spec.name] = replace(spec, kept_epochs=tuple(kept))
        by_seed = sorted(runs.values(), key=lambda spec: spec.seed)
        return cls(store, tuple(by_seed), tuple(measurements.values()))

    def check(self) -> None:
        """Refuse what cannot be trained, before anything is.

        Raises:
            ValueError: As `make_plan`; or if a folder holds another run than its name says.
            OSError: If a data set's files are not there or cannot be read.
        """
        checked = set[str]()
        for spec in self.runs:
            first = spec.with_seed(0).name
            if not self.store.is_finished(spec) and first not in checked:
                checked.add(first)
                check_plan(self.store.plan(spec))

    def tasks(self) -> list[Task]:
        """What is left to do, a measurement after its runs."""
        missing = [spec for spec in self.runs if not self.store.is_finished(spec)]
        measured = [made for made in self.measurements if not made.is_made(self.store)]
        names = {spec.name for spec in missing}
        training = [Task(spec.name, partial(self.store.make, spec), cost=cost(spec)) for spec in missing]
        measuring = [
            Task(
                made.file(self.store).stem,
                partial(made.make, self.store),
                frozenset(spec.name for spec in made.of) & names,
                made.cost,
            )
            for made in measured
        ]
        return [*training, *measuring]

    def print(self, console: Console) -> None:
        """What would be made, and what it costs."""
        left = {task.name: task.cost for task in self.tasks()}
        table = PrintedTable(Column("run", overflow="fold"), "epochs", "state")
        for spec in self.runs:
            table.add_row(spec.name, f"{epochs(spec)}", self.state(spec) if spec.name in left else "finished")
        console.print(table)
        runs = [spec for spec in self.runs if spec.name in left]
        console.print(
            f"{len(self.runs)} runs, {len(runs)} to be trained for {sum(map(epochs, runs)):,} epochs; "
            f"{len(self.measurements)} measurements, {len(left) - len(runs)} to be made."
        )
        known = [spec for spec in self.runs if spec.name not in left]
        seconds = self.seconds(runs, known)
        if seconds is None:
            console.print("How long that takes is not known before a run of each network is finished.")
        elif runs:
            console.print(f"Training takes about {seconds / 60:.0f} minutes of one worker, as the finished runs did.")

    def state(self, spec: RunSpec) -> str:
        """Of a run that is not finished, in words."""
        if self.store.is_finished(replace(spec, kept_epochs=())):
            return "to be trained again, to keep weights along the way"
        return "begun" if any(self.store.run_folder(spec).glob("epoch=*.ckpt")) else "to be trained"

    def seconds(self, runs: Sequence[RunSpec], known: Sequence[RunSpec]) -> float | None:
        """What runs may take, by finished ones of their networks; None where a network has none."""
        total = 0.0
        for spec in runs:
            alike = [other for other in known if (other.network, other.data) == (spec.network, spec.data)]
            if not alike:
                return None
            spent = sum(self.store.result(other).seconds for other in alike)
            total += spent / sum(map(cost, alike)) * cost(spec)
        return total

    def make(self, console: Console, workers: int | None, threads: int, ray: str | None = None) -> None:
        """Do all that is left.

        Args:
            console: For a line on each task.
            workers: Tasks at a time; one by default, or as many as the cluster can do.
            threads: CPU threads of each.
            ray: Address of a cluster.

        Raises:
            ValueError: If a run or a measurement fails, after all others that can be made.
            ChildProcessError: If a worker is killed.
        """
        keep_freed_memory()
        torch.set_num_threads(threads)
        tasks = self.tasks()
        kept = len(self.runs) + len(self.measurements) - len(tasks)
        if kept:
            console.print(f"{kept} of {len(self.runs) + len(self.measurements)} runs and measurements are there.")
        said = f"{len(tasks)} runs and measurements to make"
        line = nullcontext() if console.is_terminal else saying(console, said)  # there the bar moves
        with _pool(workers, threads, ray) as pool, _progress(console) as bar, line:
            total = bar.add_task("", total=sum(task.cost for task in tasks), tasks=f"0 of {len(tasks)}")
            failed = dict[Hashable, Exception]()
            for done, task in enumerate(finish(tasks, pool, failed), start=1):
                bar.update(total, advance=task.cost, tasks=f"{done} of {len(tasks)}")
                bar.console.print(f"{done} of {len(tasks)}: {task.name}", soft_wrap=True)
        if failed:
            name, error = next(iter(failed.items()))
            told = f"{name} ({type(error).__name__}: {error})"
            raise ValueError(
                f"{len(failed)} of {len(tasks)} failed, the first of them {told}; what "
                "does not need these is done and kept, and the same command makes what is left"
            ) from error


def epochs(spec: RunSpec) -> int:
    """Epochs of a run, as its regime has them."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return spec.recipe(spec.regime, **spec.hyperparameters).epochs  # type: ignore[arg-type]


def cost(spec: RunSpec) -> float:
    """In epochs of plain training of its network."""
    return epochs(spec) * _PASSES.get(spec.regime, 1.0)


def _pool(workers: int | None, threads: int, ray: str | None) -> AbstractContextManager[Pool]:
    if ray is not None:
        from .on_ray import ray_cluster

        return ray_cluster(ray, workers, threads)
    return nullcontext(InThisProcess()) if workers in (None, 1) else processes(workers, threads)


def _progress(console: Console) -> Progress:
    """Of all tasks by their cost."""
    columns = (TextColumn("{task.fields[tasks]}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, speed_estimate_period=24 * 3600)
