"""From what was read of a run to what applies to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from .causes import CAUSES, Cause
from .facts import Facts, Reading
from .verdict import Absent, Applies, Unknown, Verdict


@dataclass(frozen=True)
class Diagnosis:
    """What is told of one run.

    Attributes:
        run: Its name.
        verdicts: By cause, all of them.
    """

    run: str
    verdicts: Mapping[Cause, Verdict]

    @property
    def applying(self) -> dict[Cause, Applies]:
        """Those that apply."""
        return {cause: told for cause, told in self.verdicts.items() if isinstance(told, Applies)}

    @property
    def untold(self) -> dict[Cause, Unknown]:
        """Those that cannot be told."""
        return {cause: told for cause, told in self.verdicts.items() if isinstance(told, Unknown)}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.run}: {_counted(len(self.applying), len(self.verdicts))}"
        for cause, told in self.applying.items():
            yield f"  {cause.name}: {told.number}"
            yield f"    read in {told.source}"
            yield f"    fix: {told.fix}; see {cause.card}"
        if not self.applying:
            yield (
                "  What else to try: more seeds, a learning rate tuned for the small batch first, "
                "ConservativeTraining, SharpnessAwareMinimization; see docs/large-batch-run-is-worse.md"
            )
        for cause, absent in self.verdicts.items():
            if isinstance(absent, Absent):
                yield f"  does not apply: {cause.name} ({absent.number})"
        for cause, unknown in self.untold.items():
            yield f"  cannot be told: {cause.name}: {unknown.add}"


def diagnose(
    runs: Sequence[Facts], *, small: Facts | None = None, base_batch_size: float | None = None
) -> list[Diagnosis]:
    """Which known causes of a gap apply to each run.

    Args:
        runs: What was read of them.
        small: The small-batch run that they are compared with, if there is one.
        base_batch_size: The batch size that the learning rate was tuned for, samples; by default what was read, else
            that of ``small``.
    """
    found = []
    for run in runs:
        base = run.base_batch_size or (small.batch_size if small else None)
        if base_batch_size is not None:
            base = Reading(base_batch_size, "--base_batch_size")
        facts = replace(run, base_batch_size=base)
        found.append(Diagnosis(run.name, {cause: cause.look(facts, small) for cause in CAUSES}))
    return found


def _counted(applying: int, looked_for: int) -> str:
    if not applying:
        return f"none of {looked_for} known causes of a gap was found"
    return f"{applying} of {looked_for} known causes of a gap appl{'ies' if applying == 1 else 'y'}"
