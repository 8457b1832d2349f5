import math
from itertools import pairwise

import pytest
import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch.utils.data import BatchSampler, DataLoader, TensorDataset

from lightning_gap import AdaptiveBatchSize, GhostBatchNormSwap, InMemoryLoader, LearningRateScaling

SAMPLES = 240


class Small(tiny.TinyClassifier):
    """Without BatchNorm, whose statistics tie the samples of a micro-batch together. Keeps every small gradient."""

    def __init__(self, *, momentum=0.9):
        super().__init__(dropout=0.0)
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
        self.momentum, self.small, self.sizes, self.losses = momentum, [], [], []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        gradients = torch.autograd.grad(loss, list(self.parameters()), retain_graph=True)
        self.small.append(torch.cat([gradient.flatten() for gradient in gradients]))
        self.sizes.append(len(batch[1]))
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=self.momentum)


class Trace(Callback):
    """What each optimizer step was made of, and what was logged after it."""

    def __init__(self):
        self.steps = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.fit_loop._should_accumulate():
            return
        values = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("batch/")}
        small, losses, sizes = pl_module.small, pl_module.losses, pl_module.sizes
        pl_module.small, pl_module.losses, pl_module.sizes = [], [], []
        self.steps.append(values | {"epoch": trainer.current_epoch, "next": batch_idx + 1, "small": small,
                                    "losses": losses, "sizes": sizes})  # fmt: skip


def fit(callback, *, epochs=4, module=None, others=(), ckpt_path=None, precision="64-true", **options):
    torch.manual_seed(0)
    trace, module = Trace(), module or Small()
    if precision == "64-true":
        module.double()
    trainer = tiny.trainer(callback, *others, trace, max_epochs=epochs, precision=precision, **options)
    inputs, targets = tiny.dataset(SAMPLES).tensors
    dtype = torch.float64 if precision == "64-true" else torch.float32
    loader = InMemoryLoader((inputs.to(dtype), targets), batch_size=4, shuffle=True, reseed=True)
    trainer.fit(module, loader, ckpt_path=ckpt_path)
    return trainer, trace.steps


def by_hand(step, test, *, theta=0.9, nu=5.84):
    """The papers' formulas on the micro-batches that the module itself saw."""
    small, b = torch.stack(step["small"]), step["sizes"][0]
    mean, m = small.mean(0), len(small)
    variance = b * ((small - mean) ** 2).sum() / (m - 1)
    length = mean @ mean
    if test == "norm":
        return float(variance / (theta**2 * length))
    if test == "cabs":
        return float(0.1 * variance / (sum(step["losses"]) / m))
    if test == "noise_scale":
        return float(variance / (length - variance / (m * b)))
    along = b * ((small @ mean - length) ** 2).sum() / (m - 1) / (theta**2 * length**2)
    if test == "inner_product":
        return float(along)
    rest = small - torch.outer(small @ mean / length, mean)
    return max(float(along), float(b * (rest**2).sum() / (m - 1) / (nu**2 * length)))


@pytest.mark.parametrize("test", ["norm", "inner_product", "augmented", "cabs", "noise_scale"])
def test_what_it_asks_for_is_the_papers_formula_on_the_micro_batches_of_the_step(test):
    callback = AdaptiveBatchSize(16, 64, test=test, nu=0.5, smoothing=0.0, measure_every_n_steps=1)
    _, steps = fit(callback, module=Small(momentum=0.0))
    compared = 0
    for step, following in pairwise(steps):
        expected = by_hand(step, test, nu=0.5)
        if step["epoch"] == following["epoch"] and expected > 0:  # the last of an epoch is not measured
            assert step["batch/wanted"] == pytest.approx(expected, rel=1e-5)  # logged in float32
            compared += 1
    assert compared > 25


def sizes_of(steps):
    return [[int(step["batch/size"]) for step in steps if step["epoch"] == epoch] for epoch in range(4)]


