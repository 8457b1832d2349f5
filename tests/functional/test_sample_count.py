from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from lightning_gap.functional._sample_count import guess_samples

Pair = namedtuple("Pair", "inputs targets")
EIGHT = torch.zeros(8, 3)


@dataclass
class Record:
    inputs: torch.Tensor
    names: list


class Graphs:
    """An object of some library."""

    def __init__(self):
        self.x = EIGHT


@pytest.mark.parametrize(
    "batch",
    [
        EIGHT,
        (EIGHT, torch.zeros(8)),
        [EIGHT, torch.zeros(8, 2, 2), torch.tensor(0.5)],
        {"x": EIGHT, "more": {"y": torch.zeros(8)}, "names": ["a"] * 5},
        UserDict(x=EIGHT),
        Pair(EIGHT, np.zeros(8)),
        Record(EIGHT, ["a"] * 8),
        torch.nested.nested_tensor([torch.zeros(n) for n in (1, 2, 3, 4, 1, 2, 3, 4)], layout=torch.jagged),
        pack_sequence([torch.zeros(n) for n in (5, 4, 3, 2, 2, 2, 1, 1)]),
    ],
)
def test_what_all_tensors_have_as_their_first_axis_is_the_samples(batch):
    assert guess_samples(batch) == 8


@pytest.mark.parametrize(
    "batch",
    [
        {"nodes": torch.zeros(20, 3), "graphs": torch.zeros(8)},
        (torch.zeros(7, 8, 4), torch.zeros(8)),  # time first
        [torch.zeros(3, 8, 8), torch.zeros(3, 8, 8)],  # images
        ([torch.zeros(3, n, n) for n in (8, 9)], torch.zeros(2)),
        {"boxes": [torch.zeros(8, 4), torch.zeros(8, 4)]},
        [torch.zeros(5)] * 6,
        ["a sentence"] * 8,
        torch.tensor(1.0),
        Graphs(),
        {"x": EIGHT, "graphs": Graphs()},
        None,
        (),
    ],
)
def test_what_could_be_something_else_is_not_guessed(batch):
    assert guess_samples(batch) is None
