"""Schedules by steps, samples and tokens: sizes as planned inside epochs, and what follows them."""

import math

import pytest
import tiny
import torch
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_gap import (
    BatchSizeScheduler,
    GhostBatchNormSwap,
    InMemoryLoader,
    LearningRateScaling,
    ResumableLoader,
    ResumableStream,
    ResumeExactly,
)
from lightning_gap.functional import EpochBatch, GeometricGrowth, LateSwitch, Seesaw, SmithGrowth

SAMPLES, LENGTH = 61, 5
IDS = torch.arange(SAMPLES)[:, None].expand(SAMPLES, LENGTH).contiguous()  # (samples, length), each its own number


class Stream(IterableDataset):
    """The same samples, of which Lightning cannot know how many there are."""

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, step = (0, 1) if info is None else (info.id, info.num_workers)
        return (IDS[i] for i in range(first, SAMPLES, step))


def make_loader(kind, batch_size=4, num_workers=0):
    if kind == "resumable":
        return ResumableLoader(IDS, batch_size=batch_size, shuffle=True, num_workers=num_workers)
    if kind == "memory":
        return InMemoryLoader((IDS,), batch_size=batch_size, shuffle=True, reseed=True)
    if kind == "our stream":
        return ResumableStream(IDS, batch_size=batch_size, num_workers=num_workers)
    dataset = Stream() if kind == "stream" else TensorDataset(IDS)
    return DataLoader(dataset, batch_size=batch_size, shuffle=kind == "map", num_workers=num_workers)


def features(ids):
    return torch.stack([torch.sin(ids * (i + 1.0)) for i in range(8)], dim=1).double()


class Tokens(tiny.TinyClassifier):
    """A model of eight numbers made of a batch of token ids, that writes down which samples each step had."""

    def __init__(self, **options):
        super().__init__(**options)
        self.net[1] = torch.nn.Identity()
        self.double()
        self.steps, self.lengths, self.validated, self.rates = [], {}, [], []
        self.waiting, self.taken = [], 0

    def on_train_start(self):
        self.taken = self.trainer.global_step

    def training_step(self, batch, batch_idx):
        ids = batch[0] if isinstance(batch, list | tuple) else batch
        self.waiting.append(ids[:, 0].tolist())
        self.lengths[self.current_epoch] = self.trainer.num_training_batches
        return super().training_step((features(ids[:, 0]), ids[:, 0] % 3), batch_idx)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.trainer.global_step > self.taken:
            self.taken = self.trainer.global_step
            self.steps.append((self.current_epoch, self.waiting))
            self.waiting = []

    def on_train_epoch_end(self):
        self.rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])

    @property
    def sizes(self):
        return [sum(map(len, batches)) for _, batches in self.steps]


class Validated(Tokens):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", batch[0].mean())

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            self.validated.append((self.current_epoch, self.trainer.global_step))


def expected_sizes(schedule, unit, epochs, samples=SAMPLES):
    """A loop that counts, as Megatron's does."""
    sizes, consumed = [], 0
    for _ in range(epochs):
        left = samples
        while left:
            size = min(left, max((begin, size) for begin, size in schedule.items() if begin <= consumed)[1])
            sizes.append(size)
            left -= size
            consumed += {"steps": 1, "samples": size, "tokens": size * LENGTH}[unit]
    return sizes


SCHEDULES = {
    "steps": {0: 4, 3: 12, 9: 8, 11: 20},
    "samples": {0: 4, 10: 12, 40: 8, 100: 20},
    "tokens": {0: 4, 50: 12, 200: 8, 500: 20},
}
KINDS = ["resumable", "memory", "map", "stream", "our stream"]


