import functools
import pathlib

import numpy as np
import pytest
import tiny
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_gap import (
    BatchSizeScheduler,
    CurvatureMonitor,
    LearningRateScaling,
    ResumableLoader,
    SharpnessMonitor,
)
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


class Remembers:
    """A rule, count or schedule with a state of its own, which is no other one for that."""

    def __init__(self):
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1
        return 16

    def counts(self, batch):
        self.calls += 1
        return len(batch[0])


def test_what_a_function_or_a_module_holds_is_no_setting():
    net, rule = torch.nn.Sequential(torch.nn.Linear(2, 2)), Remembers()
    net.seen = 0
    values = [net, net.forward, rule, rule.counts, functools.partial(by, net, [rule], factor=2)]
    before = [(plain(value), plain(value, code=True)) for value in values]
    net.seen, rule.calls = 7, 9
    net.append(torch.nn.Linear(2, 2))
    assert [(plain(value), plain(value, code=True)) for value in values] == before
    assert [plain(value) for value in values] == [
        "Sequential",
        "Sequential.forward",
        "Remembers",
        "Remembers.counts",
        ["by", ["Sequential", "list"], {"factor": 2}],
    ]


def test_a_loader_without_a_length_and_keys_that_are_tuples_are_settings_too():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(4))

    assert plain(DataLoader(Stream(), batch_size=2)) == "DataLoader"
    assert plain({(0, 1): 2}) == {"[0, 1]": 2}


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint", "ignore:Checkpoint directory")
@pytest.mark.parametrize("made_of", ["method", "partial", "object"])
def test_a_run_with_a_function_that_remembers_is_resumed(tmp_path, made_of):
    def train(epochs, ckpt_path=None):
        remembers = Remembers()
        count = {
            "method": remembers.counts,
            "partial": functools.partial(lambda held, batch: held[0].counts(batch), [remembers]),
            "object": Counts(),
        }[made_of]
        callbacks = [
            BatchSizeScheduler(Remembers(), count=count, max_micro_batch=8),
            LearningRateScaling(16, rule=Remembers(), warmup_epochs=0),
            ModelCheckpoint(tmp_path, save_last=True),
        ]
        trainer = tiny.trainer(*callbacks, max_epochs=epochs, enable_checkpointing=True, default_root_dir=tmp_path)
        trainer.fit(tiny.TinyClassifier(), ResumableLoader(tiny.dataset(32), batch_size=8), ckpt_path=ckpt_path)
        return trainer.global_step

    class Counts(Remembers):
        def __call__(self, batch):
            return self.counts(batch)

    assert train(1) == 2
    assert train(2, tmp_path / "last.ckpt") == 4


@pytest.mark.filterwarnings(
    "ignore:You're resuming from a checkpoint",
    "ignore:Checkpoint directory",
    "ignore:the schedule changes the batch size",
)
def test_a_schedule_may_change_for_epochs_to_come_and_not_for_those_that_were(tmp_path):
    def train(epochs, schedule, ckpt_path=None):
        callbacks = [BatchSizeScheduler(schedule), ModelCheckpoint(tmp_path, save_last=True)]
        trainer = tiny.trainer(*callbacks, max_epochs=epochs, enable_checkpointing=True, default_root_dir=tmp_path)
        trainer.fit(tiny.TinyClassifier(), ResumableLoader(tiny.dataset(32), batch_size=8), ckpt_path=ckpt_path)
        return trainer.global_step

    train(2, {0: 8, 1: 16})
    saved = (tmp_path / "last.ckpt").rename(tmp_path / "saved.ckpt")
    assert train(3, {0: 8, 1: 16, 2: 32}, saved) == 4 + 2 + 1
    assert train(3, lambda epoch: 8 * 2 ** min(epoch, 1), saved) == 4 + 2 + 2
    for other in ({0: 8, 2: 16}, {0: 16}, lambda epoch: 16):
        with pytest.raises(ValueError, match=r"in epoch [01], this run's schedule has"):
            train(3, other, saved)
