"""A loader that will not follow a later batch size is found out before the first step, and nothing else is touched."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, random_split

from lightning_gap import AdaptiveBatchSize, BatchSizeScheduler, PiggybackWarmStart, ResumableLoader
from lightning_gap.trainer.loader import TrainLoaderSize

CALLBACKS = {
    "schedule": lambda: BatchSizeScheduler({0: 8, 2: 24}),
    "function": lambda: BatchSizeScheduler(lambda epoch: 8 * (epoch + 1)),
    "piggyback": lambda: PiggybackWarmStart(3, 24, optimizer_state="keep"),
    "adaptive": lambda: AdaptiveBatchSize(16, 48, micro_batches=2),
}


class Data(LightningDataModule):
    def __init__(self):
        super().__init__()
        self.batch_size = 8


class Module(tiny.TinyClassifier):
    """Writes down the size of every batch."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def training_step(self, batch, batch_idx):
        self.sizes.append((self.current_epoch, len(batch[1])))
        return super().training_step(batch, batch_idx)


class ReadsItsConfiguration(Data):
    def __init__(self):
        super().__init__()
        self.hyper = {"batch": 8}

    def train_dataloader(self):
        return tiny.loader(batch_size=self.hyper["batch"])


class MadeAtTheBeginning(Data):
    def __init__(self):
        super().__init__()
        self.loader = tiny.loader(batch_size=8)

    def train_dataloader(self):
        return self.loader


class MadeAtTheFirstCall(Data):
    loader = None

    def train_dataloader(self):
        self.loader = self.loader or ResumableLoader(tiny.dataset(), batch_size=self.batch_size)
        return self.loader


class Capped(Data):
    def train_dataloader(self):
        return tiny.loader(batch_size=min(self.batch_size, 8))


class OncePerRun(Data):
    asked = False

    def train_dataloader(self):
        if self.asked:
            raise RuntimeError("the file is open already")
        self.asked = True
        return tiny.loader(batch_size=self.batch_size)


class FixedBatches(BatchSampler):
    def __iter__(self):
        return iter([list(range(start, start + 8)) for start in range(0, 48, 8)])


class OwnBatchSampler(Data):
    def train_dataloader(self):
        data = tiny.dataset()
        return DataLoader(data, batch_sampler=FixedBatches(range(48), self.batch_size, drop_last=False))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(tiny.dataset())


class StreamOfAnotherSize(Data):
    def train_dataloader(self):
        return DataLoader(Stream(), batch_size=8)


class Ready:
    """States nothing of its batches."""

    def __init__(self, size):
        self.size = size

    def __iter__(self):
        return zip(*(part.split(self.size) for part in tiny.dataset().tensors), strict=True)


class ReadyBatchesOfAnotherSize(Data):
    def train_dataloader(self):
        return Ready(8)


DEAF = [
    ReadsItsConfiguration,
    MadeAtTheBeginning,
    MadeAtTheFirstCall,
    Capped,
    OncePerRun,
    OwnBatchSampler,
    StreamOfAnotherSize,
    ReadyBatchesOfAnotherSize,
]


@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize("source", DEAF)
def test_a_hook_that_will_not_follow_is_refused_before_the_first_step(source, callback):
    trainer, module = tiny.trainer(CALLBACKS[callback](), max_epochs=5), Module()
    with pytest.raises(ValueError, match="train_dataloader"):
        trainer.fit(module, datamodule=source())
    assert (trainer.global_step, module.sizes) == (0, [])


class Follows(Data):
    def train_dataloader(self):
        return tiny.loader(batch_size=self.batch_size)


class MadeOnceAndResized(Data):
    def __init__(self):
        super().__init__()
        self.loader = ResumableLoader(tiny.dataset(), batch_size=8)

    def train_dataloader(self):
        self.loader.batch_size = self.batch_size
        return self.loader


class InBulk(Data):
    class Rows(torch.utils.data.TensorDataset):
        """A list of indices for a whole batch."""

    def train_dataloader(self):
        data = self.Rows(*tiny.dataset().tensors)
        return DataLoader(data, batch_size=None, sampler=BatchSampler(RandomSampler(data), self.batch_size, False))