def test_it_grows_between_epochs_as_the_averages_say_and_no_more_than_allowed():
    callback = AdaptiveBatchSize(16, 128, test="norm", theta=0.3, measure_every_n_steps=2, max_growth=1.5)
    _, steps = fit(callback)
    by_epoch = sizes_of(steps)
    assert all(len(set(sizes)) == 1 for sizes in by_epoch)
    assert [sizes[0] for sizes in by_epoch] == [16, 24, 36, 52]  # as fast as it may, in multiples of four
    for epoch in range(4):
        sizes = [size for step in steps if step["epoch"] == epoch for size in step["sizes"]]
        assert sum(sizes) == SAMPLES
    assert {step["batch/accumulate"] for step in steps} == {4.0}
    assert steps[-1]["batch/test"] == pytest.approx(steps[-1]["batch/wanted"] / steps[-1]["batch/size"], rel=1e-6)


@pytest.mark.bad_input(30)
def test_it_stops_at_the_limits_and_shrinks_only_if_allowed():
    _, steps = fit(AdaptiveBatchSize(16, 32, theta=0.1, measure_every_n_steps=1))
    assert [sizes[0] for sizes in sizes_of(steps)] == [16, 32, 32, 32]
    _, steps = fit(AdaptiveBatchSize(64, 128, theta=30.0, measure_every_n_steps=1))
    assert {size for sizes in sizes_of(steps) for size in sizes} == {64}

    class Eases(AdaptiveBatchSize):
        """Asks for much in the first epoch and for little later."""

        def on_train_epoch_start(self, trainer, pl_module):
            super().on_train_epoch_start(trainer, pl_module)
            self._test.theta = 0.1 if trainer.current_epoch == 0 else 30.0

    for monotone, expected in ((True, [16, 32, 32, 32]), (False, [16, 32, 16, 16])):
        _, steps = fit(Eases(16, 128, monotone=monotone, measure_every_n_steps=1))
        assert [sizes[0] for sizes in sizes_of(steps)] == expected


def test_inside_an_epoch_only_the_number_of_micro_batches_changes_and_only_between_steps():
    callback = AdaptiveBatchSize(16, 64, theta=0.2, measure_every_n_steps=1, decide_every_n_steps=3)
    _, steps = fit(callback, epochs=1)
    sizes = sizes_of(steps)[0]
    assert sizes[0] == 16 < sizes[-1] == 64
    assert {size for step in steps for size in step["sizes"]} == {4}
    done = 0
    for step, following in pairwise(steps):
        done += len(step["sizes"])
        assert done == step["next"]
        if following["batch/accumulate"] != step["batch/accumulate"]:
            lengths = int(step["batch/accumulate"]), int(following["batch/accumulate"])
            assert step["next"] % math.lcm(*lengths) == 0
    assert sum(len(step["sizes"]) for step in steps) == SAMPLES // 4


def test_micro_batches_keep_to_the_limit():
    _, steps = fit(AdaptiveBatchSize(16, 96, theta=0.1, measure_every_n_steps=1, max_micro_batch=6, micro_batches=2))
    assert [sizes[0] for sizes in sizes_of(steps)] == [16, 30, 60, 96]
    assert max(size for step in steps for size in step["sizes"]) == 6


def test_the_rate_follows():
    class Rates(Callback):
        seen = ()

        def on_train_batch_end(self, trainer, *rest):
            if "lr/scale" in trainer.callback_metrics:  # from the first step on
                self.seen = (*self.seen, float(trainer.callback_metrics["lr/scale"]))

    rates = Rates()
    scaling = LearningRateScaling(16, warmup_epochs=0)
    _, steps = fit(AdaptiveBatchSize(16, 64, theta=0.1, measure_every_n_steps=1), others=(scaling, rates))
    assert set(rates.seen) == {step["batch/size"] / 16 for step in steps} == {1.0, 2.0, 4.0}


