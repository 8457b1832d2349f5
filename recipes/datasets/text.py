"""Text as bytes, cut into sequences: each byte is predicted from those before it."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_gap.functional._validation import whole_number

from .data_module import setting
from .in_memory_data import InMemoryData
from .integrity import is_folder, lacks
from .samples import Samples

TRAIN_BYTES, TEST_BYTES = 2**22, 2**19
_NO_PROSE = {"test", "tests", "site-packages", "dist-packages", "encodings", "pydoc_data", "idlelib"}  # nor its code


class Sequences(Samples):
    """Bytes in sequences of one length; the target of each byte is the one after it.

    Args:
        text: Bytes, (n,) uint8. What does not fill a sequence is left out.
        length: Tokens of a sequence.
    """

    def __init__(self, text: Tensor, length: int) -> None:
        sequences = (len(text) - 1) // length
        super().__init__(text[1 : sequences * length + 1].view(sequences, length).to(torch.int64))
        self._stored = text[: sequences * length].view(sequences, length)

    def inputs(self, held: Tensor) -> Tensor:
        """Bytes, (n, length) int64."""
        return self._stored.index_select(0, held).to(torch.int64)


class Text(InMemoryData):
    """Bytes of the text files in ``data_dir``, cut into sequences of the recipe's length; the last tenth to test.

    All files that end in .txt, in the order of their names. A sample is a sequence: inputs (N, T) int64 and targets
    (N, T), the bytes that follow. Arguments and attributes are those of `ClassificationData`, and two that the recipe
    has too: ``length``, bytes of a sequence, by default 128, and ``sequences`` to train on, the first ones, by default
    all.
    """

    name, title = "text", "a text of your own"
    num_classes = 256

    def __init__(
        self, recipe: Any = None, *, length: int | None = None, sequences: int | None = None, **settings: Any
    ) -> None:
        super().__init__(recipe, **settings)
        self.length: int = whole_number("length", setting(recipe, "length", length, 128))
        asked = setting(recipe, "sequences", sequences, None)
        self.sequences: int | None = None if asked is None else whole_number("sequences", asked)
        self.input_shape = (self.length,)

    def texts(self) -> tuple[bytes, bytes]:
        """The bytes to train on and those to test with."""
        files = sorted(self.data_dir.glob("*.txt")) if is_folder(self.data_dir) else []
        if not files:
            raise FileNotFoundError(
                f"{lacks(self.data_dir, 'a text file')}: put one there whose name ends in .txt, or use the data set "
                "python-library, which needs none"
            )
        whole = b"".join(file.read_bytes() for file in files)
        return whole[: len(whole) * 9 // 10], whole[len(whole) * 9 // 10 :]

    def read(self) -> tuple[Sequences, Sequences]:
        texts = self.texts()
        for text, split in zip(texts, ("train", "test"), strict=True):
            if len(text) <= self.length:
                raise ValueError(
                    f"the {split} text has {len(text)} bytes, which do not fill a sequence of length={self.length} and "
                    "one more; use a longer text or shorter sequences"
                )
        train, test = (Sequences(torch.frombuffer(bytearray(text), dtype=torch.uint8), self.length) for text in texts)
        if self.sequences is None:
            return train, test
        if self.sequences > len(train):
            raise ValueError(
                f"the train text has {len(train)} sequences of length={self.length}, and sequences={self.sequences} "
                f"are asked for; use at most {len(train)}, or a longer text"
            )
        return train.subset(torch.arange(self.sequences)), test


class PythonLibrary(Text):
    """4 MiB of the source of Python's standard library, and half a MiB to test with: offline.

    Whole modules, in an order drawn with seed 0, of the Python that runs: another version has another text, and
    numbers compare within one. Inputs, targets and arguments as of `Text`; ``data_dir`` is not used.
    """

    name, title = "python-library", "Python's standard library"

    def texts(self) -> tuple[bytes, bytes]:
        """The bytes to train on and those to test with."""
        library = Path(sysconfig.get_paths()["stdlib"])
        found = [file for part in ("*.py", "*/*.py") for file in library.glob(part)]
        files = sorted(file for file in found if file.parent.name not in _NO_PROSE)
        first = TEST_BYTES + 1  # and the byte after the last one
        needed = first + TRAIN_BYTES + 1
        whole = bytearray()
        for place in torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist():
            whole += files[place].read_bytes()
            if len(whole) >= needed:
                return bytes(whole[first:needed]), bytes(whole[:first])
        raise FileNotFoundError(
            f"the standard library in {str(library)!r} has {len(whole)} bytes of source, where {needed} are needed; "
            "use the data set text with a text of your own"
        )