class ReadyBatches(Data):
    def train_dataloader(self):
        return Ready(self.batch_size)


@pytest.mark.parametrize("source", [Follows, MadeOnceAndResized, InBulk, ReadyBatches])
def test_a_hook_that_follows_is_followed(source):
    module = Module()
    tiny.trainer(BatchSizeScheduler({0: 8, 1: 24, 2: 16}), max_epochs=3).fit(module, datamodule=source())
    assert module.sizes == [(0, 8)] * 6 + [(1, 24)] * 2 + [(2, 16)] * 3


def test_a_loader_in_bulk_that_is_given_to_fit_follows_too():
    module = Module()
    tiny.trainer(BatchSizeScheduler({0: 8, 1: 24}), max_epochs=2).fit(module, InBulk().train_dataloader())
    assert module.sizes == [(0, 8)] * 6 + [(1, 24)] * 2


class DrawsAndCounts(Data):
    """Its hook draws from every generator and keeps a record."""

    def __init__(self):
        super().__init__()
        self.generator, self.numpys = torch.Generator().manual_seed(1), np.random.default_rng(1)
        self.calls, self.record, self.latest, self.loader = 0, [], {}, None

    def train_dataloader(self):
        self.calls += 1
        order = random_split(tiny.dataset(60), [48, 12], generator=self.generator)[0]
        torch.rand(3), np.random.rand(2)  # noqa: NPY002
        self.record.append((self.batch_size, float(self.numpys.random())))
        self.latest["size"] = self.batch_size
        self.loader = DataLoader(order, batch_size=self.batch_size, shuffle=True, generator=self.generator)
        return self.loader


def test_to_prove_it_leaves_no_trace(monkeypatch):
    def run():
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        module, data = Module(), DrawsAndCounts()
        tiny.trainer(BatchSizeScheduler({0: 8, 2: 24, 3: 16}), max_epochs=4).fit(module, datamodule=data)
        return tiny.state_of(module), data, torch.get_rng_state(), np.random.rand()  # noqa: NPY002

    proved = run()
    monkeypatch.setattr(TrainLoaderSize, "prove", lambda *_, **how: None)
    believed = run()
    assert tiny.same(proved[0], believed[0])
    assert torch.equal(proved[2], believed[2])
    assert proved[3] == believed[3]
    for name in ("calls", "record", "latest", "batch_size"):
        assert getattr(proved[1], name) == getattr(believed[1], name), name


ASKED = []


def test_the_hook_is_asked_a_few_times_only():
    class Counts(Data):
        def train_dataloader(self):
            ASKED.append(self.batch_size)  # outside of the data module, whose own state is put back
            return tiny.loader(batch_size=self.batch_size)

    ASKED.clear()
    tiny.trainer(BatchSizeScheduler(lambda epoch: 8 + epoch), max_epochs=12).fit(Module(), datamodule=Counts())
    assert [8, 9, 19, *range(9, 20)] == ASKED


# Loaders that are given to fit


class Endless:
    def __init__(self, batches):
        self.sampler = batches

    def __iter__(self):
        while True:
            yield from self.sampler


class KeepsItsIterator(DataLoader):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.only = super().__iter__()

    def __iter__(self):
        return (next(self.only) for _ in range(len(self)))


def test_a_given_loader_that_cannot_be_resized_is_refused_for_its_reason():
    data, plain = tiny.dataset(), {"max_epochs": 3}
    endless = DataLoader(data, batch_sampler=Endless(BatchSampler(RandomSampler(data), 8, drop_last=False)))
    fixed = DataLoader(data, batch_sampler=FixedBatches(range(48), 8, drop_last=False))
    reasons = {
        "a DataLoader with a Endless as batch_sampler cannot be set": endless,
        "it keeps one iterator for all epochs, in 'only'": KeepsItsIterator(data, batch_size=8),
        "it was set to 16 samples for each process and batch, but a batch holds 8": fixed,
    }
    for reason, loader in reasons.items():
        for callback in (BatchSizeScheduler({0: 8, 2: 16}), PiggybackWarmStart(2, 16, optimizer_state="keep")):
            trainer = tiny.trainer(callback, limit_train_batches=6, **plain)
            with pytest.raises(ValueError, match=reason):
                trainer.fit(Module(), loader)
            assert trainer.global_step == 0