class Noisy(Small):
    """With BatchNorm and dropout."""

    def __init__(self):
        super().__init__()
        net = [torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16), torch.nn.Dropout(0.2), torch.nn.Linear(16, 3)]
        self.net = torch.nn.Sequential(*net)

    def training_step(self, batch, batch_idx):
        self.sizes.append(len(batch[1]))
        return tiny.TinyClassifier.training_step(self, batch, batch_idx)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("every", [pytest.param(None, marks=pytest.mark.slow), 4])
def test_a_run_resumed_at_any_step_decides_alike(tmp_path, every):
    def run(ckpt_path=None, *others, **options):
        callback = AdaptiveBatchSize(
            16, 120, theta=0.3, measure_every_n_steps=3, decide_every_n_steps=every, micro_batches=2, max_growth=1.5
        )
        ghosts = GhostBatchNormSwap(4, leftover="merge")
        others = (LearningRateScaling(16, warmup_epochs=2), ghosts, *others)
        return fit(callback, module=Noisy(), others=others, ckpt_path=ckpt_path, **options)

    saves = ModelCheckpoint(
        tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1, save_on_train_epoch_end=False
    )
    whole, steps = run(None, saves, enable_checkpointing=True)
    assert len({step["batch/size"] for step in steps}) > 2
    borders = [i for i, step in enumerate(steps, start=1) if step["next"] * step["sizes"][0] >= SAMPLES]
    for stop in sorted({*range(3, len(steps), 23), *borders[:-1]}):
        resumed, rest = run(tmp_path / f"step={stop}.ckpt")
        for one, other in zip(steps[stop:], rest, strict=True):
            assert {k: v for k, v in one.items() if k != "small"} == {k: v for k, v in other.items() if k != "small"}, (
                stop
            )
        ends = [tiny.state_of(trainer.lightning_module) for trainer in (whole, resumed)]
        assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0]), stop


def test_a_gradient_scaler_changes_nothing_and_an_overflow_is_left_out():
    class Overflows(Small):
        def training_step(self, batch, batch_idx):
            loss = tiny.TinyClassifier.training_step(self, batch, batch_idx)
            self.sizes.append(len(batch[1]))
            return loss * math.inf if self.global_step == 3 else loss

    terms = {"test": "cabs", "measure_every_n_steps": 1, "smoothing": 0.0, "micro_batches": 2}
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**10))
    _, scaled = fit(
        AdaptiveBatchSize(16, 16, **terms), epochs=1, module=Overflows(momentum=0.0), plugins=plugin, precision=None
    )
    _, plain = fit(AdaptiveBatchSize(16, 16, **terms), epochs=1, module=Small(momentum=0.0), precision=None)
    assert [step["batch/wanted"] for step in scaled[:3]] == pytest.approx(
        [step["batch/wanted"] for step in plain[:3]], rel=0.05
    )
    assert scaled[3]["batch/wanted"] == scaled[2]["batch/wanted"]
    assert scaled[4]["batch/wanted"] != scaled[3]["batch/wanted"]


def test_a_step_that_leaves_weights_out_counts_zeros_for_them():
    class Branches(Small):
        def __init__(self):
            super().__init__(momentum=0.0)
            self.other = torch.nn.Linear(8, 3)

        def training_step(self, batch, batch_idx):
            self.sizes.append(len(batch[1]))
            scores = self.other(batch[0]) if batch_idx % 4 == 3 else self.net(batch[0])
            return torch.nn.functional.cross_entropy(scores, batch[1])

    _, steps = fit(AdaptiveBatchSize(16, 64, theta=0.3, measure_every_n_steps=1), module=Branches(), epochs=2)
    assert steps[-1]["batch/wanted"] > 0


def test_micro_batches_of_other_sizes_are_not_measured():
    class Cut(Small):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            self.count = getattr(self, "count", -1) + 1
            return [part[:2] for part in batch] if self.count % 4 == 1 else batch

    adaptive = AdaptiveBatchSize(16, 64, theta=0.3, measure_every_n_steps=1)
    with pytest.warns(UserWarning, match="the first axis of its tensors is 2; the loader's number is taken"):
        _, steps = fit(adaptive, module=Cut(), epochs=2)
    assert "batch/wanted" not in steps[-1]
    assert steps[-1]["batch/size"] == 16