@pytest.mark.parametrize("unit", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_step_has_the_size_that_is_planned_and_each_sample_comes_once(kind, unit):
    module, schedule = Tokens(), SCHEDULES[unit]
    trainer = tiny.trainer(BatchSizeScheduler(schedule, unit=unit), max_epochs=3)
    loader = make_loader(kind)
    trainer.fit(module, loader)
    assert module.sizes == expected_sizes(schedule, unit, 3)
    for epoch in range(3):
        seen = [i for e, batches in module.steps if e == epoch for batch in batches for i in batch]
        assert sorted(seen) == list(range(SAMPLES))
    assert loader.batch_size == 4
    assert type(trainer.accumulate_grad_batches) is int
    assert trainer.accumulate_grad_batches == 1


@pytest.mark.parametrize("kind", ["resumable", "memory", "map"])
def test_length_validation_and_schedulers_follow(kind):
    """What threads such as Lightning's 21534 ask for: another size inside an epoch, by steps, and all that follows."""
    module = Validated()
    module.configure_optimizers = lambda: {
        "optimizer": (sgd := torch.optim.SGD(module.parameters(), lr=1.0)),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(sgd, 1, gamma=0.5),
    }
    trainer = tiny.trainer(BatchSizeScheduler({0: 4, 3: 12, 9: 8}, unit="steps"), max_epochs=3)
    trainer.fit(module, make_loader(kind), tiny.loader())
    done = [sum(len(batches) for e, batches in module.steps if e == epoch) for epoch in range(3)]
    assert list(module.lengths.values()) == done
    assert module.rates == [0.5, 0.25, 0.125]
    assert [epoch for epoch, _ in module.validated] == [0, 1, 2]


def test_validation_inside_an_epoch_comes_at_its_share_of_the_batches():
    module = Validated()
    trainer = tiny.trainer(BatchSizeScheduler({0: 4, 10: 8}, unit="steps"), max_epochs=2, val_check_interval=0.5)
    trainer.fit(module, make_loader("resumable"), tiny.loader())
    first, second = 10 + math.ceil(21 / 8), math.ceil(61 / 8)
    assert module.lengths == {0: first, 1: second}
    assert [step for _, step in module.validated] == [first // 2, first // 2 * 2, first + second // 2, first + second]


def by_hand(steps, model):
    """The same training in plain torch, each step's gradient a mean over its samples."""
    sgd = torch.optim.SGD(model.parameters(), lr=model.learning_rate, momentum=0.9)
    for batches in steps:
        ids = torch.tensor([i for batch in batches for i in batch])
        sgd.zero_grad()
        torch.nn.functional.cross_entropy(model(features(ids)), ids % 3).backward()
        sgd.step()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("schedule", [{0: 8, 3: 12, 5: 4, 9: 20}, {0: 4, 1: 16, 4: 8}])
def test_every_gradient_is_the_mean_over_its_step(kind, schedule):
    """Changes at batches that are multiples of neither number of micro-batches: nothing is lost, nothing stale."""
    module, twin = Tokens(dropout=0.0), Tokens(dropout=0.0)
    twin.load_state_dict(module.state_dict())
    options = {"max_micro_batch": 3} if kind == "resumable" else {}
    trainer = tiny.trainer(BatchSizeScheduler(schedule, unit="steps", **options), max_epochs=2)
    trainer.fit(module, make_loader(kind))
    assert module.sizes == expected_sizes(schedule, "steps", 2)
    by_hand([batches for _, batches in module.steps], twin)
    for name, weight in twin.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], weight, rtol=1e-12, atol=1e-12)


