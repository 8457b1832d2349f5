import math
from itertools import chain

import pytest
import tiny
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
    TQDMProgressBar,
)
from torch.optim import lr_scheduler as lrs
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, WeightedRandomSampler

from lightning_gap import (
    BatchSizeScheduler,
    GhostBatchNormSwap,
    InMemoryLoader,
    LearningRateScaling,
    ResumableLoader,
)
from lightning_gap.functional import SmithGrowth

SAMPLES, EPOCHS = 48, 4
SCHEDULES = {
    "grows at the first": {0: 16, 1: 24},
    "shrinks at the first": {0: 16, 1: 4},
    "grows in the middle": {0: 8, 2: 16},
    "shrinks in the middle": {0: 16, 2: 8},
    "grows at the last": {0: 8, 3: 24},
    "shrinks at the last": {0: 24, 3: 8},
    "ragged": {0: 9, 1: 20, 2: 7},
}


class Watched(tiny.Validated):
    """Writes down what the Trainer does."""

    def __init__(self, loader=None, batch_size=12, **options):
        super().__init__(**options)
        self.make_loader, self.batch_size = loader, batch_size
        self.seen, self.lengths, self.validated, self.rates = {}, {}, [], []

    def training_step(self, batch, batch_idx):
        self.seen.setdefault(self.current_epoch, []).append(batch[2].tolist())
        self.lengths[self.current_epoch] = self.trainer.num_training_batches
        return super().training_step(batch[:2], batch_idx)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch[:2], batch_idx)

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.validated.append(self.current_epoch)

    def on_train_epoch_end(self):
        assert self.trainer.train_dataloader is not None
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [lrs.StepLR(optimizer, 1, 0.5)]


def numbered(samples=SAMPLES):
    return torch.utils.data.TensorDataset(*tiny.dataset(samples).tensors, torch.arange(samples))


class FromModule(Watched):
    def train_dataloader(self):
        return self.make_loader(self.batch_size)

    def val_dataloader(self):
        return DataLoader(numbered(24), batch_size=8)


class Data(LightningDataModule):
    def __init__(self, make_loader, batch_size=12):
        super().__init__()
        self.make_loader, self.batch_size = make_loader, batch_size

    def train_dataloader(self):
        return self.make_loader(self.batch_size)

    def val_dataloader(self):
        return DataLoader(numbered(24), batch_size=8)


LOADERS = {
    "DataLoader": lambda size: DataLoader(numbered(), batch_size=size, shuffle=True),
    "workers": lambda size: DataLoader(
        numbered(), batch_size=size, shuffle=True, num_workers=1, persistent_workers=True, prefetch_factor=4
    ),
    "ResumableLoader": lambda size: ResumableLoader(numbered(), batch_size=size, shuffle=True),
    "InMemoryLoader": lambda size: InMemoryLoader(numbered().tensors, batch_size=size, shuffle=True),
}


def fit(source, make_loader, *callbacks, module=None, **options):
    """Fit with the train loader from where ``source`` says."""
    torch.manual_seed(0)
    trainer = tiny.trainer(*callbacks, **({"max_epochs": EPOCHS} | options))
    if source == "module":
        module = FromModule(make_loader)
        trainer.fit(module)
    elif source == "data module":
        module = Watched()
        trainer.fit(module, Data(make_loader))
    else:
        module = module or Watched()
        trainer.fit(module, make_loader(12), DataLoader(numbered(24), batch_size=8))
    return trainer, module


def planned(schedule, epoch):
    size = [size for begin, size in schedule.items() if begin <= epoch][-1]
    full, rest = divmod(SAMPLES, size)
    return [size] * full + [rest] * (rest > 0)


class Totals(TQDMProgressBar):
    def __init__(self):
        super().__init__()
        self.totals = {}

    def on_train_epoch_start(self, trainer, *rest):
        super().on_train_epoch_start(trainer, *rest)
        self.totals[trainer.current_epoch] = self.train_progress_bar.total


