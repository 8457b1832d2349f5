import functools
import pathlib

import numpy as np
import torch
from torch.utils.data import DataLoader

from lightning_gap import CurvatureMonitor, LearningRateScaling, SharpnessMonitor
from lightning_gap.callbacks._settings import settings_of
from lightning_gap.functional import RandomSubspace, SmithGrowth


class Holds:
    def __init__(self, value):
        self.value = value


def plain(value, **options):
    return settings_of(Holds(value), **options)["value"]


def by(factor):
    return lambda size, base: factor * size


def test_the_arguments_of_a_callback_come_under_their_own_names():
    assert settings_of(LearningRateScaling(32, rule="sqrt")) == {
        "base_batch_size": 32,
        "rule": "sqrt",
        "warmup_epochs": 5,
        "warmup_steps": None,
        "warmup": "gradual",
        "warmup_start": 1.0,
        "when_batch_changes": "rescale",
        "momentum_correction": False,
        "micro_batch_size": None,
    }
    assert settings_of(SharpnessMonitor((1e-3, 5e-4)))["epsilon"] == [1e-3, 5e-4]


def test_all_of_it_is_plain_and_survives_a_checkpoint(tmp_path):
    values = [
        SmithGrowth(16, (1, 2), 64),
        RandomSubspace(4),
        np.float64(0.5),
        np.int64(3),
        pathlib.Path("a") / "b",
        torch.Generator().manual_seed(7),
        functools.partial(by, factor=2),
        float("nan"),
        {1, 2},
        [(torch.zeros(4, 3), torch.zeros(4))] * 5,
        {"x": np.zeros((2, 2))},
        DataLoader(range(6), batch_size=2),
        object(),
        torch.float64,
        print,
        list(range(1000)),
    ]
    found = [plain(value) for value in values]
    torch.save(found, tmp_path / "found.pt")
    assert torch.load(tmp_path / "found.pt", weights_only=True) == found
    assert found[2:5] == [0.5, 3, "a/b"]
    assert found[9].startswith("5 batches, the first ['Tensor of (4, 3)', 'Tensor of (4,)']")
    assert found[11] == "DataLoader of length 3"
    assert len(found[-1]) == 65


def test_functions_of_one_name_are_told_apart_by_what_they_do_if_asked():
    assert plain(by(1)) == plain(by(2)) == "<lambda>"
    assert plain(by(1), code=True) == plain(by(1), code=True) != plain(by(2), code=True)
    one, other = (lambda x: x + 1), (lambda x: x + 2)
    assert plain(one, code=True) != plain(other, code=True)


def test_data_are_compared_by_shape():
    monitors = [CurvatureMonitor(data=[torch.zeros(size, 2)] * 2) for size in (4, 4, 5)]
    first, second, third = (settings_of(monitor)["data"] for monitor in monitors)
    assert first == second != third


def test_a_subclass_that_hands_its_arguments_on_has_those_of_its_base():
    class Mine(LearningRateScaling):
        def __init__(self, mine=1, **others):
            self.mine = mine
            super().__init__(**others)

    found = settings_of(Mine(2, rule="sqrt"))
    assert (found["mine"], found["rule"], found["base_batch_size"]) == (2, "sqrt", 256)
