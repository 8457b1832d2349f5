"""Batches whose first axis is not the sample train as the large batch, or are refused before the first step."""

import pytest
import tiny
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler, SequentialSampler, TensorDataset

from lightning_gap import AdaptiveBatchSize, BatchSizeScheduler, ExactAccumulation, PiggybackWarmStart, ResumableLoader

FEATURES = 5


def ragged(samples, seed=3):
    """Rows of different length, each with a target."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 9, (samples,), generator=generator).tolist()
    options = {"generator": generator, "dtype": torch.float64}
    return [(torch.randn(n, FEATURES, **options), torch.randn((), **options)) for n in lengths]


def as_graphs(rows):
    """All nodes in one tensor, and where each graph begins."""
    nodes = torch.cat([row for row, _ in rows])
    starts = torch.tensor([len(row) for row, _ in rows]).cumsum(0)
    return {"nodes": nodes, "ends": starts, "target": torch.stack([y for _, y in rows])}


def as_nodes_alone(rows):
    """Nothing in the batch has the samples as its first axis: the target is a node's too."""
    return torch.cat([torch.cat([row, torch.full((len(row), 1), float(y))], 1) for row, y in rows])


def as_images(rows):
    """A list of tensors of different size, one of each sample."""
    return [row.T[:, :, None] for row, _ in rows], [y for _, y in rows]


def as_time_first(rows):
    return torch.stack([row[:2] for row, _ in rows], 1), torch.stack([y for _, y in rows])


def as_ragged_dict(rows):
    """Tensors of different length by the sample's name."""
    return {str(number): {"x": row, "y": y} for number, (row, y) in enumerate(rows)}


class Means(LightningModule):
    """A linear model of each row's mean."""

    def __init__(self, means):
        super().__init__()
        torch.manual_seed(0)
        self.means, self.net, self.batch_size = means, torch.nn.Linear(FEATURES, 1).double(), 8

    def training_step(self, batch, batch_idx):
        inputs, targets = self.means(batch)
        return mse_loss(self.net(inputs).squeeze(1), targets)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.5)


def means_of_graphs(batch):
    ends = batch["ends"].tolist()
    starts = [0, *ends[:-1]]
    rows = [batch["nodes"][a:b].mean(0) for a, b in zip(starts, ends, strict=True)]
    return torch.stack(rows), batch["target"]


def means_of_nodes(batch):
    """Each node counts by itself here."""
    return batch[:, :FEATURES], batch[:, FEATURES]


KINDS = {
    "graphs": (as_graphs, means_of_graphs, lambda batch: len(batch["ends"])),
    "images": (
        as_images,
        lambda batch: (torch.stack([image.mean((1, 2)) for image in batch[0]]), torch.stack(batch[1])),
        lambda batch: len(batch[0]),
    ),
    "time first": (as_time_first, lambda batch: (batch[0].mean(0), batch[1]), lambda batch: len(batch[1])),
    "ragged dict": (
        as_ragged_dict,
        lambda batch: (
            torch.stack([row["x"].mean(0) for row in batch.values()]),
            torch.stack([row["y"] for row in batch.values()]),
        ),
        len,
    ),
}


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def loader_of(kind, samples, size, *, make=DataLoader, rows=None):
    return make(rows or ragged(samples), batch_size=size, collate_fn=KINDS[kind][0])


def fit(kind, loader, *callbacks, **options):
    module = Means(KINDS[kind][1])
    trainer = tiny.trainer(*callbacks, **({"max_epochs": 2} | options))
    trainer.fit(module, loader)
    return module