@pytest.mark.parametrize("source", ["fit", "module", "data module"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_everything_follows_the_size(source, name):
    schedule, bar = SCHEDULES[name], Totals()
    trainer, module = fit(source, LOADERS["DataLoader"], bar, BatchSizeScheduler(schedule), enable_progress_bar=True)
    for epoch in range(EPOCHS):
        sizes = planned(schedule, epoch)
        assert [len(batch) for batch in module.seen[epoch]] == sizes
        assert sorted(chain(*module.seen[epoch])) == list(range(SAMPLES))
        assert module.lengths[epoch] == bar.totals[epoch] == len(sizes)
    assert len({tuple(chain(*batches)) for batches in module.seen.values()}) == EPOCHS  # shuffled anew
    assert module.validated == list(range(EPOCHS))
    assert module.rates == [0.05 * 0.5**epoch for epoch in range(1, EPOCHS + 1)]
    assert trainer.global_step == sum(len(planned(schedule, epoch)) for epoch in range(EPOCHS))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("source", ["fit", "module"])
@pytest.mark.bad_input(38)
def test_every_kind_of_loader_follows(loader, source):
    schedule = {0: 16, 1: 8, 2: 20}
    _, module = fit(source, LOADERS[loader], BatchSizeScheduler(schedule))
    for epoch in range(EPOCHS):
        assert [len(batch) for batch in module.seen[epoch]] == planned(schedule, epoch)
        assert sorted(chain(*module.seen[epoch])) == list(range(SAMPLES))
    assert module.validated == list(range(EPOCHS))


def test_past_the_limit_micro_batches_are_accumulated():
    schedule = {0: 8, 1: 16, 2: 48}
    trainer, module = fit("fit", LOADERS["ResumableLoader"], BatchSizeScheduler(schedule, max_micro_batch=8))
    assert {len(batch) for batches in module.seen.values() for batch in batches} == {8}
    assert trainer.global_step == 6 + 3 + 1 + 1
    assert trainer.accumulate_grad_batches == 1  # the user's own, after the fit


def test_validation_inside_an_epoch_follows():
    _, module = fit("fit", LOADERS["DataLoader"], BatchSizeScheduler({0: 6, 2: 12}), val_check_interval=0.5)
    assert module.validated == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.bad_input(35)
def test_a_cut_epoch_keeps_its_cut():
    _, module = fit("fit", LOADERS["DataLoader"], BatchSizeScheduler({0: 6, 2: 12}), limit_train_batches=3)
    assert [len(batches) for batches in module.seen.values()] == [3] * 4
    trainer, _ = fit("fit", LOADERS["DataLoader"], BatchSizeScheduler({0: 6, 2: 12}), max_steps=10)
    assert trainer.global_step == 10


@pytest.mark.bad_input(34)
def test_weighted_samplers_and_own_batch_samplers_keep_their_kind_on_one_process():
    weights = torch.tensor([1.0] * 12 + [0.0] * (SAMPLES - 12))
    sampler = WeightedRandomSampler(weights, SAMPLES)
    _, module = fit(
        "fit", lambda size: DataLoader(numbered(), batch_size=size, sampler=sampler), BatchSizeScheduler({0: 8, 1: 16})
    )
    assert {index for batches in module.seen.values() for batch in batches for index in batch} <= set(range(12))
    assert [len(batches) for batches in module.seen.values()] == [6, 3, 3, 3]

    class Backwards(BatchSampler):
        def __iter__(self):
            return (batch[::-1] for batch in super().__iter__())

    own = Backwards(SequentialSampler(numbered()), 12, drop_last=False)
    _, module = fit("fit", lambda size: DataLoader(numbered(), batch_sampler=own), BatchSizeScheduler({0: 4, 1: 16}))
    assert module.seen[0][0] == [3, 2, 1, 0]
    assert module.seen[1][0] == list(range(16))[::-1]
    assert own.batch_size == 12


def test_a_stream_of_known_batch_size_follows():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(numbered())

    _, module = fit("fit", lambda size: DataLoader(Stream(), batch_size=size), BatchSizeScheduler({0: 8, 1: 16}))
    assert [len(batch) for batch in module.seen[1]] == [16, 16, 16]
    assert module.validated == list(range(EPOCHS))


@pytest.mark.bad_input(32)
def test_the_users_own_values_come_back_also_after_an_exception():
    class Fails(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                raise RuntimeError("user's own")

    loader, data = LOADERS["DataLoader"](12), Data(LOADERS["DataLoader"])
    for train_data in (loader, data, LOADERS["ResumableLoader"](12)):
        trainer = tiny.trainer(BatchSizeScheduler({0: 8, 1: 16}), Fails(), reload_dataloaders_every_n_epochs=3)
        with pytest.raises(RuntimeError, match="user's own"):
            trainer.fit(Watched(), train_data, **({} if train_data is data else {"val_dataloaders": tiny.loader(24)}))
        assert train_data.batch_size == 12
        assert trainer.reload_dataloaders_every_n_epochs == 3
        assert trainer.fit_loop._data_source.instance is train_data
    assert loader.batch_sampler.batch_size == 12


def test_smiths_growth_grows_first_and_divides_the_rate_afterwards():
    grow = SmithGrowth(6, (1, 2, 3), max_batch_size=24, factor=4)
    seen = {}

    class See(Callback):
        def on_train_batch_end(self, trainer, *rest):
            seen[trainer.current_epoch] = [
                float(trainer.callback_metrics[key]) for key in ("batch/size", "batch/lr_factor", "lr/effective")
            ]

    keep = LearningRateScaling(6, warmup_epochs=0, when_batch_changes="keep")
    tiny.trainer(BatchSizeScheduler(grow), keep, See(), max_epochs=4).fit(tiny.TinyClassifier(), tiny.loader(48))
    expected = [[6, 1, 0.05], [24, 1, 0.05], [24, 1 / 4, 0.05 / 4], [24, 1 / 16, 0.05 / 16]]
    assert [seen[epoch] for epoch in range(4)] == [pytest.approx(row) for row in expected]
    with pytest.raises(ValueError, match=r"BatchSizeScheduler and LearningRateScaling .*when_batch_changes='keep'"):
        tiny.trainer(BatchSizeScheduler(grow), LearningRateScaling(6), max_epochs=4).fit(
            tiny.TinyClassifier(), tiny.loader(48)
        )


def test_smiths_growth_divides_the_rate_where_the_end_of_the_run_is_not_known():
    seen = []

    class See(Callback):
        def on_train_batch_end(self, trainer, *rest):
            seen.append(float(trainer.callback_metrics["batch/lr_factor"]))

    grow = BatchSizeScheduler(SmithGrowth(24, (1, 2), max_batch_size=24, factor=4))
    tiny.trainer(grow, See(), max_epochs=-1, max_steps=6).fit(tiny.TinyClassifier(), tiny.loader(48))
    assert seen == [1, 1, 1 / 4, 1 / 4, 1 / 16, 1 / 16]


@pytest.mark.parametrize("end", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 9}])
def test_a_schedule_that_leaves_the_rate_alone_does_not_touch_the_optimizers_steps(end):
    closures = []

    class See(Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.optimizers[0].register_step_pre_hook(lambda _, args, kwargs: closures.append(kwargs["closure"]))

    tiny.trainer(BatchSizeScheduler(lambda epoch: min(48, 16 * (epoch + 1))), See(), **end).fit(
        tiny.TinyClassifier(), tiny.loader(48)
    )
    assert len(closures) >= 3
    assert {closure.func.__module__.split(".")[0] for closure in closures} == {"lightning"}


def test_a_run_resumed_inside_an_epoch_has_the_factor_of_that_epoch(tmp_path):
    rates = {}

    class See(Callback):
        def on_train_batch_end(self, trainer, *rest):
            rates.setdefault(trainer.global_step, []).append(float(trainer.callback_metrics["batch/lr_factor"]))

    def fit(steps, **options):
        grow = BatchSizeScheduler(SmithGrowth(16, (1,), max_batch_size=16, factor=4))
        trainer = tiny.trainer(grow, See(), max_epochs=-1, max_steps=steps)
        trainer.fit(tiny.TinyClassifier(), ResumableLoader(tiny.dataset(48), batch_size=16), **options)
        return trainer

    fit(4).save_checkpoint(tmp_path / "inside")  # the second epoch has begun
    fit(7, ckpt_path=tmp_path / "inside")
    assert rates == {step: [1.0 if step <= 3 else 1 / 4] for step in range(1, 8)}


def test_checkpoints_hold_the_users_hyperparameters(tmp_path):
    class Hyper(tiny.TinyClassifier):
        def __init__(self, batch_size=12):
            super().__init__()
            self.save_hyperparameters()

        @property
        def batch_size(self):
            return self.hparams.batch_size

        def train_dataloader(self):
            return tiny.loader(48, batch_size=self.batch_size)

    class Saves(Callback):
        def on_train_epoch_end(self, trainer, *rest):
            trainer.save_checkpoint(tmp_path / f"{trainer.current_epoch}.ckpt")

    module = Hyper()
    tiny.trainer(BatchSizeScheduler({0: 8, 1: 16}), Saves(), max_epochs=2).fit(module)
    assert module.hparams.batch_size == 12
    for epoch in (0, 1):
        stored = torch.load(tmp_path / f"{epoch}.ckpt", weights_only=True)
        assert stored["hyper_parameters"]["batch_size"] == 12


def test_a_loader_that_drops_the_last_batch_and_a_scheduler_that_steps_rarely_are_counted_right():
    class OneCycle(tiny.TinyClassifier):
        def __init__(self, total, frequency=1):
            super().__init__()
            self.total, self.frequency = total, frequency

        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            cycle = lrs.OneCycleLR(optimizer, 0.1, total_steps=self.total)
            return [optimizer], [{"scheduler": cycle, "interval": "step", "frequency": self.frequency}]

    sizes = BatchSizeScheduler({0: 10, 2: 20})  # of 45 samples: 4 + 4 + 2 + 2 with drop_last
    loader = tiny.loader(45, batch_size=8, drop_last=True)
    tiny.trainer(sizes, max_epochs=4).fit(OneCycle(12), loader)
    tiny.trainer(BatchSizeScheduler({0: 12, 2: 24}), max_epochs=4).fit(OneCycle(6, 2), tiny.loader(48))
    with pytest.raises(ValueError, match=r"val_check_interval=3 is more batches than an epoch has .* 20 samples, 2"):
        tiny.trainer(BatchSizeScheduler({0: 10, 2: 20}), max_epochs=4, val_check_interval=3).fit(
            tiny.Validated(), loader, tiny.loader(24, seed=2)
        )


@pytest.mark.bad_input(34)
def test_a_batch_sampler_that_cannot_follow_is_found_out():
    class Fixed(BatchSampler):
        def __iter__(self):
            return iter([list(range(start, start + 12)) for start in range(0, 48, 12)])

    loader = DataLoader(tiny.dataset(48), batch_sampler=Fixed(SequentialSampler(range(48)), 12, drop_last=False))
    with pytest.raises(ValueError, match=r"was set to 24 samples .* but a batch holds 12"):
        tiny.trainer(BatchSizeScheduler({0: 12, 1: 24}), max_epochs=2).fit(tiny.TinyClassifier(), loader)


def test_weight_averaging_of_lightning_still_has_its_epoch_for_statistics():
    averaging = StochasticWeightAveraging(0.01, swa_epoch_start=2)
    trainer, module = fit("fit", LOADERS["DataLoader"], averaging, BatchSizeScheduler({0: 8, 1: 16, 3: 24}))
    assert [len(module.seen[epoch]) for epoch in range(EPOCHS)] == [6, 3, 3, 2]
    assert trainer.global_step == 14 + 1  # Lightning's own, at the end of that epoch


# What cannot work


def refused(message, callback, *others, loader=None, module=None, validation=None, **options):
    trainer = tiny.trainer(callback, *others, **({"max_epochs": 4} | options))
    with pytest.raises(ValueError, match=message):
        trainer.fit(module or tiny.TinyClassifier(), loader or tiny.loader(48), validation)
    assert trainer.global_step == 0


@pytest.mark.promise("schedule")
@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({}, "schedule is empty"),
        ({2: 8}, "begins at epoch 2"),
        (16, "schedule must be batch sizes by epoch, .* or a function of the epoch, got 16"),
    ],
)
@pytest.mark.bad_input(27)
def test_a_schedule_that_is_none_is_refused(schedule, message):
    with pytest.raises(ValueError, match=message):
        BatchSizeScheduler(schedule)