@pytest.mark.bad_input(33)
def test_several_loaders_from_a_module_are_refused():
    class Two(Data):
        def train_dataloader(self):
            return [tiny.loader(batch_size=self.batch_size), tiny.loader(batch_size=self.batch_size)]

    with pytest.raises(ValueError, match="several train loaders at once"):
        tiny.trainer(BatchSizeScheduler({0: 8, 1: 16})).fit(Module(), datamodule=Two())


# A last batch of one sample


class Images(LightningModule):
    """BatchNorm over images, which have several values of each sample and channel."""

    def __init__(self, *layers):
        super().__init__()
        self.net = nn.Sequential(nn.Unflatten(1, (1, 4, 2)), nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), *layers)
        self.net.extend([nn.Flatten(), nn.LazyLinear(3)])

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def ends_with(module, loader=None, sizes=None, **options):
    module.net(torch.randn(4, 8))  # of which lazy layers learn their shape
    trainer = tiny.trainer(BatchSizeScheduler(sizes or {0: 7, 1: 16}), **({"max_epochs": 2} | options))
    trainer.fit(module, tiny.loader(49) if loader is None else loader)


def test_a_last_batch_of_one_sample_is_refused_where_batch_norm_has_nothing_to_average():
    """49 samples: batches of 7 fill them, and of batches of 16 one sample is left."""
    pooled = Images(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4))
    for module, layer in ((tiny.TinyClassifier(), "net.1"), (pooled, "net.4")):
        for loader in (tiny.loader(49), ResumableLoader(tiny.dataset(49), batch_size=7)):
            steps = SimpleNamespace(taken=0)
            module.on_train_batch_end = lambda *_, steps=steps: setattr(steps, "taken", steps.taken + 1)
            with pytest.raises(
                ValueError, match=rf"batches of 16 samples has a batch of one, which {layer} could not .*drop_last"
            ):
                ends_with(module, loader)
            assert steps.taken == 0


def test_a_last_batch_of_one_sample_is_no_fault_where_it_works():
    ends_with(Images())  # several values of one sample
    ends_with(tiny.TinyClassifier(), tiny.loader(49, drop_last=True))
    ends_with(tiny.TinyClassifier(), max_steps=7 + 3)  # before the last batch
    ends_with(tiny.TinyClassifier(), limit_train_batches=3)
    frozen = tiny.TinyClassifier()
    frozen.on_train_epoch_start = lambda: frozen.net[1].eval()
    ends_with(frozen)
    assert not any(layer._forward_pre_hooks for layer in frozen.modules())


# Numbers


def test_numbers_of_numpy_become_plain_ones_and_bools_are_refused():
    callback = BatchSizeScheduler({np.int64(0): np.int64(8), np.int32(1): np.int16(16)}, max_micro_batch=np.int64(8))
    assert callback.schedule == {0: 8, 1: 16}
    assert all(type(number) is int for pair in callback.schedule.items() for number in pair)
    assert type(callback.max_micro_batch) is int
    module = Module()
    tiny.trainer(BatchSizeScheduler(lambda epoch: np.int64(8) * (epoch + 1)), max_epochs=2).fit(module, tiny.loader())
    assert module.sizes == [(0, 8)] * 6 + [(1, 16)] * 3
    start = PiggybackWarmStart(np.int64(1), np.int64(24), optimizer_state="keep")
    assert (type(start.switch_epoch), type(start.large_batch_size)) == (int, int)
    adaptive = AdaptiveBatchSize(np.int64(16), np.int32(32), smoothing=np.float64(0.5), theta=np.float32(0.5))
    assert {type(value) for value in vars(adaptive).values()}.isdisjoint({np.int64, np.int32, np.float64, np.float32})
    for schedule in ({0: True}, {True: 8}, {0: np.bool_(True)}, {0: 8.0}, {0: np.float64(8)}):
        with pytest.raises(ValueError, match="schedule"):
            BatchSizeScheduler(schedule)
    for arguments in ({"monotone": "no"}, {"micro_batches": True}, {"theta": True}, {"batch_arg_name": 8}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            AdaptiveBatchSize(16, 32, **arguments)
