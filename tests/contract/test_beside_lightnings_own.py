"""Our schedules beside the callbacks and tools that Lightning brings."""

import pytest
import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from lightning.pytorch.tuner import Tuner
from torch.utils.data import DataLoader, WeightedRandomSampler

from lightning_gap import (
    AdaptiveBatchSize,
    BatchSizeScheduler,
    ExactAccumulation,
    InMemoryLoader,
    LearningRateScaling,
    OptimizerScaling,
    PiggybackWarmStart,
)


class OwnData(tiny.TinyClassifier):
    """Reads its batch size from an attribute, and watches its rates and sizes."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.batch_size, self.lr, self.seen = 4, 0.05, []

    def train_dataloader(self):
        return tiny.loader(96, batch_size=self.batch_size)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def training_step(self, batch, batch_idx):
        self.seen.append(len(batch[1]))
        return super().training_step(batch, batch_idx)


class Scales(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, *rest):
        self.seen.append(float(trainer.callback_metrics.get("lr/scale", 0)))


def test_the_rate_follows_the_size_that_the_batch_size_finder_found():
    module, scales = OwnData(), Scales()
    finder = BatchSizeFinder("power", steps_per_trial=1, init_val=4, max_trials=2)
    tiny.trainer(finder, LearningRateScaling(4, warmup_epochs=0), scales, max_epochs=1).fit(module)
    assert module.batch_size > 4
    assert set(scales.seen[-96 // module.batch_size :]) == {module.batch_size / 4}


def test_the_learning_rate_finder_looks_at_scaled_rates_and_the_run_scales_what_it_suggests(tmp_path):
    module, scales = OwnData(), Scales()
    finder = LearningRateFinder(num_training_steps=60, min_lr=1e-5, max_lr=1.0)
    tiny.trainer(finder, LearningRateScaling(2, warmup_epochs=0), scales, default_root_dir=tmp_path).fit(module)
    assert module.lr != 0.05
    assert scales.seen[-1] == 2.0


@pytest.mark.parametrize(
    "make",
    [
        lambda: LearningRateScaling(2, warmup_epochs=0),
        lambda: OptimizerScaling(2, "sqrt"),
        lambda: BatchSizeScheduler({0: 8, 1: 16}),
        lambda: AdaptiveBatchSize(8, 16, micro_batches=2),
        lambda: PiggybackWarmStart(1, 16, optimizer_state="keep"),
        ExactAccumulation,
    ],
)
def test_a_tuner_leaves_no_trace_of_them_and_a_fit_after_it_is_as_without(tmp_path, make):
    def run(tune):
        torch.manual_seed(0)
        module, callback = OwnData(), make()
        trainer = tiny.trainer(callback, default_root_dir=tmp_path, max_epochs=3)
        if tune:
            Tuner(trainer).lr_find(module, num_training=4, update_attr=False)
            assert (module.batch_size, trainer.accumulate_grad_batches) == (4, 1)
            module.seen = []
            trainer = tiny.trainer(callback, max_epochs=3)
        trainer.fit(module)
        return module.seen, tiny.state_of(module)

    (sizes, plain), (tuned_sizes, tuned) = run(False), run(True)
    assert sizes == tuned_sizes
    assert all(torch.equal(plain[name], tuned[name]) for name in plain)


@pytest.mark.bad_input(36)
def test_accumulation_that_lightning_schedules_is_exact_and_the_rate_follows_it():
    """30 batches of 4: windows of 1, then of 4 (the last has 2), then of 8 (the last has 6)."""
    module, scales = OwnData(), Scales()
    schedule = GradientAccumulationScheduler({1: 4, 2: 8})
    trainer = tiny.trainer(schedule, ExactAccumulation(), LearningRateScaling(4, warmup_epochs=0), scales, max_epochs=3)
    trainer.fit(module, tiny.loader(120, batch_size=4))
    assert trainer.global_step == 30 + 8 + 4
    assert set(scales.seen[:30]) <= {0.0, 1.0}
    assert (scales.seen[59], scales.seen[-1]) == (4.0, 8.0)


def test_a_run_that_stops_early_gives_everything_back():
    class Stops(EarlyStopping):
        def on_train_epoch_end(self, trainer, pl_module):
            trainer.should_stop = trainer.current_epoch == 1

    module = OwnData()
    trainer = tiny.trainer(BatchSizeScheduler({0: 8, 1: 16, 2: 32}), Stops("loss"), max_epochs=9)
    trainer.fit(module)
    assert (module.batch_size, trainer.reload_dataloaders_every_n_epochs, trainer.current_epoch) == (4, 0, 2)


def test_weight_averaging_and_a_schedule_end_with_lightnings_average():
    module = OwnData()
    trainer = tiny.trainer(
        StochasticWeightAveraging(0.01, swa_epoch_start=1, annealing_epochs=1),
        BatchSizeScheduler({0: 8, 2: 16}),
        LearningRateScaling(8, warmup_epochs=0),
        max_epochs=4,
    )
    trainer.fit(module)
    assert module.seen[:36] == [8] * 24 + [16] * 12


@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.bad_input(35)
def test_a_run_that_overfits_a_few_batches_follows_the_size():
    module = OwnData()
    tiny.trainer(BatchSizeScheduler({0: 8, 1: 16}), overfit_batches=2, max_epochs=2).fit(module)
    assert module.seen == [8, 8, 16, 16]


def test_several_resumable_loaders_or_a_sampler_with_replacement_have_their_rate_scaled():
    scales = Scales()
    sampler = WeightedRandomSampler(torch.ones(96), 48)
    loader = DataLoader(tiny.dataset(96), batch_size=8, sampler=sampler)
    tiny.trainer(LearningRateScaling(4, warmup_epochs=0), scales, max_epochs=1).fit(tiny.TinyClassifier(), loader)
    assert scales.seen == [2.0] * 6


@pytest.mark.bad_input(24)
def test_a_rate_of_zero_stays_zero_and_the_last_small_batch_is_a_batch():
    class Still(OwnData):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    module = Still()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    loader = InMemoryLoader(tiny.dataset(50).tensors, batch_size=16)
    tiny.trainer(LearningRateScaling(4, warmup_epochs=1), max_epochs=2).fit(module, loader)
    assert all(torch.equal(before[name], p) for name, p in module.named_parameters())
    assert module.seen == [16, 16, 16, 2] * 2