@pytest.mark.promise("schedule")
@pytest.mark.bad_input(28)
def test_sizes_that_cannot_work_are_refused_before_the_first_step():
    refused("a batch of 96 samples is larger than the 48 samples", BatchSizeScheduler({0: 8, 3: 96}))
    refused("a batch of 9 cannot be shared equally", BatchSizeScheduler({0: 8, 3: 9}), accumulate_grad_batches=2)
    refused(
        "schedule in epoch 3 must be a whole number of samples, at least 1, got 0",
        BatchSizeScheduler(lambda epoch: 8 if epoch < 3 else 0),
    )
    refused(
        "val_check_interval=4 is more batches than an epoch has once a batch holds 24 samples, 2",
        BatchSizeScheduler({0: 8, 3: 24}),
        val_check_interval=4,
        module=tiny.Validated(),
        validation=tiny.loader(24, seed=2),
    )
    refused(
        "drop_last=True leaves no batch: 48 samples do not fill one of 64",
        BatchSizeScheduler({0: 64}),
        loader=tiny.loader(48, drop_last=True),
    )
    with pytest.raises(ValueError, match="max_micro_batch must be a whole number"):
        BatchSizeScheduler({0: 8}, max_micro_batch=0)


@pytest.mark.promise("schedule")
@pytest.mark.bad_input(29)
def test_a_milestone_after_the_run_is_told():
    with pytest.warns(UserWarning, match=r"changes the batch size at epoch 9, and the run has max_epochs=2"):
        tiny.trainer(BatchSizeScheduler({0: 8, 9: 16}), max_epochs=2).fit(tiny.TinyClassifier(), tiny.loader(48))


