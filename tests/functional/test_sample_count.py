from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from lightning_gap.functional._sample_count import guess_samples

Pair = namedtuple("Pair", "inputs targets")


@dataclass
class Record:
    inputs: torch.Tensor
    length: int


class Foreign:
    def __init__(self):
        self.x = torch.zeros(4, 2)


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(4, 2),
        [torch.zeros(4, 2), torch.zeros(4)],
        (torch.zeros(4, 2), torch.zeros(4), torch.zeros(4, 1, 2)),
        {"ids": torch.zeros(4, 9), "mask": {"rows": torch.zeros(4)}, "text": ["a"] * 4, "weight": torch.zeros(())},
        Pair(torch.zeros(4, 3, 8), torch.zeros(4, 1, 8)),
        Record(torch.zeros(4, 2), 7),
        {"x": np.zeros((4, 3)), "y": torch.zeros(4)},
        [torch.zeros(4, 3, 8, 8), torch.zeros(4, 3, 8, 8)],
    ],
)
def test_a_first_axis_that_all_agree_on_is_the_samples(batch):
    assert guess_samples(batch) == 4


@pytest.mark.parametrize(
    "batch",
    [
        {"nodes": torch.zeros(4, 2), "graphs": torch.zeros(2)},
        [torch.zeros(7, 4, 3), torch.zeros(4)],  # time first
        [torch.zeros(3, 5, 5), torch.zeros(3, 6, 6)],  # one tensor for each image
        [torch.zeros(3)] * 8,
        ((torch.zeros(3, 5, 5), torch.zeros(3, 6, 6)), (torch.zeros(()), torch.zeros(()))),
        {"images": [torch.zeros(3, 5, 5), torch.zeros(3, 5, 5)], "labels": torch.zeros(3)},
        Foreign(),
        {"batch": Foreign(), "y": torch.zeros(4)},
        "text",
        7,
        None,
        torch.zeros(()),
        [],
    ],
)
def test_what_could_be_something_else_is_not_guessed(batch):
    assert guess_samples(batch) is None
