"""What every monitor of the loss does alike: from one state, as the module and its loader would, without a trace."""

import copy
import math
import subprocess
import sys
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from lightning_gap import (
    CriticalSharpnessMonitor,
    CurvatureMonitor,
    GeneralizationGapMonitor,
    GradientNoiseScaleMonitor,
    LearningRateScaling,
    ResumableLoader,
    SharpnessMonitor,
)

LOSS = ("sharpness/loss", "curvature/loss")


def monitors(**options):
    """One of each, measuring at every epoch's end on the same samples."""
    options = {"samples": 24, "max_time_share": None} | options
    return [
        SharpnessMonitor(1e-3, **{"chunk_size": 8} | options),
        CurvatureMonitor(probes=1, max_products=3, **{"chunk_size": 8} | options),
        GradientNoiseScaleMonitor(probes=1, **{"chunk_size": 8} | options),
        GeneralizationGapMonitor(**{"chunk_size": 8} | options),
    ]


class Bank:
    """A memory of recent losses whose mean is part of the loss."""

    def __init__(self):
        self.rows, self.seen = [[0.0]], defaultdict(int)

    def add(self, loss):
        self.rows[0].append(loss)
        self.seen["steps"] += 1
        return sum(self.rows[0][-3:]) / 3


def with_bank(module, loss):
    return loss * (1 + module.kept.add(float(loss.detach())))


def with_array(module, loss):
    module.kept[1] += 1
    return loss * (1 + 0.1 * float(module.kept[1]))


def with_generator(module, loss):
    return loss * (1 + torch.rand((), generator=module.kept))


def with_numpy_generator(module, loss):
    return loss * (1 + module.kept.random())


def with_scheduler(module, loss):
    module.kept.step()
    return loss


def with_optimizer_of_the_trainer(module, loss):
    module.optimizers().param_groups[0]["lr"] *= 0.9
    return loss


def with_should_stop(module, loss):
    if not module.training:
        module.trainer.should_stop = True
    return loss


def with_callback(module, loss):
    module.trainer.callbacks[0].calls.append(float(loss.detach()))
    return loss


def with_teacher(module, loss):
    with torch.no_grad():
        module.kept.weight.lerp_(module.net[0].weight, 0.1)
    return loss + (module.net[0].weight - module.kept.weight).square().mean()


class Merging(nn.Linear):
    """As LoRA layers do: evaluation merges a branch into the weight, training takes it out."""

    def __init__(self):
        super().__init__(8, 8)
        self.weight.requires_grad_(False)
        self.branch, self.merged = nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))), False

    def train(self, mode=True):
        if self.merged == mode:
            self.weight.data += (-1 if mode else 1) * self.branch.data
            self.merged = not mode
        self.branch.requires_grad_(mode)
        return super().train(mode)

    def forward(self, inputs):
        return super().forward(inputs) + (0 if self.merged else inputs @ self.branch.T)


def with_merging(module, loss):
    return loss + 0.1 * module.kept(torch.ones(8)).square().mean()


def with_optimizer_of_its_own(module, loss):
    layer, optimizer = module.kept
    auxiliary = (layer(torch.ones(2)) - loss.detach()).square().mean()
    optimizer.zero_grad()
    auxiliary.backward()
    optimizer.step()
    return loss


def layer_and_optimizer():
    layer = nn.Linear(2, 1)
    return layer, torch.optim.Adam(layer.parameters(), lr=0.1)


STATES = {
    "a branch merged by eval()": (with_merging, lambda module: Merging()),
    "an optimizer of its own": (with_optimizer_of_its_own, lambda module: layer_and_optimizer()),
    "nested containers": (with_bank, lambda module: Bank()),
    "an array": (with_array, lambda module: np.zeros(3)),
    "a generator": (with_generator, lambda module: torch.Generator().manual_seed(3)),
    "NumPy's generator": (with_numpy_generator, lambda module: np.random.default_rng(3)),
    "a scheduler stepped by hand": (with_scheduler, None),
    "a learning rate set in the step": (with_optimizer_of_the_trainer, lambda module: None),
    "should_stop": (with_should_stop, lambda module: None),
    "a callback of the user's": (with_callback, lambda module: None),
    "a teacher": (with_teacher, lambda module: copy.deepcopy(module.net[0]).requires_grad_(False)),
}


