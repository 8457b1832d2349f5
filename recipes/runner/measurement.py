"""What is measured of finished runs, kept beside them, so that it is not measured twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

from .notes import versions
from .records import read_record
from .run_store import RunSpec, RunStore, digest
from .whole_files import write_record


@dataclass(frozen=True)
class Measurement:
    """Something measured of finished runs, kept beside them.

    Attributes:
        name: What it is, in a word or two.
        of: The runs, one or several; none of a measurement that trains on its own.
        by: A function of a module that returns what JSON can hold. It takes the `TrainedRun`s, or where there are none
            the folder of the data, and the options.
        options: What else it depends on.
        cost: Beside an epoch of training.
    """

    name: str
    of: tuple[RunSpec, ...]
    by: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    cost: float = 1.0

    @property
    def described(self) -> dict[str, Any]:
        """What it depends on."""
        by = f"{self.by.__module__}.{self.by.__qualname__}"
        given = signature(self.by).bind(*(self.of or [None]), **self.options)
        given.apply_defaults()
        options = dict(list(given.arguments.items())[max(1, len(self.of)) :])
        return {"by": by, "of": [spec.name for spec in self.of], "options": json.loads(json.dumps(options))}

    def file(self, store: RunStore) -> Path:
        """Where it is kept."""
        words = [self.name, *(spec.name for spec in self.of[:1]), digest(self.described)]
        return store.folder / "measured" / f"{'-'.join(words)}.json"

    def is_made(self, store: RunStore) -> bool:
        """Whether it is there, and of these runs as they are now: one that was made anew may have other numbers."""
        try:
            there = read_record(self.file(store))["runs"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return bool(there == self._runs(store))

    def make(self, store: RunStore) -> None:
        """Measure and keep; nothing if it is there."""
        if self.is_made(store):
            return
        of: list[Any] = [store.trained(spec) for spec in self.of] or [store.data_dir]
        found = self.by(*of, **self.options)
        made = {"measured": self.described, "runs": self._runs(store), "versions": versions(), "found": found}
        write_record(self.file(store), made)

    def load(self, store: RunStore) -> Any:
        """What was found.

        Raises:
            ValueError: If the file cannot be read.
        """
        file = self.file(store)
        try:
            return read_record(file)["found"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{str(file)!r} cannot be read ({error}); delete it to measure again") from error

    def _runs(self, store: RunStore) -> dict[str, str]:
        return {spec.name: store.fingerprint(spec) for spec in self.of if store.is_finished(spec)}