def apart(first, second):
    return max(
        float((a - b).detach().abs().max()) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


@pytest.mark.parametrize("make", [DataLoader, ResumableLoader])
@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_as_the_large_batch_where_the_loader_knows_its_samples(kind, make):
    """27 samples: the last micro-batch has 3 of 8, and the last window one of three."""
    whole = fit(kind, loader_of(kind, 27, 24))
    small = loader_of(kind, 27, 8, make=make)
    assert apart(fit(kind, small, ExactAccumulation(), accumulate_grad_batches=3), whole) < 1e-12
    assert apart(fit(kind, small, BatchSizeScheduler({0: 24}, max_micro_batch=8)), whole) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_where_nobody_knows_its_samples_it_is_refused_until_they_are_counted(kind):
    collate, _, count = KINDS[kind]
    stream = DataLoader(Stream(ragged(27)), batch_size=8, collate_fn=collate)
    steps = []

    class Steps(Callback):
        def on_train_batch_end(self, trainer, *rest):
            steps.append(trainer.global_step)

    with pytest.raises(ValueError, match=r"cannot tell how many samples .* pass count="):
        fit(kind, stream, ExactAccumulation(), Steps(), accumulate_grad_batches=3)
    assert steps == []
    counted = fit(kind, stream, ExactAccumulation(count), accumulate_grad_batches=3)
    assert apart(counted, fit(kind, loader_of(kind, 27, 24))) < 1e-12


def test_where_micro_batches_come_later_it_is_refused_at_once():
    stream = DataLoader(Stream(ragged(32)), batch_size=8, collate_fn=as_graphs)
    large = PiggybackWarmStart(1, 16, optimizer_state="keep", max_micro_batch=8)
    later = GradientAccumulationScheduler({1: 2})
    for callbacks in ([BatchSizeScheduler({0: 8, 1: 16}, max_micro_batch=8)], [large], [ExactAccumulation(), later]):
        trainer = tiny.trainer(*callbacks, max_epochs=2)
        with pytest.raises(ValueError, match="cannot tell how many samples a dict holds"):
            trainer.fit(Means(means_of_graphs), stream)
        assert trainer.global_step == 0
    fit("graphs", stream, BatchSizeScheduler({0: 8, 1: 16}))  # each batch is a step: nothing is weighed


def test_tokens_are_counted_as_the_user_says_also_by_the_callbacks_that_set_the_batch():
    """The loss is a mean over nodes, of which each micro-batch has another number."""
    rows = ragged(32)

    def train(*callbacks, size=8, **options):
        module = Means(means_of_nodes)
        trainer = tiny.trainer(*callbacks, **({"max_epochs": 2} | options))
        trainer.fit(module, DataLoader(rows, batch_size=size, collate_fn=as_nodes_alone))
        return module

    whole = train(size=16)
    adapted = AdaptiveBatchSize(16, 16, micro_batches=2, count=len, measure_every_n_steps=1)
    for callback in (BatchSizeScheduler({0: 16}, max_micro_batch=8, count=len), adapted):
        assert apart(train(callback), whole) < 1e-12
    piggyback = PiggybackWarmStart(1, 16, optimizer_state="keep", max_micro_batch=8, count=len)
    assert apart(train(piggyback), train(BatchSizeScheduler({0: 8, 1: 16}))) < 1e-12
    with pytest.warns(UserWarning, match=r"states a batch of 8 samples, and the first axis .*pass count="):
        assert apart(train(ExactAccumulation(), accumulate_grad_batches=2), whole) > 1e-5  # by samples: another mean


def test_an_adaptive_batch_measures_gradients_weighed_by_the_users_count():
    """The statistics of each step are those of (n_i / mean n) g_i, whose mean is the gradient of the step."""
    expected, found = [], []

    class ByHand(Callback):
        """Comes first, before losses are weighed."""

        def __init__(self):
            self.rows, self.counts = [], []

        def on_before_backward(self, trainer, module, loss):
            gradients = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
            self.rows.append(torch.cat([g.flatten() for g in gradients]) * trainer.accumulate_grad_batches)

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            self.counts.append(len(batch))
            if len(self.rows) == 4:
                counts = torch.tensor(self.counts, dtype=torch.float64)
                rows = torch.stack(self.rows) * (counts / counts.mean())[:, None]
                mean = rows.mean(0)
                variance = 4 * ((rows - mean) ** 2).sum() / 3
                expected.append(float(variance / (0.81 * mean @ mean)))
                self.rows, self.counts = [], []

    class Reads(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx % 4 == 3:
                found.append(float(trainer.callback_metrics["batch/wanted"]))

    adaptive = AdaptiveBatchSize(16, 16, count=len, measure_every_n_steps=1, smoothing=0.0)
    loader = DataLoader(ragged(52), batch_size=4, collate_fn=as_nodes_alone)
    tiny.trainer(ByHand(), adaptive, Reads(), max_epochs=1).fit(Means(means_of_nodes), loader)
    assert len(found) == 3
    assert found == pytest.approx(expected, rel=1e-5)  # logged in float32


@pytest.mark.parametrize("damaged", [(10, 11), (2, 11)])
def test_a_collate_function_that_drops_samples_is_refused_with_the_first_batch_and_told_later(damaged):
    """Of 24 samples two are damaged: the first or the second micro-batch holds fewer than 8."""
    inputs, targets = tiny.dataset(24).tensors
    rows = [(x.double(), y, number in damaged) for number, (x, y) in enumerate(zip(inputs, targets, strict=True))]

    def whole_ones(batch):
        kept = [(x, y) for x, y, damaged in batch if not damaged]
        return torch.stack([x for x, _ in kept]), torch.stack([y for _, y in kept])

    class Net(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(8, 3).double()

    def train(size, *callbacks, **options):
        module = Net()
        trainer = tiny.trainer(*callbacks, max_epochs=2, **options)
        trainer.fit(module, DataLoader(rows, batch_size=size, collate_fn=whole_ones))
        return module

    counts = ExactAccumulation(lambda batch: len(batch[0]))
    assert apart(train(8, counts, accumulate_grad_batches=3), train(24)) < 1e-12
    if damaged[0] < 8:
        with pytest.raises(ValueError, match=r"states a batch of 8 samples, .* is 7; .* pass count="):
            train(8, ExactAccumulation(), accumulate_grad_batches=3)
        return
    with pytest.warns(
        UserWarning, match=r"the first axis of its tensors is 6; the loader's number .* pass count="
    ) as told:
        train(8, ExactAccumulation(), accumulate_grad_batches=3)
    assert len([w for w in told if "the loader's number" in str(w.message)]) == 1


def time_first(steps):
    """Rows of so many steps, all tensors with time as their first axis."""

    def collate(rows):
        return torch.stack([row for row, _ in rows], 1), torch.stack([y.expand(steps) for _, y in rows], 1)

    generator = torch.Generator().manual_seed(4)
    options = {"generator": generator, "dtype": torch.float64}
    rows = [(torch.randn(steps, FEATURES, **options), torch.randn((), **options)) for _ in range(27)]
    return rows, collate, lambda batch: (batch[0].mean(0), batch[1][0])


class Fixed(Sampler):
    """Batches of a size of its own that it says in an attribute or not at all."""

    def __init__(self, samples, size, *, says):
        self.samples, self.size = samples, size
        if says:
            self.batch_size = size

    def __iter__(self):
        size = getattr(self, "batch_size", self.size)
        return iter([list(range(self.samples))[start : start + size] for start in range(0, self.samples, size)])

    def __len__(self):
        return -(-self.samples // getattr(self, "batch_size", self.size))


def fit_rows(means, loader, *callbacks, **options):
    module = Means(means)
    tiny.trainer(*callbacks, **({"max_epochs": 2} | options)).fit(module, loader)
    return module


def test_an_axis_that_is_as_long_as_the_batch_by_accident_proves_nothing():
    """27 rows in batches of 8, time first: 8 steps in the first batch, where it agrees, and 4 in the later ones."""
    rows, _, means = time_first(8)
    rows = [(row if number < 8 else row[:4], y) for number, (row, y) in enumerate(rows)]
    whole = fit_rows(lambda batch: batch, DataLoader([(row.mean(0), y) for row, y in rows], batch_size=24))

    def collate(batch):
        return time_first(len(batch[0][0]))[1](batch)

    loader = DataLoader(rows, batch_size=8, collate_fn=collate)
    with pytest.warns(UserWarning, match=r"states a batch of 8 samples, .* is 4; the loader's number is taken"):
        exact = fit_rows(means, loader, ExactAccumulation(), accumulate_grad_batches=3)
    assert apart(exact, whole) < 1e-12


@pytest.mark.parametrize("says", [True, False])
def test_a_batch_sampler_that_the_first_batch_contradicts_is_refused_until_it_is_counted(says):
    rows, collate, means = time_first(5)
    loader = DataLoader(rows, batch_sampler=Fixed(27, 8, says=says), collate_fn=collate)
    options = {"accumulate_grad_batches": 3}
    with pytest.raises(ValueError, match=r"states a batch of 8 samples, .* is 5; .*pass count="):
        fit_rows(means, loader, ExactAccumulation(), **options)
    counted = fit_rows(means, loader, ExactAccumulation(lambda batch: batch[0].shape[1]), **options)
    assert apart(counted, fit_rows(means, DataLoader(rows, batch_size=24, collate_fn=collate))) < 1e-12
    rows, collate, means = time_first(8)  # they agree, by accident or not
    fit_rows(means, DataLoader(rows, batch_sampler=Fixed(24, 8, says=says), collate_fn=collate), ExactAccumulation())


@pytest.mark.parametrize("given", ["bare", "sampler of its own"])
def test_with_a_count_no_first_axis_speaks_against_a_size_that_was_set(given):
    """12 rows of 5 steps, time first, from a module whose loader states nothing of its batches."""
    rows, collate, means = time_first(5)

    class Bare:
        def __init__(self, size):
            self.size = size

        def __iter__(self):
            return (collate(rows[start : start + self.size]) for start in range(0, 12, self.size))

        def __len__(self):
            return 12 // self.size

    class Module(Means):
        def train_dataloader(self):
            own = Fixed(12, self.batch_size, says=True)
            return Bare(self.batch_size) if given == "bare" else DataLoader(rows, batch_sampler=own, collate_fn=collate)

    sizes = BatchSizeScheduler({0: 4, 1: 6}, count=lambda batch: batch[0].shape[1])
    trainer = tiny.trainer(sizes, max_epochs=2)
    trainer.fit(Module(means))
    assert trainer.global_step == 3 + 2


@pytest.mark.parametrize("make", [DataLoader, ResumableLoader])
def test_ready_batches_that_are_taken_out_of_batches_of_one_are_asked(make):
    data = tiny.dataset(22).tensors[0].double()[:, :FEATURES].split(8)  # of 8, 8 and 6
    ready = make([(part, part.sum(1)) for part in data], batch_size=1, collate_fn=lambda batches: batches[0])
    exact = fit_rows(lambda batch: batch, ready, ExactAccumulation(), accumulate_grad_batches=3)
    rows = torch.cat(data)
    assert apart(exact, fit_rows(lambda batch: batch, DataLoader(TensorDataset(rows, rows.sum(1)), 22))) < 1e-12


@pytest.mark.parametrize("of", ["loaders in a dict", "a stream of nested fields"])
def test_fields_inside_each_other_are_counted_where_all_agree(of):
    inputs, targets = (part.double() for part in tiny.dataset(22).tensors)

    def loader(size):
        if of == "loaders in a dict":
            data = TensorDataset(inputs, targets)
            return {"a": DataLoader(data, batch_size=size), "b": DataLoader(data, batch_size=size)}
        return DataLoader(
            Stream([{"a": (x, [y]), "b": [x, y]} for x, y in zip(inputs, targets, strict=True)]), batch_size=size
        )

    class Net(LightningModule):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = torch.nn.Linear(8, 1).double()

        def training_step(self, batch, batch_idx):
            (x, *_), (z, y) = batch["a"], batch["b"]
            return mse_loss(self.net(x + z).squeeze(1), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05)

    def train(size, *callbacks, **options):
        module = Net()
        tiny.trainer(*callbacks, max_epochs=1, **options).fit(module, loader(size))
        return module

    exact = train(4, ExactAccumulation(), accumulate_grad_batches=6)
    assert apart(exact, train(22)) < 1e-12


def test_a_rare_batch_that_cannot_be_told_does_not_end_the_run():
    class Ready:
        def __iter__(self):
            for number in range(6):
                x, y = (part[number * 4 : number * 4 + 4] for part in tiny.dataset(24).tensors)
                yield {"x": x, "y": y, "odd": torch.zeros(9 if number == 4 else 4)}

    class Reads(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return cross_entropy(self(batch["x"]), batch["y"])

    trainer = tiny.trainer(ExactAccumulation(), max_epochs=2, accumulate_grad_batches=2)
    with pytest.warns(UserWarning, match=r"cannot tell .* weighed as 4, like the batch before it") as told:
        trainer.fit(Reads(), Ready())
    assert len([w for w in told if "cannot tell" in str(w.message)]) == 1
    assert trainer.global_step == 6


def test_a_wrapped_loader_that_gives_other_batches_is_not_believed():
    """torch's own collate function puts the samples first, whatever the wrapper does."""

    class Halves:
        def __init__(self, batches):
            self.sampler = batches

        def __len__(self):
            return 2 * len(self.sampler)

        def __iter__(self):
            for batch in self.sampler:
                yield batch[:3]
                yield batch[3:]

    class Net(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Linear(8, 3)

    data = tiny.dataset(32)
    halves = Halves(BatchSampler(SequentialSampler(data), 8, drop_last=False))

    def train(loader, *callbacks, **options):
        module = Net().double()
        tiny.trainer(*callbacks, max_epochs=1, precision="64-true", **options).fit(module, loader)
        return module

    exact = train(DataLoader(data, batch_sampler=halves), ExactAccumulation(), accumulate_grad_batches=4)
    assert apart(exact, train(DataLoader(data, batch_size=16))) < 1e-12


# What count may give


class Tokens(tiny.TinyClassifier):
    """A mean over the tokens that are not padding, 0 / 0 where there are none."""

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()

    def training_step(self, batch, batch_idx):
        losses = cross_entropy(self(batch[0]), batch[1], reduction="none")
        return (losses * batch[2]).sum() / batch[2].sum()


def tokens(batch):
    return batch[2].sum()


def with_padding(empty, samples=24, size=4):
    """Micro-batches of 4, those named ``empty`` without a token."""
    inputs, targets = tiny.dataset(samples).tensors
    kept = (torch.rand(samples, generator=torch.Generator().manual_seed(5)) < 0.7).double()
    for number in empty:
        kept[number * size : (number + 1) * size] = 0
    return torch.utils.data.TensorDataset(inputs.double(), targets, kept)


def train_on_tokens(data, *callbacks, size=4, **options):
    module = Tokens()
    trainer = tiny.trainer(*callbacks, max_epochs=1, **options)
    trainer.fit(module, DataLoader(data, batch_size=size))
    return module


@pytest.mark.parametrize("empty", [[0], [1], [2], [0, 1], [1, 2], [3, 5]])
def test_a_micro_batch_without_a_token_counts_for_nothing_though_its_loss_is_no_number(empty):
    data = with_padding(empty)
    exact = train_on_tokens(data, ExactAccumulation(tokens), accumulate_grad_batches=3)
    assert apart(exact, train_on_tokens(data, size=12)) < 1e-12


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_without_a_token_has_a_gradient_of_zero_and_is_told_once(accumulate):
    gradients = []

    class Sees(Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            gradients.append(max(float(p.grad.abs().max()) for p in module.parameters()))

    data = with_padding([2, 3])
    exact = ExactAccumulation(tokens)
    with pytest.warns(UserWarning, match="every micro-batch of a step counts for nothing") as told:
        module = train_on_tokens(data, Sees(), exact, accumulate_grad_batches=accumulate)
    assert len([w for w in told if "counts for nothing" in str(w.message)]) == 1
    assert [gradient == 0 for gradient in gradients] == [number in (2, 3) for number in range(0, 6, accumulate)]
    assert all(p.isfinite().all() for p in module.parameters())


@pytest.mark.parametrize("given", [-1, float("nan"), float("inf"), None, "8", True, torch.zeros(3)])
def test_what_is_no_number_of_samples_is_an_error_that_names_count(given):
    trainer = tiny.trainer(ExactAccumulation(lambda batch: given), accumulate_grad_batches=2)
    with pytest.raises(ValueError, match=r"count must return .* a number of at least 0, but gave"):
        trainer.fit(tiny.TinyClassifier(), tiny.loader())
    assert trainer.global_step == 0


def test_different_counts_are_refused_and_one_serves_all():
    def fit_with(*callbacks):
        tiny.trainer(*callbacks, max_epochs=1).fit(tiny.TinyClassifier(), tiny.loader())

    def samples(batch):
        return len(batch[1])

    sizes = {"schedule": {0: 16}, "max_micro_batch": 8}
    with pytest.raises(ValueError, match="BatchSizeScheduler and ExactAccumulation have different count functions"):
        fit_with(BatchSizeScheduler(**sizes, count=samples), ExactAccumulation(len))
    fit_with(BatchSizeScheduler(**sizes, count=samples), ExactAccumulation(samples))
    fit_with(BatchSizeScheduler(**sizes), ExactAccumulation(samples))
    for make in (ExactAccumulation, lambda count: BatchSizeScheduler({0: 8}, count=count)):
        with pytest.raises(ValueError, match="count must be a function of the batch, got 8"):
            make(count=8)


# Resumed, and beside weights that no optimizer has


class KeepsItsPlace(DataLoader):
    """Goes on after a resume with the batch that would have come."""

    begun, served = 0, 0

    def __iter__(self):
        start, self.begun = self.begun, 0
        self.served = start
        for position, batch in enumerate(super().__iter__()):
            if position >= start:
                self.served += 1
                yield batch

    def state_dict(self):
        return {"served": self.served}

    def load_state_dict(self, state):
        self.begun = state["served"]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`", "ignore:You're resuming from a checkpoint")
@pytest.mark.parametrize("make", [DataLoader, KeepsItsPlace, ResumableLoader])
def test_after_a_resume_inside_an_epoch_the_loaders_own_position_counts(tmp_path, make):
    """27 samples in batches of 8, 8, 8 and 3; saved after two. A plain loader then begins with its first batch."""
    saves = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)

    def run(*callbacks, ckpt_path=None):
        module = Means(means_of_graphs)
        options = {"max_epochs": 1, "accumulate_grad_batches": 2, "enable_checkpointing": True}
        trainer = tiny.trainer(ExactAccumulation(), *callbacks, default_root_dir=tmp_path, **options)
        trainer.fit(module, loader_of("graphs", 27, 8, make=make), ckpt_path=ckpt_path)
        return module

    run(saves)
    resumed = run(ckpt_path=tmp_path / "step=1.ckpt")
    saved = torch.load(tmp_path / "step=1.ckpt", weights_only=True)
    hand = Means(means_of_graphs)
    hand.load_state_dict(saved["state_dict"])
    optimizer = hand.configure_optimizers()
    optimizer.load_state_dict(saved["optimizer_states"][0])
    rows = ragged(27)
    hand.training_step(as_graphs(rows[:16] if make is DataLoader else rows[16:]), 0).backward()
    optimizer.step()
    assert apart(resumed, hand) < 1e-12


def test_gradients_of_weights_that_no_optimizer_has_neither_count_nor_change_the_batch():
    class Probe(tiny.TinyClassifier):
        def __init__(self, frozen):
            super().__init__(dropout=0.0)
            self.net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh()).requires_grad_(not frozen)
            self.head = torch.nn.Linear(16, 3)

        def forward(self, inputs):
            return self.head(self.net(inputs))

        def configure_optimizers(self):
            return torch.optim.SGD(self.head.parameters(), lr=0.1)

    runs = []
    for frozen in (True, False):
        sizes = []

        class Sizes(Callback):
            def on_train_batch_end(self, trainer, *rest):
                sizes.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("batch/")})  # noqa: B023

        module = Probe(frozen)
        adaptive = AdaptiveBatchSize(16, 96, theta=0.5, measure_every_n_steps=1)
        tiny.trainer(adaptive, Sizes(), max_epochs=3).fit(module, tiny.loader(96))
        runs.append((sizes, tiny.state_of(module)))
    assert runs[0][0] == runs[1][0]
    assert tiny.same(runs[0][1], runs[1][1])
    assert any("batch/wanted" in values for values in runs[0][0])


def test_a_tensor_that_only_the_optimizer_knows_is_weighed_too():
    class Offset(Means):
        def __init__(self):
            super().__init__(means_of_graphs)
            self.offset = [torch.zeros(1, dtype=torch.float64, requires_grad=True)]  # no parameter of the module

        def training_step(self, batch, batch_idx):
            inputs, targets = self.means(batch)
            return mse_loss(self.net(inputs).squeeze(1) + self.offset[0], targets)

        def configure_optimizers(self):
            return torch.optim.SGD([*self.parameters(), *self.offset], lr=0.1)

    def train(size, *callbacks, **options):
        module = Offset()
        tiny.trainer(*callbacks, max_epochs=2, **options).fit(module, loader_of("graphs", 27, size))
        return module

    exact, whole = train(8, ExactAccumulation(), accumulate_grad_batches=3), train(24)
    assert apart(exact, whole) < 1e-12
    assert float((exact.offset[0] - whole.offset[0]).detach().abs()) < 1e-12