class Keeps(tiny.Validated):
    def __init__(self, kind):
        super().__init__()
        self.step, make = STATES[kind]
        self.kept = make(self) if make else None

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        if self.step is with_scheduler:
            self.kept = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
        return optimizer

    def training_step(self, batch, batch_idx):
        return self.step(self, super().training_step(batch, batch_idx))


class Calls(Callback):
    def __init__(self):
        self.calls = []


def state_of(kept):
    if isinstance(kept, torch.Generator):
        return kept.get_state().tolist()
    if isinstance(kept, np.random.Generator):
        return str(kept.bit_generator.state)
    if isinstance(kept, tuple):
        return kept[0].weight.tolist(), str(kept[1].state_dict())
    if isinstance(kept, nn.Module):
        return kept.weight.tolist()
    if isinstance(kept, torch.optim.lr_scheduler.LRScheduler):
        return kept.last_epoch, kept.get_last_lr()
    return str(kept if isinstance(kept, np.ndarray) else vars(kept) if kept else None)


@pytest.mark.promise("trace")
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
@pytest.mark.parametrize("kind", STATES)
@pytest.mark.bad_input(51)
def test_a_run_with_all_monitors_ends_as_without_them_whatever_a_step_keeps(kind):
    ends = []
    for added in ([], monitors()):
        torch.manual_seed(0)
        module, calls = Keeps(kind), Calls()
        trainer = tiny.trainer(calls, *added, max_epochs=2)
        trainer.fit(module, tiny.loader(shuffle=True), tiny.loader(24, seed=2))
        own = {name: value for name, value in trainer.callback_metrics.items() if "/" not in name}
        ends.append(
            (tiny.state_of(module), own, state_of(module.kept), calls.calls, trainer.global_step, torch.rand(1))
        )
    assert tiny.same(*ends)