def test_a_rate_scheduler_with_the_wrong_number_of_steps_is_refused_or_told():
    class OneCycle(tiny.TinyClassifier):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            total = self.trainer.estimated_stepping_batches
            return [optimizer], [{"scheduler": lrs.OneCycleLR(optimizer, 0.1, total_steps=total), "interval": "step"}]

    refused("OneCycleLR was made for total_steps=8, .* the run takes 16 steps", BatchSizeScheduler({0: 24, 2: 8}),
            module=OneCycle())  # fmt: skip
    with pytest.warns(UserWarning, match="OneCycleLR was made for total_steps=24, .* the run takes 16 steps"):
        tiny.trainer(BatchSizeScheduler({0: 8, 2: 24}), max_epochs=4).fit(OneCycle(), tiny.loader(48))


@pytest.mark.bad_input(31, 33)
def test_loaders_without_a_size_to_set_are_refused():
    schedule = BatchSizeScheduler({0: 8, 1: 16})
    ready = [(torch.randn(8, 8), torch.arange(8) % 3)] * 3
    refused("batch size of several train loaders at once", schedule, loader=[tiny.loader(), tiny.loader()])
    refused("batch size of several train loaders at once", schedule, loader={"a": tiny.loader()})
    batches = DataLoader(tiny.dataset(48), batch_sampler=[[0, 1], [2, 3]])
    refused("a DataLoader with a list as batch_sampler cannot be set", schedule, loader=batches)

    class Ready:
        def __iter__(self):
            return iter(ready)

    refused("the batch size of a Ready cannot be set", schedule, loader=Ready())