class OfAUser(BatchSampler):
    """States nothing: its batches may be any."""


@pytest.mark.parametrize(
    "make",
    [
        lambda samples: InMemoryLoader(samples, batch_size=4, shuffle=True),
        lambda samples: DataLoader(TensorDataset(*samples), batch_sampler=OfAUser(range(129), 4, drop_last=False)),
    ],
    ids=["InMemoryLoader", "a batch sampler of the user's"],
)
def test_a_size_that_leaves_one_sample_is_passed_over_and_growth_goes_on(make):
    callback = AdaptiveBatchSize(16, 128, theta=0.1, measure_every_n_steps=1)
    torch.manual_seed(0)
    trace, module = Trace(), Small().double()
    inputs, targets = tiny.dataset(129).tensors
    trainer = tiny.trainer(callback, trace, max_epochs=4, precision="64-true")
    trainer.fit(module, make((inputs.double(), targets)))
    sizes = [sizes[0] for sizes in sizes_of(trace.steps)]
    assert sizes[0] == 16 < sizes[1] < sizes[2]
    assert all(129 % (size // 4) != 1 for size in sizes[1:])


def test_it_does_not_grow_without_need_and_a_second_fit_goes_on():
    callback = AdaptiveBatchSize(96, SAMPLES, theta=30.0, max_micro_batch=20, measure_every_n_steps=1)
    _, steps = fit(callback)
    assert {size for sizes in sizes_of(steps) for size in sizes} == {96}
    callback = AdaptiveBatchSize(16, 120, theta=0.1, measure_every_n_steps=1)
    trainer, steps = fit(callback, epochs=2)
    trainer.fit_loop.max_epochs = 4
    inputs, targets = tiny.dataset(SAMPLES).tensors
    trainer.fit(trainer.lightning_module, InMemoryLoader((inputs.double(), targets), batch_size=4))
    assert [sizes[0] for sizes in sizes_of(trainer.callbacks[1].steps)] == [16, 32, 64, 120]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_run_keeps_to_a_smaller_limit(tmp_path):
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fit(AdaptiveBatchSize(16, 120, theta=0.1, measure_every_n_steps=1), others=(saves,), enable_checkpointing=True)
    lower = AdaptiveBatchSize(16, 40, theta=0.1, measure_every_n_steps=1)
    _, steps = fit(lower, ckpt_path=tmp_path / "epoch=2.ckpt")
    assert {step["batch/size"] for step in steps} == {40}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0"),
        ({"max_batch_size": 8}, "max_batch_size=8 is below batch_size=16, which is to grow"),
        ({"test": "var"}, "test must be one of 'norm', 'inner_product'"),
        ({"theta": -1}, "theta must be a positive number, got -1"),
        ({"smoothing": 1}, "smoothing must be a number, at least 0 and below 1, got 1"),
        ({"theta": "a"}, "theta must be a positive number, got 'a'"),
        ({"micro_batches": 1}, "micro_batches must be a whole number, at least 2, got 1; gradients are compared"),
        ({"max_growth": 1.0}, "max_growth must be a number, above 1, got 1.0; a factor"),
        ({"measure_every_n_steps": 0}, "measure_every_n_steps must be a whole number"),
        ({"decide_every_n_steps": 0}, "decide_every_n_steps must be a whole number"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveBatchSize(**({"batch_size": 16, "max_batch_size": 64} | arguments))


def test_what_cannot_work_is_refused_before_the_first_step():
    def refused(message, callback, module=None):
        with pytest.raises(ValueError, match=message):
            fit(callback, module=module)

    refused("a batch of 18 cannot be shared equally by 1 processes in 4 micro-batches", AdaptiveBatchSize(18, 64))
    refused("max_batch_size=1000 is larger than the 240 samples", AdaptiveBatchSize(16, 1000))
    refused("test='cabs' is defined for SGD without momentum", AdaptiveBatchSize(16, 64, test="cabs"))