def test_a_loss_with_a_memory_is_measured_from_what_the_training_left():
    """Each chunk by hand, from one state: not the state that the chunk before left."""

    class Recurrent(tiny.Validated):
        state = torch.ones(8, 4, dtype=torch.float64)

        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.RNNCell(8, 4).double(), nn.Linear(4, 3).double()

        def training_step(self, batch, batch_idx):
            hidden = self.rnn(batch[0].double(), self.state)
            self.state = hidden.detach()
            return cross_entropy(self.head(hidden), batch[1])

    module = Recurrent()
    data = list(tiny.loader(24, batch_size=8))
    found = {}

    class ByHand(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            left = pl_module.state
            losses = []
            for batch in data:
                pl_module.state = left
                losses.append(float(pl_module.training_step(batch, 0).detach()))
            pl_module.state = left
            found["by hand"] = sum(losses) / 3

    trainer = tiny.trainer(ByHand(), SharpnessMonitor(1e-3, data=data), max_epochs=1)
    trainer.fit(module, tiny.loader(48, batch_size=8), tiny.loader(24, batch_size=8))
    assert float(trainer.callback_metrics["sharpness/loss"]) == pytest.approx(found["by hand"], rel=1e-6)


class CountsLater(tiny.Validated):
    """Its loss grows from batch to batch, but not in the first batch of an epoch."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.seen = 0

    def training_step(self, batch, batch_idx):
        self.seen += batch_idx > 0
        return super().training_step(batch, batch_idx) * (1 + self.seen)


def test_state_that_moves_in_some_batches_only_is_put_back_all_the_same():
    trainer = tiny.trainer(*monitors(samples=48), max_epochs=1)
    trainer.fit(CountsLater(), tiny.loader(), tiny.loader())
    assert abs(float(trainer.callback_metrics["gap/loss"])) < 1e-6, "both sides are the same samples"
    assert all(math.isfinite(float(trainer.callback_metrics[key])) for key in LOSS)


class OwnRandomNumbers(torch.utils.data.Dataset):
    """Augments by a generator of its own, as albumentations does; a transform inside has another."""

    def __init__(self):
        self.data, self.rng = tiny.dataset(48), np.random.default_rng(0)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        x, y = self.data[index]
        return x + float(self.rng.normal()), y


class Mixing:
    def __init__(self):
        self.rng = torch.Generator().manual_seed(0)

    def __call__(self, rows):
        x, y = torch.utils.data.default_collate(rows)
        return x + torch.randn(1, generator=self.rng), y


def test_generators_of_a_data_set_and_of_a_collate_function_go_on_as_without_monitors():
    ends = []
    for added in ([], monitors()):
        module = tiny.Validated(dropout=0.0)
        data = torch.utils.data.Subset(OwnRandomNumbers(), range(48))
        tiny.trainer(*added).fit(module, DataLoader(data, batch_size=16, collate_fn=Mixing()), tiny.loader(24, seed=2))
        ends.append(tiny.state_of(module))
    assert tiny.same(*ends)


class Centred(torch.utils.data.Dataset):
    """Makes whole batches, which a DataLoader prefers to single samples."""

    def __len__(self):
        return 48

    def __getitem__(self, index):
        return tiny.dataset(48)[index]

    def __getitems__(self, indices):
        x, y = (tensor[indices] for tensor in tiny.dataset(48).tensors)
        return list(zip(x - x.mean(), y, strict=True))


def test_a_data_set_that_makes_batches_is_asked_for_batches():
    module = Linear()
    trainer = tiny.trainer(SharpnessMonitor(1e-3, samples=48, chunk_size=48), max_epochs=1)
    trainer.fit(module, DataLoader(Centred(), batch_size=16))
    x, y = tiny.dataset(48).tensors
    expected = float(cross_entropy(module.net(x - x.mean()), y).detach())
    assert float(trainer.callback_metrics["sharpness/loss"]) == pytest.approx(expected, rel=1e-5)


class Endless(DataLoader):
    def __iter__(self):
        while True:
            yield from super().__iter__()


def test_a_loader_without_an_end_is_asked_for_what_it_is_asked_for():
    trainer = tiny.trainer(SharpnessMonitor(1e-3, samples=48, chunk_size=16), max_epochs=1, limit_train_batches=3)
    with pytest.raises(ValueError, match=r"Endless gives 2 batches where it is asked for one.*pass data="):
        trainer.fit(tiny.TinyClassifier(), Endless(tiny.dataset(48), batch_size=16))


def test_reentrant_checkpoints_are_refused_because_they_hide_gradients():
    class Checkpointed(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            inputs = batch[0].clone().requires_grad_()
            hidden = torch.utils.checkpoint.checkpoint(self.net[:3], inputs, use_reentrant=True)
            return cross_entropy(self.net[3:](hidden), batch[1])

    trainer = tiny.trainer(SharpnessMonitor(1e-3))
    with pytest.raises(ValueError, match=r"reentrant gradient checkpointing.*use_reentrant=False"):
        trainer.fit(Checkpointed(), tiny.loader())
    assert trainer.global_step == 0


class Graph(tiny.Validated):
    """A sparse adjacency as buffer, and a `forward` that is no classifier's."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.register_buffer("adjacency", torch.eye(8).to_sparse())

    def forward(self, inputs):
        raise NotImplementedError("call encode")

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.net((self.adjacency @ batch[0].T).T), batch[1])

    def validation_step(self, batch, batch_idx):
        pass


def test_sparse_buffers_and_a_forward_that_raises_are_no_hindrance():
    trainer = tiny.trainer(*monitors(), max_epochs=1)
    trainer.fit(Graph(), tiny.loader(), tiny.loader(24, seed=2))
    assert "gap/loss" in trainer.callback_metrics
    assert "gap/accuracy" not in trainer.callback_metrics


def test_new_tensors_are_of_the_precision_of_the_run():
    class Double(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return cross_entropy(self(batch[0]) @ torch.eye(3), batch[1])

    trainer = tiny.trainer(SharpnessMonitor(1e-3), precision="64-true", max_epochs=1)
    trainer.fit(Double(), tiny.loader())
    assert math.isfinite(float(trainer.callback_metrics["sharpness/loss"]))


class WritesWeights(tiny.Validated):
    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.net[0].weight.clamp_(-0.1, 0.1)
        return super().training_step(batch, batch_idx)


class Streams(tiny.Validated):
    def __init__(self):
        super().__init__()
        self.noise = (0.1 * i for i in range(1000))

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) + next(self.noise)


class StateOfTheBatch(tiny.Validated):
    hidden = None

    def training_step(self, batch, batch_idx):
        shift = 0.0 if self.hidden is None else (batch[0] - self.hidden).mean()
        self.hidden = batch[0].clone()
        return super().training_step(batch, batch_idx) + 0.1 * shift


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (WritesWeights, r"training_step writes to the trained weight net\.0\.weight.*loss_fn="),
        (Streams, r"training_step uses self\.noise, a generator.*loss_fn="),
        (StateOfTheBatch, r"training_step keeps self\.hidden.*choose chunk_size as large as the training batch"),
    ],
)
@pytest.mark.bad_input(51)
def test_what_cannot_be_measured_without_a_trace_is_refused_before_the_first_step(kind, message, index):
    trainer = tiny.trainer(monitors()[index])
    with pytest.raises(ValueError, match=message):
        trainer.fit(kind(), tiny.loader(), tiny.loader(24, seed=2))
    assert trainer.global_step == 0