def test_a_module_that_does_not_read_the_attribute_is_refused():
    class Deaf(tiny.TinyClassifier):
        batch_size = 8

        def train_dataloader(self):
            return tiny.loader(48, batch_size=12)

    class Nameless(tiny.TinyClassifier):
        def train_dataloader(self):
            return tiny.loader(48, batch_size=12)

    trainer = tiny.trainer(BatchSizeScheduler({0: 8, 1: 16}))
    with pytest.raises(ValueError, match=r"was set to 8 .*gave a loader with 12; let it read"):
        trainer.fit(Deaf())
    with pytest.raises(
        ValueError, match="neither Nameless nor its data module has an attribute 'batch_size' that can be set"
    ):
        tiny.trainer(BatchSizeScheduler({0: 8})).fit(Nameless())

    class Ready:
        def __iter__(self):
            return iter([(torch.randn(20, 8), torch.arange(20) % 3)] * 2)

    class Streams(tiny.TinyClassifier):
        batch_size = 8

        def train_dataloader(self):
            return Ready()

    with pytest.raises(ValueError, match=r"was set to 8 samples .* but a batch holds 20"):
        tiny.trainer(BatchSizeScheduler({0: 8})).fit(Streams())


@pytest.mark.bad_input(36)
def test_whatever_else_sets_the_batch_is_refused():
    schedule = {0: 8, 1: 16}
    refused("BatchSizeScheduler and BatchSizeScheduler both set the batch size", BatchSizeScheduler(schedule),
            BatchSizeScheduler(schedule))  # fmt: skip
    refused("and GradientAccumulationScheduler both set accumulate_grad_batches", BatchSizeScheduler(schedule),
            GradientAccumulationScheduler({0: 2}))  # fmt: skip

    class Own(tiny.TinyClassifier):
        batch_size = 8

        def train_dataloader(self):
            return tiny.loader(48, batch_size=self.batch_size)

    with pytest.raises(
        ValueError, match="and BatchSizeFinder both set the batch size; find the largest that fits first"
    ):
        tiny.trainer(BatchSizeScheduler(schedule), BatchSizeFinder()).fit(Own())

    class Manual(tiny.TinyClassifier):
        automatic_optimization = False

    refused("works where Lightning accumulates", BatchSizeScheduler(schedule), module=Manual())


@pytest.mark.promise("schedule")
@pytest.mark.bad_input(39)
def test_a_ghost_that_a_later_batch_cannot_hold_is_refused_at_the_start():
    refused(
        "ghost_batch_size=16 is larger than the batch of 8 samples",
        GhostBatchNormSwap(16),
        BatchSizeScheduler({0: 32, 3: 8}),
    )
    refused("leaves", GhostBatchNormSwap(8, leftover="error"), BatchSizeScheduler({0: 16, 3: 12}))


@pytest.mark.bad_input(29)
def test_it_works_as_part_of_a_run_whose_length_is_not_known():
    trainer, module = fit("fit", LOADERS["DataLoader"], BatchSizeScheduler({0: 8, 1: 16}), max_epochs=-1, max_steps=12)
    assert [len(batches) for batches in module.seen.values()] == [6, 3, 3]
    assert math.isclose(trainer.callback_metrics["batch/size"], 16)
