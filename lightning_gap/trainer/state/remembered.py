"""Everything that a training step could change: remembered once, and put back as often as needed."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from .object_parts import Part, is_left_alone, parts_of, replace
from .records import Record, records_of
from .stand_in import StandIn, Steppable

_MOST_OF_DATA = 100  # items of a list whose items are looked at one by one, in what is taken for data


class Remembered(AbstractContextManager["Remembered"]):
    """All that can be reached from some objects and can change in place, as it was when `hold` was called.

    Followed are attributes and slots of objects and of the user's classes, items of containers, closures of functions,
    and what bound and partial functions hold. Remembered are the content of containers, tensors and arrays, the state
    of random generators, and which object stands where. What can be stepped and not be set back (an iterator, a file,
    a thread, and an object that holds one) is replaced by a stand-in, which raises `CannotBePutBackError` as soon as it
    is used; `release` puts the object itself back.

    The block of a ``with`` statement ends with `release`.

    Not followed: data sets and loaders, the Trainer, loggers, and variables of Python modules.

    Why not a deep copy of the module: closures, bound hooks and the Trainer would keep referring to the module itself,
    a compiled one would be compiled anew, and what has no copy would be missed.

    Args:
        roots: The objects, by the names that an error shows.
        apart: Layers whose own attributes and buffers `put_back` may leave as they are.
        left: Objects that are not remembered: somebody else puts them back.
        as_data: Names of the roots whose tensors, arrays and long lists are taken for data, which no step writes to.
        shallow: Names of the roots of which only their own content is remembered, and that of containers right in it.
        stand_ins: Whether what cannot be set back gets a stand-in; otherwise it is left alone.
    """

    def __init__(
        self,
        roots: Mapping[str, Any],
        *,
        apart: Iterable[nn.Module] = (),
        left: Iterable[object] = (),
        as_data: Iterable[str] = (),
        shallow: Iterable[str] = (),
        stand_ins: bool = True,
    ) -> None:
        self._met = {id(value): value for value in left}  # alive, so that an id stays theirs
        self._apart_ids = {id(layer) for layer in apart}
        self._replaced: list[tuple[Part, StandIn]] = []
        self._records: list[Record] = []
        self._records_apart: list[Record] = []
        self._gives_stand_ins = stand_ins
        steppable = Steppable()
        self._found: list[tuple[Part, bool]] = []
        for name, root in roots.items():
            if name in shallow:
                inside = [part for part in parts_of(name, root) if isinstance(part.value, dict | list)]
                self._found += [(part, False) for part in (Part(name, root), *inside)]
            else:
                self._found += self._reached(Part(name, root), steppable, tensors=name not in as_data)

    def hold(self) -> Remembered:
        """Remember what there is, with stand-ins where they are needed; nothing is changed before.

        Register `release` first where an interrupt must not come between the two.
        """
        for part, stand_in in self._replaced:
            replace(part.holder, part.key, stand_in)
        for part, stays_apart in self._found:
            (self._records_apart if stays_apart else self._records).extend(records_of(part.name, part.value))
        return self

    def __enter__(self) -> Remembered:
        return self.hold()

    def put_back(self, *, apart: bool = True) -> str | None:
        """Let everything be as it was, if asked also the layers that stay apart; the name of something that was not."""
        records = [*self._records, *self._records_apart] if apart else self._records
        changed = [name for record in records if (name := record()) is not None]
        return _plain(changed[0]) if changed else None

    def release(self) -> None:
        """Let everything be as it was before this was made; may be called again."""
        self.put_back()
        for part, _ in self._replaced:
            replace(part.holder, part.key, part.value)

    def __exit__(self, *_: object) -> None:
        self.release()

    def _reached(self, root: Part, steppable: Steppable, *, tensors: bool) -> list[tuple[Part, bool]]:
        """Every object that is reached from ``root`` for the first time, and whether it stays apart."""
        found: list[tuple[Part, bool]] = []
        waiting = deque([(root, False)])
        while waiting:
            part, apart = waiting.popleft()
            if id(part.value) in self._met:
                continue
            if part is not root and steppable(part.value):
                if part.holder is not None and self._gives_stand_ins:  # met again where it stands elsewhere
                    self._replaced.append((part, StandIn(_plain(part.name), part.value)))
                continue
            if part is not root and is_left_alone(part.value):
                continue
            self._met[id(part.value)] = part.value
            if not tensors and (isinstance(part.value, Tensor) or hasattr(part.value, "__array_interface__")):
                continue
            apart = id(part.value) in self._apart_ids or (apart and not isinstance(part.value, nn.Module))
            found.append((part, apart))
            if not tensors and isinstance(part.value, dict | list | tuple) and len(part.value) > _MOST_OF_DATA:
                continue
            waiting.extend((inner, apart) for inner in parts_of(part.name, part.value))
        return found


def _plain(name: str) -> str:
    """``self.net.weight`` for where torch keeps it, ``self._modules['net']._parameters['weight']``."""
    return re.sub(r"\._(?:modules|parameters|buffers)\['(\w+)'\]", r".\1", name)