def test_weights_that_a_step_writes_are_put_back_after_a_gap():
    ends = []
    for added in ([], [GeneralizationGapMonitor(samples=24)]):
        module = WritesWeights()
        tiny.trainer(*added).fit(module, tiny.loader(), tiny.loader(24, seed=2))
        ends.append(tiny.state_of(module))
    assert tiny.same(*ends)


class OwnEvaluation(tiny.Validated):
    """Un-scales its output outside of training, but for what it says of itself; augments in the Trainer's training."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.scale, self.indices, self.added = nn.Identity(), set(), 0

    def on_validation_model_eval(self):
        self.eval()
        self.scale.train()
        self.added += 1

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [batch[0] + 100, batch[1]] if self.trainer.training else batch

    def training_step(self, batch, batch_idx):
        assert batch_idx < self.trainer.num_training_batches
        output = self.net(batch[0]) * (1 if self.scale.training else 1000)
        return cross_entropy(output, batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val", self.training_step(batch, 0))


def test_evaluation_is_what_the_module_and_the_trainer_say_and_the_index_stays_in_the_epoch():
    module = OwnEvaluation()
    trainer = tiny.trainer(*monitors(samples=48, chunk_size=3), max_epochs=1)
    trainer.fit(module, tiny.loader(batch_size=24), tiny.loader(batch_size=48))
    for key in LOSS:
        assert float(trainer.callback_metrics[key]) == pytest.approx(float(trainer.callback_metrics["val"]), rel=1e-5)
    assert float(trainer.callback_metrics["gap/loss"]) == pytest.approx(0, abs=1e-5)
    assert module.added == 2, "the sanity check and the validation; the monitors' own calls leave no trace"
    assert module.training


class Normalising(DataLoader):
    def __iter__(self):
        for x, y in super().__iter__():
            yield (x - 3) / 10, y


class Prefetching:
    """Around a loader, as those that move batches to a device ahead of time are."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for x, y in self.loader:
            yield x * 2, y


class Linear(tiny.TinyClassifier):
    def __init__(self):
        super().__init__(dropout=0.0)
        self.net = nn.Linear(8, 3)


@pytest.mark.parametrize(
    ("make", "change"),
    [
        (lambda data: Normalising(data, batch_size=16, shuffle=True), lambda x: (x - 3) / 10),
        (lambda data: Prefetching(DataLoader(data, batch_size=16, shuffle=True)), lambda x: x * 2),
        (
            lambda data: DataLoader(data, batch_size=None, sampler=BatchSampler(SequentialSampler(data), 16, False)),
            lambda x: x,
        ),
    ],
    ids=["a subclass", "a wrapper", "a sampler of batches"],
)
def test_batches_are_those_that_the_loader_delivers(make, change):
    data, module = tiny.dataset(48), Linear()
    ends = []
    for added in ([], [SharpnessMonitor(1e-3, samples=48, chunk_size=17)]):
        torch.manual_seed(0)
        module = Linear()
        trainer = tiny.trainer(*added, max_epochs=1)
        trainer.fit(module, make(data))
        ends.append(tiny.state_of(module))
    assert tiny.same(*ends), "the loader's order has changed"
    x, y = data.tensors
    expected = float(cross_entropy(module.net(change(x)), y).detach())
    assert float(trainer.callback_metrics["sharpness/loss"]) == pytest.approx(expected, rel=1e-6)