class Grab(Callback):
    """Saves a checkpoint after every batch, before the scheduler of the list has counted it."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{trainer.fit_loop.total_batch_idx}.ckpt")


OTHERS = [("memory", "samples"), ("memory", "tokens"), ("resumable", "steps"), ("our stream", "steps")]


@pytest.mark.parametrize(
    ("kind", "unit", "first"),
    [
        ("resumable", "samples", True),
        ("memory", "steps", False),
        ("our stream", "tokens", True),
        *(pytest.param(*other, first, marks=pytest.mark.slow) for other in OTHERS for first in (True, False)),
    ],
)
def test_a_run_resumed_from_any_batch_ends_the_same_to_the_bit(tmp_path, kind, unit, first):
    schedule = SCHEDULES[unit]

    def run(*more, **fit):
        module = Tokens()
        scheduler = BatchSizeScheduler(schedule, unit=unit)
        callbacks = [*more, scheduler] if first else [scheduler, *more]
        trainer = tiny.trainer(*callbacks, max_epochs=2)
        trainer.fit(module, make_loader(kind), **fit)
        return module

    whole = run(Grab(tmp_path))
    assert len(list(tmp_path.iterdir())) == len(whole.steps)
    for step in range(len(whole.steps)):
        rest = run(ckpt_path=tmp_path / f"{step}.ckpt")
        assert tiny.same(tiny.state_of(rest), tiny.state_of(whole)), step
        assert [batches for _, batches in rest.steps] == [batches for _, batches in whole.steps][step + 1 :]


@pytest.mark.parametrize("kind", ["map", "memory"])
def test_a_run_resumed_between_epochs_with_any_loader_has_the_same_sizes(tmp_path, kind):
    def run(epochs, **fit):
        module = Tokens(dropout=0.0)
        trainer = tiny.trainer(BatchSizeScheduler(SCHEDULES["tokens"], unit="tokens"), max_epochs=epochs)
        trainer.fit(module, make_loader(kind), **fit)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module

    run(2)
    assert run(3, ckpt_path=tmp_path / "2.ckpt").sizes == expected_sizes(SCHEDULES["tokens"], "tokens", 3)[-4:]


def test_a_checkpoint_that_another_schedule_made_is_refused(tmp_path):
    def run(schedule, unit="samples", **fit):
        module = Tokens()
        trainer = tiny.trainer(BatchSizeScheduler(schedule, unit=unit), max_steps=12, max_epochs=-1)
        trainer.fit(module, make_loader("resumable"), **fit)
        trainer.save_checkpoint(tmp_path / "at.ckpt")
        return module

    run({0: 4, 10: 12})
    with pytest.raises(ValueError, match=r"batches of 12 .* at 12 samples, this run's schedule has 4"):
        run({0: 4, 50: 12}, ckpt_path=tmp_path / "at.ckpt")
    with pytest.raises(ValueError, match=r"unit='samples', this run has unit='steps'"):
        run({0: 4, 10: 12}, unit="steps", ckpt_path=tmp_path / "at.ckpt")
    run({0: 4, 10: 12, 10_000: 4}, ckpt_path=tmp_path / "at.ckpt")  # what is to come may be another


RULES = {
    "smith": SmithGrowth(4, (5, 9), 16, factor=2.0),
    "geometric": GeometricGrowth(4, 20, factor=1.3, multiple_of=4, every_n=3),
    "late": LateSwitch(4, 12, total=20, share=0.5),
    "seesaw": Seesaw(4, 16, total=20, multiple_of=4),
    "own": lambda step: 8 if step % 2 else 4,
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kind", ["memory", "map"])
def test_growth_rules_count_in_steps_and_say_the_learning_rate(kind, rule):
    module, grow, rates = Tokens(), RULES[rule], []
    scheduler = BatchSizeScheduler(grow, unit="steps")

    class Rates(Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.optimizers[0].register_step_pre_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))

    trainer = tiny.trainer(scheduler, Rates(), max_epochs=2)
    trainer.fit(module, make_loader(kind))
    asked = [grow(step) for step in range(len(module.sizes))]
    sizes = [getattr(batch, "batch_size", batch) for batch in asked]
    ends = [
        i
        for i, (epoch, _) in enumerate(module.steps)
        if module.steps[i + 1 : i + 2] == [] or module.steps[i + 1][0] > epoch
    ]
    assert all(found == size or i in ends for i, (found, size) in enumerate(zip(module.sizes, sizes, strict=True)))
    factors = [getattr(batch, "learning_rate_factor", 1.0) for batch in asked]
    assert rates == pytest.approx([0.05 * factor for factor in factors])


@pytest.mark.parametrize("kind", ["memory", "map"])
def test_the_scaled_learning_rate_follows_every_change(kind):
    module = Tokens()
    scaling = LearningRateScaling(base_batch_size=4, rule="linear", warmup_epochs=0)
    trainer = tiny.trainer(scaling, BatchSizeScheduler({0: 4, 3: 12}, unit="steps"), max_epochs=1)
    scales = []

    class Scales(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step > len(scales):
                scales.append(scaling.current_scale)

    trainer.callbacks.append(Scales())
    trainer.fit(module, make_loader(kind))
    assert scales == [1.0] * 3 + [3.0] * (len(module.sizes) - 3)


def fit(schedule, loader, *, options=None, **settings):
    validates = {"val_dataloaders": tiny.loader()} if options else {}
    module = Validated() if options else Tokens()
    tiny.trainer(BatchSizeScheduler(schedule, **settings), **(options or {})).fit(module, loader, **validates)


FLOATS = TensorDataset(torch.randn(SAMPLES, 8), torch.arange(SAMPLES) % 3)
RAGGED = [torch.arange(3 + i % 4) for i in range(40)]


def padded(rows):
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


@pytest.mark.promise("schedule")
@pytest.mark.parametrize(
    ("run", "message"),
    [
        (
            lambda: fit({0: 4, 3: 10}, make_loader("map"), unit="steps"),
            r"batch of 10 .* multiple of the 4 .* instance 8",
        ),
        (lambda: fit({0: 4, 99: 10}, make_loader("stream"), unit="steps"), "batch of 10 .* multiple of the 4"),
        (
            lambda: fit(lambda step: 4 + (step > 5), make_loader("map"), unit="steps"),
            "batch of 5 .* multiple of the 4",
        ),
        (
            lambda: fit(lambda n: 4 + (n > 100), make_loader("map"), unit="tokens"),
            "batch of 5 .* multiple of the 4",
        ),
        (
            lambda: fit({0: 4, 3: 7}, make_loader("resumable"), unit="steps", max_micro_batch=3),
            "batch of 7 .* max_micro_batch=3",
        ),
        (
            lambda: fit({0: 4, 3: 64}, make_loader("resumable"), unit="steps"),
            "batch of 64 samples is larger than the 61",
        ),
        (
            lambda: fit({0: 4}, make_loader("map"), unit="steps", max_micro_batch=2),
            r"max_micro_batch=2 is below the 4 .* batch_size=2",
        ),
        (lambda: fit({0: 4}, DataLoader(FLOATS, batch_size=4), unit="tokens"), "unit='tokens' .* count_tokens"),
        (lambda: fit({0: 4}, ResumableLoader(FLOATS, batch_size=4), unit="tokens"), "unit='tokens' .* count_tokens"),
        (
            lambda: fit({0: 4}, ResumableLoader(RAGGED, batch_size=4, collate_fn=padded), unit="tokens"),
            "do not all have 3 tokens.* count_tokens",
        ),
        (
            lambda: fit({0: 4, 3: 16}, make_loader("memory"), unit="steps", options={"val_check_interval": 7}),
            r"val_check_interval=7 .* fraction",
        ),
        (lambda: BatchSizeScheduler({0: 4, 3: 8}, unit="batches"), "unit .*'batches'"),
        (lambda: BatchSizeScheduler({3: 8}, unit="tokens"), "begins at 3 tokens"),
        (lambda: BatchSizeScheduler("0:8 1G:16", unit="tokens"), "THRESHOLD:BATCH"),
        (lambda: BatchSizeScheduler("0:8", unit="steps"), "unit='steps'"),
        (lambda: BatchSizeScheduler("0:8"), "unit='epochs'"),
        (lambda: BatchSizeScheduler({0: 8}, unit="steps", count_tokens=len), "count_tokens is for unit='tokens'"),
        (lambda: BatchSizeScheduler({0: 8}, unit="tokens", count_tokens=3), "count_tokens"),
        (
            lambda: fit({0: 4}, make_loader("memory"), unit="tokens", count_tokens=lambda batch: 0),
            "count_tokens found 0 tokens in the first batch",
        ),
        (lambda: BatchSizeScheduler(8, unit="tokens"), "schedule must be .* got 8"),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(run, message, monkeypatch):
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *args: pytest.fail("a step was taken"))
    with pytest.raises(ValueError, match=message):
        run()


def test_tokens_are_what_the_function_says():
    """Documents of different length: by accumulation, as a loader cannot know what comes."""
    module = Tokens()
    loader = DataLoader(RAGGED, batch_size=2, collate_fn=padded)
    lengths = [sum(len(row) for row in RAGGED[i : i + 2]) for i in range(0, 40, 2)]
    schedule, sizes, consumed, at = {0: 2, 30: 6, 90: 4}, [], 0, 0
    while at < 20:
        k = max((begin, size) for begin, size in schedule.items() if begin <= consumed)[1] // 2
        sizes.append(2 * len(lengths[at : at + k]))
        consumed, at = consumed + sum(lengths[at : at + k]), at + k
    lengths_of = {tuple(padded(RAGGED[i : i + 2]).flatten().tolist()): lengths[i // 2] for i in range(0, 40, 2)}
    scheduler = BatchSizeScheduler(
        schedule, unit="tokens", count_tokens=lambda batch: lengths_of[tuple(batch.flatten().tolist())]
    )
    tiny.trainer(scheduler, max_epochs=1).fit(module, loader)
    assert module.sizes == sizes


def test_megatrons_text_is_a_schedule():
    module = Tokens()
    trainer = tiny.trainer(BatchSizeScheduler("0:4 1K:12", unit="tokens"), max_epochs=5)
    trainer.fit(module, make_loader("memory"))
    assert module.sizes == expected_sizes({0: 4, 1000: 12}, "tokens", 5)


class Owns(Validated):
    """Makes its own loader, a new one or the same each time."""

    def __init__(self, kind, *, keeps):
        super().__init__()
        self.make, self.batch_size = (lambda: make_loader(kind)), 4
        self.kept = self.make() if keeps else None

    def train_dataloader(self):
        return self.make() if self.kept is None else self.kept

    def val_dataloader(self):
        return tiny.loader()


class Data(LightningDataModule):
    def __init__(self, module):
        super().__init__()
        self.module = module

    def train_dataloader(self):
        return Owns.train_dataloader(self.module)

    def val_dataloader(self):
        return tiny.loader()


SLOW = pytest.param("data module", marks=pytest.mark.slow)


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["module", SLOW])
def test_it_follows_where_a_hook_makes_the_loader(source, kind, keeps):
    module = Owns(kind, keeps=keeps)
    trainer = tiny.trainer(BatchSizeScheduler(SCHEDULES["samples"], unit="samples"), max_epochs=3)
    trainer.fit(module, datamodule=Data(module) if source == "data module" else None)
    assert module.sizes == expected_sizes(SCHEDULES["samples"], "samples", 3)
    if "stream" not in kind:
        assert module.lengths == {e: sum(len(b) for epoch, b in module.steps if epoch == e) for e in range(3)}
    assert [epoch for epoch, _ in module.validated] == [0, 1, 2]
    assert "train_dataloader" not in vars(module)
    assert module.train_dataloader().batch_size == 4


@pytest.mark.slow
def test_a_checkpoint_from_any_batch_of_an_accumulated_step_continues_in_time(tmp_path):
    """Between steps to the bit; inside one the gradients that waited are lost, and the sizes to come are right."""

    def run(*more, **fit):
        module = Tokens()
        scheduler = BatchSizeScheduler({0: 4, 20: 12, 60: 9}, unit="samples", max_micro_batch=3)
        tiny.trainer(*more, scheduler, max_epochs=2).fit(module, make_loader("memory"), **fit)
        return module

    whole = run(Grab(tmp_path))
    batches = [len(batches) for _, batches in whole.steps]
    ends = {sum(batches[: step + 1]) - 1: step for step in range(len(batches))}
    for batch in range(sum(batches)):
        rest = run(ckpt_path=tmp_path / f"{batch}.ckpt")
        if batch in ends:
            assert tiny.same(tiny.state_of(rest), tiny.state_of(whole)), batch
            assert rest.steps == whole.steps[ends[batch] + 1 :]
        else:
            step = next(step for end, step in ends.items() if end > batch)
            left = next(end for end in ends if end > batch) - batch
            assert rest.steps == [(whole.steps[step][0], whole.steps[step][1][-left:]), *whole.steps[step + 1 :]]


def test_ghosts_divide_the_batches_of_every_step():
    module = tiny.TinyClassifier()
    loader = InMemoryLoader(tiny.dataset(48).tensors, batch_size=8, shuffle=True)
    trainer = tiny.trainer(GhostBatchNormSwap(4), BatchSizeScheduler({0: 8, 3: 12}, unit="steps"), max_epochs=1)
    trainer.fit(module, loader)
    assert trainer.global_step == 5
    other = tiny.trainer(GhostBatchNormSwap(6), BatchSizeScheduler({0: 12, 3: 4}, unit="steps"), max_epochs=1)
    with pytest.raises(ValueError, match="ghost_batch_size=6"):
        other.fit(tiny.TinyClassifier(), loader)


def test_a_trial_run_and_a_second_fit_count_on():
    trainer = tiny.trainer(BatchSizeScheduler({0: 4, 3: 12}, unit="steps"), fast_dev_run=2)
    trainer.fit(module := Tokens(), make_loader("memory"))
    assert module.sizes == [4, 4]
    trainer = tiny.trainer(BatchSizeScheduler({0: 4, 3: 12}, unit="steps"), max_epochs=1)
    trainer.fit(module := Tokens(), make_loader("memory"))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, make_loader("memory"))
    assert module.sizes == expected_sizes({0: 4, 3: 12}, "steps", 2)


def test_batches_that_are_left_out_are_not_counted():
    module = Tokens()
    scheduler = BatchSizeScheduler({0: 4, 10: 8, 25: 12}, unit="samples")
    tiny.trainer(scheduler, max_epochs=2, limit_train_batches=4).fit(module, make_loader("memory"))
    assert module.sizes == [4, 4, 4, 8, 8, 12, 12, 12]
    module = Tokens()
    loader = ResumableLoader(IDS, batch_size=4, drop_last=True)
    tiny.trainer(BatchSizeScheduler({0: 8, 7: 20}, unit="steps"), max_epochs=3).fit(module, loader)
    assert module.sizes == [8] * 7 + [20] * 6


@pytest.mark.parametrize("loader", [ResumableLoader, InMemoryLoader])
def test_what_fills_no_micro_batch_of_the_last_step_is_left_out_though_the_next_step_would_be_smaller(loader):
    """Of 42 samples a step has two times 13, the next one 13: the three that are left would fill three batches of 1."""
    ids = IDS[:42]
    loader = loader(ids if loader is ResumableLoader else (ids,), batch_size=13, drop_last=True)
    module = Tokens()
    scheduler = BatchSizeScheduler({0: 26, 38: 2}, unit="samples")
    tiny.trainer(scheduler, max_epochs=1, accumulate_grad_batches=2).fit(module, loader)
    assert [[len(batch) for batch in batches] for _, batches in module.steps] == [[13, 13], [13]]
    assert module.lengths == {0: 3}


@pytest.mark.parametrize("kind", ["memory", "map"])
def test_a_function_may_name_a_learning_rate_factor_at_any_step(kind):
    module, rates = Tokens(), []

    class Noting(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    module.configure_optimizers = lambda: Noting(module.parameters(), lr=0.05)
    grow = BatchSizeScheduler(lambda step: 4 if step < 3 else EpochBatch(8, 0.5), unit="steps")
    tiny.trainer(grow, max_epochs=1).fit(module, make_loader(kind))
    assert rates == [0.05] * 3 + [0.025] * (len(module.sizes) - 3)


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")
@pytest.mark.parametrize("step", [18, 20])  # of 16 an epoch
def test_a_checkpoint_of_a_run_without_a_schedule_goes_on_at_its_step(tmp_path, step):
    def stream():
        return ResumableStream(IDS, batch_size=4)

    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    options = {"enable_checkpointing": True, "max_epochs": 2}
    tiny.trainer(ResumeExactly(), saver, **options).fit(Tokens(), stream())
    module = Tokens()
    scheduler = BatchSizeScheduler({0: 4, 21: 8}, unit="steps")
    tiny.trainer(scheduler, max_epochs=2).fit(module, stream(), ckpt_path=tmp_path / f"step={step}.ckpt")
    assert module.sizes[: 21 - step] == [4] * (21 - step)
    assert module.sizes[21 - step] == 8


@pytest.mark.filterwarnings("ignore:Be aware that when using .ckpt_path.")
@pytest.mark.parametrize("kind", ["resumable", "memory", "our stream"])
def test_inside_an_epoch_what_is_to_come_of_a_schedule_may_be_another_but_not_what_was(tmp_path, kind):
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    first = BatchSizeScheduler({0: 4, 3: 8, 10: 16}, unit="steps")
    tiny.trainer(first, saver, enable_checkpointing=True, max_epochs=2).fit(Tokens(), make_loader(kind))
    module, other = Tokens(), BatchSizeScheduler({0: 4, 3: 8, 5: 12}, unit="steps")
    tiny.trainer(other, max_epochs=1).fit(module, make_loader(kind), ckpt_path=tmp_path / "step=5.ckpt")
    assert module.sizes == [12, 12, 9]  # of the 33 samples that were left
    trainer = tiny.trainer(BatchSizeScheduler({0: 4, 2: 8}, unit="steps"), max_epochs=1)
    with pytest.raises(ValueError, match=r"resume with the same schedule"):
        trainer.fit(Tokens(), make_loader(kind), ckpt_path=tmp_path / "step=5.ckpt")