class OneIterator(DataLoader):
    """Keeps one iterator for all epochs."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.only = super().__iter__()

    def __iter__(self):
        return (next(self.only) for _ in range(len(self)))


def test_a_loader_that_cannot_be_copied_is_refused_and_not_read():
    loader = OneIterator(tiny.dataset(48), batch_size=16)
    with pytest.raises(ValueError, match=r"fixed subset through OneIterator.*pass data="):
        tiny.trainer(SharpnessMonitor()).fit(tiny.TinyClassifier(), loader)
    assert torch.equal(next(loader.only)[0], tiny.dataset(48).tensors[0][:16]), "a batch has been taken from the run"


def sentences():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 9, (20,), generator=generator)
    return [torch.randint(0, 12, (int(length),), generator=generator) for length in lengths]


def padded(rows):
    return {"ids": nn.utils.rnn.pad_sequence(rows, padding_value=-1)}  # (time, batch)


def tokens(batch):
    return int((batch["ids"][1:] >= 0).sum())


class Language(tiny.TinyClassifier):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Embedding(13, 6), nn.Linear(6, 12)).double()

    def training_step(self, batch, batch_idx):
        ids = batch["ids"]
        scores = self.net(ids[:-1].clamp(min=0))
        return cross_entropy(scores.flatten(0, 1), ids[1:].flatten(), ignore_index=-1)


def test_a_mean_over_tokens_is_weighed_by_tokens():
    """Chunks of seven, seven and six sentences with other numbers of tokens, against one pass over all of them."""
    module = Language()
    loader = DataLoader(sentences(), batch_size=5, collate_fn=padded)
    by_tokens = SharpnessMonitor(1e-3, samples=20, chunk_size=7, count=tokens)
    by_samples = SharpnessMonitor(1e-3, samples=20, chunk_size=7, suffix="_by_samples")
    trainer = tiny.trainer(by_tokens, by_samples, max_epochs=1)
    trainer.fit(module, loader)
    whole = float(module.training_step(padded(sentences()), 0).detach())
    assert by_tokens.state_dict()["history"][-1]["loss"] == pytest.approx(whole, rel=1e-10)
    assert by_samples.state_dict()["history"][-1]["loss"] != pytest.approx(whole, rel=1e-4)


def test_the_noise_of_batches_that_are_not_samples_first_is_that_of_a_loop_by_hand():
    rows = [torch.randn(5, 4, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(24)]

    class TimeFirst(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 1).double()

        def training_step(self, batch, batch_idx):
            return self.net(batch.mean(0)).square().mean()

    module = TimeFirst()
    monitor = GradientNoiseScaleMonitor(samples=24, chunk_size=5, probes=0)
    seen = {}

    class ByHand(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            noise = monitor.measure(trainer, pl_module)
            batches, sizes = monitor._batches["data"]
            chunks = list(zip(sizes, batches, strict=True))
            gradients = []
            for size, batch in chunks:
                loss = pl_module.training_step(batch, 0)
                parts = torch.autograd.grad(loss, list(pl_module.parameters()))
                gradients.append((size, torch.cat([part.flatten() for part in parts])))
            total = sum(size for size, _ in gradients)
            mean = sum(size * gradient for size, gradient in gradients) / total
            spread = sum(size * (gradient - mean).square().sum() for size, gradient in gradients)
            seen["variance"] = float(spread) / (len(gradients) - 1)
            seen["measured"] = noise.variance

    loader = DataLoader(rows, batch_size=6, collate_fn=lambda batch: torch.stack(batch, 1))
    tiny.trainer(monitor, ByHand(), max_epochs=1).fit(module, loader)
    assert seen["measured"] == pytest.approx(seen["variance"], rel=1e-10)


class NeedsMemory(tiny.Validated):
    most = 8

    def training_step(self, batch, batch_idx):
        if self.global_step and not self.training and len(batch[0]) > self.most:
            raise torch.OutOfMemoryError("out of memory: the device is full")
        return super().training_step(batch, batch_idx)


@pytest.mark.promise("memory")
@pytest.mark.parametrize("most", [4, 0])
def test_memory_that_runs_out_halves_the_chunks_three_times_and_never_ends_a_run(most):
    """From 32 by halves down to four samples, or to no value; the gap is measured alike."""
    ends = []
    for added in ([], monitors(samples=32, chunk_size=32)[:2] + monitors(samples=32, chunk_size=16)[2:]):
        module = NeedsMemory()
        module.most = most
        trainer = tiny.trainer(*added, max_epochs=2)
        if added and not most:
            with pytest.warns(UserWarning, match="logged as NaN: memory ran out.*chunk_size="):
                trainer.fit(module, tiny.loader(), tiny.loader(32, seed=2))
        else:
            trainer.fit(module, tiny.loader(), tiny.loader(32, seed=2))
        ends.append(tiny.state_of(module))
    assert tiny.same(*ends)
    values = [float(trainer.callback_metrics[key]) for key in (*LOSS, "noise/variance", "gap/loss")]
    assert all(math.isfinite(value) == bool(most) for value in values)


LIMITED = """
import resource, sys, warnings
sys.path.insert(0, {tests!r})
import tiny
import torch
from lightning.pytorch import Callback
from lightning_gap import SharpnessMonitor

class Limited(Callback):
    def on_train_epoch_end(self, *rest):
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))

class Wide(tiny.TinyClassifier):
    def training_step(self, batch, batch_idx):
        if not self.training:
            torch.ones(2**29).sum()  # two GiB
        return super().training_step(batch, batch_idx)

ends = []
for added in ([], [Limited(), SharpnessMonitor(samples=16, chunk_size=16)]):
    module = Wide()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        tiny.trainer(*added, max_epochs=1).fit(module, tiny.loader())
    ends.append(tiny.state_of(module))
assert tiny.same(*ends)
assert any("logged as NaN: memory ran out" in str(warning.message) for warning in told)
print("as without")
"""


@pytest.mark.promise("memory")
@pytest.mark.skipif(sys.platform != "linux", reason="the limit on a process's memory is Linux's")
@pytest.mark.slow
def test_memory_that_really_runs_out_does_not_end_the_run(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(LIMITED.format(tests=str(Path(__file__).parents[1])))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout.endswith("as without\n"), done.stderr


class NothingForSome(tiny.Validated):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if self.global_step and not self.training and batch_idx == 1 else loss


@pytest.mark.promise("nan measured")
def test_a_chunk_without_a_loss_is_nan_with_the_reason_and_the_run_goes_on():
    trainer = tiny.trainer(*monitors())
    with pytest.warns(UserWarning, match="is logged as NaN: training_step gave no loss but None"):
        trainer.fit(NothingForSome(), tiny.loader(), tiny.loader(24, seed=2))
    assert trainer.global_step == 6
    assert all(math.isnan(float(trainer.callback_metrics[key])) for key in (*LOSS, "gap/loss"))


@pytest.mark.promise("nan measured")
def test_a_run_that_begins_with_nan_is_logged_as_nan_and_not_taken_for_random():
    class Diverged(tiny.Validated):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * math.nan

    trainer = tiny.trainer(*monitors(), max_epochs=1)
    with pytest.warns(UserWarning, match="logged as NaN"):
        trainer.fit(Diverged(), tiny.loader(), tiny.loader(24, seed=2))
    assert all(math.isnan(float(trainer.callback_metrics[key])) for key in (*LOSS, "gap/loss"))


class Ensemble(tiny.Validated):
    """Returns the scores of three members in evaluation, as torch-uncertainty's MC dropout does."""

    members = 3

    def forward(self, x):
        return super().forward(x if self.training else x.repeat(self.members, 1))

    def validation_step(self, batch, batch_idx):
        pass


class LateEnsemble(Ensemble):
    """Of one member until the first epoch is over."""

    @property
    def members(self):
        return 1 + (self.trainer.global_step > 2)


@pytest.mark.parametrize("index", range(5))
def test_a_step_that_fits_training_alone_is_refused_before_the_first_step(index):
    monitor = [*monitors(), CriticalSharpnessMonitor()][index]
    trainer = tiny.trainer(monitor)
    with pytest.raises(ValueError, match=r"measured in evaluation mode: ValueError: .*batch_size.*pass .*loss_fn"):
        trainer.fit(Ensemble(), tiny.loader(), tiny.loader(24, seed=2))
    assert trainer.global_step == 0
    monitor.loss_fn = lambda module, batch: cross_entropy(module.net(batch[0]), batch[1])
    tiny.trainer(monitor, max_epochs=1).fit(Ensemble(), tiny.loader(), tiny.loader(24, seed=2))
    assert monitor.history


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
def test_what_a_step_raises_in_a_measurement_says_which_monitor_measured():
    with pytest.raises(ValueError, match="batch_size") as caught:
        tiny.trainer(SharpnessMonitor(samples=24)).fit(LateEnsemble(), tiny.loader(), tiny.loader(24, seed=2))
    assert any("SharpnessMonitor" in note for note in caught.value.__notes__)


class Averaging(tiny.Validated):
    """Evaluates averaged weights as soon as it has them, as torch-uncertainty's SWA does."""

    def __init__(self):
        super().__init__()
        self.averaged = None

    def forward(self, x):
        return super().forward(x) if self.training or self.averaged is None else self.averaged(x)

    def on_validation_start(self):
        if not self.trainer.sanity_checking:
            self.averaged = copy.deepcopy(self.net)


def test_a_module_that_comes_to_evaluate_other_weights_is_nan_with_the_reason_and_the_run_goes_on():
    ends = []
    for added in ([], monitors()[:3]):
        module = Averaging()
        trainer = tiny.trainer(*added)
        with pytest.warns(UserWarning, match="NaN: the loss does not depend on params") if added else nullcontext():
            trainer.fit(module, tiny.loader(), tiny.loader(24, seed=2))
        ends.append(tiny.state_of(module))
    assert tiny.same(*ends)
    assert all(math.isnan(float(trainer.callback_metrics[key])) for key in (*LOSS, "noise/variance"))


def test_only_weights_that_an_optimizer_holds_are_measured():
    class Head(tiny.Validated):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net[4].parameters(), lr=0.1)

    logged = []
    for frozen in (True, False):
        module = Head(dropout=0.0)
        module.net[:4].requires_grad_(not frozen)
        trainer = tiny.trainer(*monitors())
        trainer.fit(module, tiny.loader(), tiny.loader(24, seed=2))
        logged.append({key: str(value) for key, value in trainer.callback_metrics.items() if "/" in key})
    assert logged[0] == logged[1]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("step", [3, 9])
def test_a_measurement_that_was_due_when_the_run_was_killed_is_made_after_resuming(tmp_path, step):
    def run(ckpt_path=None):
        saves = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        added = monitors(every_n_epochs=1)
        mends = LearningRateScaling(rule="none", warmup_epochs=0)
        trainer = tiny.trainer(*added, mends, saves, max_epochs=3, enable_checkpointing=True)
        loader = ResumableLoader(tiny.dataset(), batch_size=16, shuffle=True)
        trainer.fit(tiny.Validated(), loader, tiny.loader(24, seed=2), ckpt_path=ckpt_path)
        measured = [int(point["step"]) for point in added[0].state_dict()["history"]]
        kinds = ("sharpness/", "curvature/", "noise/", "gap/")
        return measured, {key: str(value) for key, value in trainer.callback_metrics.items() if key.startswith(kinds)}

    whole = run()
    assert whole[0] == [3, 6, 9]
    resumed = run(tmp_path / f"step={step}.ckpt")
    assert resumed[0] == whole[0]
    assert {k: (v, resumed[1].get(k)) for k, v in whole[1].items() if resumed[1].get(k) != v} == {}


class Autoencoder(tiny.Validated):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 8)

    def training_step(self, batch, batch_idx):
        return mse_loss(self(batch[0]), batch[0])


class Smoothed(tiny.Validated):
    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0]), batch[1], label_smoothing=0.1)


class LogProbabilities(tiny.Validated):
    def forward(self, inputs):
        return self.net(inputs).log_softmax(1)

    def training_step(self, batch, batch_idx):
        return nn.functional.nll_loss(self(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("kind", "known"), [(tiny.Validated, True), (LogProbabilities, True), (Autoencoder, False), (Smoothed, False)]
)
def test_accuracy_is_logged_where_the_loss_proves_what_the_scores_are(kind, known):
    trainer = tiny.trainer(GeneralizationGapMonitor(samples=24), max_epochs=1)
    trainer.fit(kind(), tiny.loader(), tiny.loader(24, seed=2))
    assert ("gap/accuracy" in trainer.callback_metrics) == known
    assert "gap/loss" in trainer.callback_metrics


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"loss_fn": lambda module, batch: 0.5},
            "loss_fn must return the mean loss of a batch as a scalar tensor, got 0.5",
        ),
        ({"accuracy_fn": lambda module, batch: "good"}, "accuracy_fn must return the mean accuracy"),
        ({"accuracy_fn": lambda module, batch: batch["x"]}, "cannot be measured in evaluation mode: TypeError"),
        ({"count": lambda batch: 0.5}, "count must give a whole number of at least 1"),
    ],
)
def test_functions_that_give_something_else_end_the_run_before_the_first_step(options, message):
    trainer = tiny.trainer(GeneralizationGapMonitor(samples=24, **options))
    with pytest.raises(ValueError, match=message):
        trainer.fit(tiny.Validated(), tiny.loader(), tiny.loader(24, seed=2))
    assert trainer.global_step == 0
