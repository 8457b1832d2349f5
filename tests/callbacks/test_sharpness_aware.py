"""Sharpness-aware minimization in a user's own fit, against two passes by hand in float64."""

import csv
import math

import pytest
import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from pytorch_optimizer import SAM
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset

from lightning_gap import (
    AdaptiveBatchSize,
    AdversarialTraining,
    BatchSizeScheduler,
    ExactAccumulation,
    GradientPenalty,
    ResumableLoader,
    ResumeExactly,
    SharpnessAwareMinimization,
)
from lightning_gap.callbacks import _sharing
from lightning_gap.functional import SmithGrowth
from lightning_gap.trainer import closures
from lightning_gap.trainer.closures import MicroBatch


class Normed(tiny.TinyClassifier):
    """BatchNorm, LayerNorm, dropout, momentum and weight decay."""

    def __init__(self):
        super().__init__(dropout=0.3)
        self.net.append(nn.LayerNorm(3))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.learning_rate, momentum=0.9, weight_decay=0.01)


class Freezes(Normed):
    """In each epoch parts of its own."""

    def __init__(self, frozen):
        super().__init__()
        self.frozen = frozen

    def on_train_epoch_start(self):
        freeze(self, self.frozen[self.current_epoch])


def freeze(module, names):
    for name, weight in module.named_parameters():
        weight.requires_grad_(not name.startswith(names))


def fit(plugin, *callbacks, module=None, batch_size=8, loader=None, **options):
    module = module or Normed()
    trainer = tiny.trainer(plugin, *callbacks, **({"precision": "64-true"} | options))
    torch.manual_seed(5)
    trainer.fit(module, tiny.loader(46, batch_size=batch_size) if loader is None else loader)
    return trainer, tiny.state_of(module)


def by_hand(
    *, rho, adaptive=False, norm="l2", eta=0.01, m="step", only=(), from_step=0, every=1, clip=None, frozen=((), ())
):
    """Two epochs of steps over three batches of at most 8 samples each, weighed by their samples."""
    module = Normed().double()
    optimizer = module.configure_optimizers()
    torch.manual_seed(5)
    steps = 0
    for epoch in range(2):
        freeze(module, frozen[epoch])
        optimizer.zero_grad()
        named = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        moved = {name: weight for name, weight in named.items() if not only or name.startswith(only)}
        batches = [(x.double(), y) for x, y in tiny.loader(46, batch_size=8)]
        for window in (batches[:3], batches[3:]):
            samples = sum(len(y) for _, y in window)
            losses = [lambda x=x, y=y, n=samples: cross_entropy(module(x), y) * len(y) / n for x, y in window]
            sharp = steps >= from_step and steps % every == 0
            passes = [[loss] for loss in losses] if m == "micro_batch" and sharp else [losses]
            summed = dict.fromkeys(named, 0.0)
            for group in passes:
                states = []
                module.zero_grad()
                for loss in group:
                    states.append(torch.get_rng_state())
                    loss().backward()
                if sharp:
                    second_pass(module, moved, group, states, rho, adaptive, norm, eta)
                summed = {name: summed[name] + weight.grad for name, weight in named.items()}
            for name, weight in named.items():
                weight.grad = summed[name]
            if clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), clip)
            optimizer.step()
            steps += 1
    return tiny.state_of(module)


def second_pass(module, moved, losses, states, rho, adaptive, norm, eta):
    scales = {
        name: weight.detach().abs() + eta if adaptive and not name.endswith("bias") else torch.ones_like(weight)
        for name, weight in moved.items()
    }
    along = {name: scales[name] * weight.grad for name, weight in moved.items()}
    length = math.sqrt(sum(float((part**2).sum()) for part in along.values()))
    before = {name: weight.detach().clone() for name, weight in moved.items()}
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with torch.no_grad():
        for name, weight in moved.items():
            weight += rho * scales[name] * (along[name].sign() if norm == "max" else along[name] / length)
    after_first = torch.get_rng_state()
    module.zero_grad()
    for loss, state in zip(losses, states, strict=True):
        torch.set_rng_state(state)
        loss().backward()
    torch.set_rng_state(after_first)
    with torch.no_grad():
        for name, weight in moved.items():
            weight.copy_(before[name])
        for name, buffer in module.named_buffers():
            buffer.copy_(buffers[name])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"rho": 0.1}, {}),
        ({}, {"rho": 0.05}),
        ({"adaptive": True}, {"rho": 0.5}),
        ({"rho": 1.0, "adaptive": True, "eta": 0.0}, {}),
        ({"rho": 0.01, "norm": "max"}, {}),
        ({"rho": 0.1, "norm": "max", "adaptive": True}, {}),
        ({"rho": 0.5, "perturb": "norm_layers"}, {"perturb": None, "only": ("net.1", "net.5")}),
        ({"rho": 0.2, "m": 8}, {"m": "micro_batch"}),
        ({"rho": 0.2, "m": 24}, {"m": "step"}),
        ({"rho": 0.2, "start": 0.5}, {"start": None, "from_step": 2}),
        ({"rho": 0.2, "every_n_steps": 2}, {"every_n_steps": None, "every": 2}),
    ],
    ids=str,
)
@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_fit_is_the_loop_by_hand(given, expected, clip):
    options = {"accumulate_grad_batches": 3, "gradient_clip_val": clip}
    _, found = fit(SharpnessAwareMinimization(**given), ExactAccumulation(), **options)
    by = {name: value for name, value in {**given, **expected}.items() if value is not None}
    torch.testing.assert_close(found, by_hand(**by, clip=clip), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("adaptive", [False, True])
def test_a_fit_is_that_of_pytorch_optimizer_in_a_plain_loop(adaptive):
    """Step for step where theirs is right: a batch a step, the gradient taken before `step`; they adapt biases too."""

    class WithoutBiases(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Tanh(), nn.Linear(16, 3, bias=False))

    module = WithoutBiases().double()
    options = {"lr": module.learning_rate, "momentum": 0.9}
    theirs = SAM(module.parameters(), torch.optim.SGD, rho=0.3, adaptive=adaptive, perturb_eps=0.0, **options)
    after = []
    for x, y in [*tiny.loader(46, batch_size=8)] * 2:

        def closure(x=x, y=y):
            theirs.zero_grad()
            loss = cross_entropy(module(x.double()), y)
            loss.backward()
            return loss

        closure()
        theirs.step(closure)
        after.append(tiny.state_of(module))

    ours, steps = WithoutBiases(), iter(after)

    class Compare(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            # They keep the norm in float32.
            torch.testing.assert_close(tiny.state_of(pl_module), next(steps), rtol=0, atol=1e-8)

    fit(SharpnessAwareMinimization(0.3, adaptive=adaptive, eta=0.0), Compare(), module=ours)
    assert next(steps, None) is None


@pytest.mark.parametrize(
    ("given", "only", "frozen"),
    [({}, (), (("net.0", "net.1"), ())), ({"perturb": "norm_layers"}, ("net.1", "net.5"), ((), ("net.1", "net.5")))],
    ids=["unfrozen in the second epoch", "norm layers frozen in it"],
)
def test_the_weights_that_are_trained_now_are_perturbed(given, only, frozen):
    options = {"accumulate_grad_batches": 3, "module": Freezes(frozen)}
    _, found = fit(SharpnessAwareMinimization(0.5, **given), ExactAccumulation(), **options)
    expected = by_hand(rho=0.5, only=only, frozen=frozen)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_biases_of_recurrent_layers_are_not_adapted():
    """In Kwon et al.'s code T is ``|w| + eta`` for weights alone; here the scale of each entry is measured."""
    seen = []

    class Recurrent(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.net = nn.GRU(8, 3, batch_first=True)

        def training_step(self, batch, batch_idx):
            seen.append(tiny.state_of(self.net))
            return cross_entropy(self.net(batch[0][:, None])[0][:, 0], batch[1])

    module = Recurrent()
    fit(SharpnessAwareMinimization(0.5, adaptive=True, eta=0.01), module=module, max_epochs=1, limit_train_batches=1)
    fresh = Recurrent().double()
    fresh.training_step(
        [x.double() if x.is_floating_point() else x for x in next(iter(tiny.loader(46, batch_size=8)))], 0
    ).backward()
    weights = dict(fresh.net.named_parameters())
    scales = {
        name: 1.0 if name.startswith("bias") else weight.detach().abs() + 0.01 for name, weight in weights.items()
    }
    along = {name: scales[name] * weight.grad for name, weight in weights.items()}
    length = torch.cat([part.flatten() for part in along.values()]).norm()
    moved = {name: seen[1][name] - seen[0][name] for name in weights}
    expected = {name: 0.5 * scales[name] * along[name] / length for name in weights}
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=1e-12)


def test_the_step_on_a_quadratic_is_the_closed_form():
    """The gradient of ``w A w / 2`` at ``w + rho A w / |A w|``; in one dimension descent ends in a known orbit."""

    class Quadratic(tiny.TinyClassifier):
        def __init__(self, a, w):
            super().__init__()
            self.net = None
            self.a, self.w = a, nn.Parameter(w)

        def training_step(self, batch, batch_idx):
            return self.w @ self.a @ self.w / 2

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.3)

    a, w = torch.tensor([[2.0, 0.5], [0.5, 1.0]]).double(), torch.tensor([1.0, -2.0]).double()
    module = Quadratic(a, w.clone())
    fit(SharpnessAwareMinimization(0.1), module=module, max_epochs=1, limit_train_batches=1)
    slope = a @ w
    expected = w - 0.3 * (slope + 0.1 * a @ slope / slope.norm())
    torch.testing.assert_close(module.w.detach(), expected, rtol=1e-14, atol=0)

    one = Quadratic(torch.tensor([[2.0]]).double(), torch.tensor([1.0]).double())
    fit(SharpnessAwareMinimization(0.05), module=one, max_epochs=20)
    assert abs(float(one.w.detach())) == pytest.approx(0.3 * 2 * 0.05 / (2 - 0.3 * 2), rel=1e-9)


def sees_losses():
    """A module, and the list that gets the loss of each of its passes."""
    seen = []

    class Sees(Normed):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            seen.append(float(loss.detach()))
            return loss

    return Sees(), seen


@pytest.mark.parametrize("m", [None, 8])
def test_what_is_logged_is_the_mean_rise_of_the_loss_over_the_step(m):
    module, seen = sees_losses()
    options = {"max_epochs": 1, "limit_train_batches": 2, "accumulate_grad_batches": 2}
    trainer, _ = fit(SharpnessAwareMinimization(0.1, m=m), module=module, **options)
    pairs = zip(seen[:2], seen[2:], strict=True) if m is None else (seen[:2], seen[2:])
    rises = [second - first for first, second in pairs]
    assert float(trainer.callback_metrics["sam/rise"]) == pytest.approx(sum(rises) / 2)
    assert min(rises) > 0


def test_the_rise_of_the_last_perturbed_step_is_logged_where_lightning_logs(tmp_path):
    module, seen = sees_losses()
    options = {"every_n_steps": 2, "start": 0.3}
    logger = CSVLogger(tmp_path)
    fit(SharpnessAwareMinimization(0.1, **options), module=module, max_epochs=1, log_every_n_steps=2, logger=logger)
    with open(logger.experiment.metrics_file_path) as file:
        logged = {int(row["step"]): float(row["sam/rise"]) for row in csv.DictReader(file) if row["sam/rise"]}
    # Six steps: the third and the fifth are perturbed; the second, the fourth and the sixth are logged.
    _, _, third, third_again, _, fifth, fifth_again, _ = seen
    assert logged == pytest.approx({3: third_again - third, 5: fifth_again - fifth})


class Stream(IterableDataset):
    def __iter__(self):
        return iter(tiny.dataset(46))


def test_a_late_start_of_a_run_without_length_comes_at_an_epochs_start_or_is_refused():
    def fit_stream(start, epochs):
        calls = []

        class Counts(Normed):
            def training_step(self, batch, batch_idx):
                calls.append(self.current_epoch)
                return super().training_step(batch, batch_idx)

        plugin = SharpnessAwareMinimization(0.1, start=start)
        fit(plugin, module=Counts(), loader=DataLoader(Stream(), batch_size=8), max_epochs=epochs)
        return calls

    assert fit_stream(0.5, 2) == [0] * 6 + [1] * 12
    for start, epochs in ((0.1, 1), (0.6, 2)):
        with pytest.raises(ValueError, match=rf"start={start} .*max_epochs={epochs}.*max_steps"):
            fit_stream(start, epochs)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("options", [{"m": 8}, {"start": 0.4}, {"every_n_steps": 2}], ids=str)
def test_resumed_at_every_step_it_is_the_same(options, tmp_path):
    saves = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)

    def run(*callbacks, **more):
        module = Normed()
        options = {"accumulate_grad_batches": 2, "precision": "64-true", "enable_checkpointing": saves in callbacks}
        trainer = tiny.trainer(*callbacks, ResumeExactly(), **options)
        torch.manual_seed(5)
        trainer.fit(module, ResumableLoader(tiny.dataset(46), batch_size=8, seed=3), **more)
        return tiny.state_of(module)

    whole = run(SharpnessAwareMinimization(0.1, **options), saves)
    files = sorted(tmp_path.glob("*.ckpt"))
    assert len(files) == 6
    for file in files[:-1]:
        module_state = run(SharpnessAwareMinimization(0.1, **options), ckpt_path=file)
        assert tiny.same(module_state, whole)


def test_m_follows_a_batch_that_grows():
    growth = SmithGrowth(16, [1], 32, factor=2.0)
    fit(SharpnessAwareMinimization(0.1, m=8), BatchSizeScheduler(growth, max_micro_batch=8), precision="32-true")
    with pytest.raises(ValueError, match=r"m=16.*8 or 32"):
        fit(SharpnessAwareMinimization(0.1, m=16), BatchSizeScheduler(growth, max_micro_batch=8))


@pytest.mark.parametrize(("m", "told"), [(24, "step"), (8, "micro_batch")])
def test_m_follows_lightnings_own_schedule_of_the_accumulation(m, told):
    schedule = GradientAccumulationScheduler({0: 3, 2: 5})  # an epoch that does not come
    _, found = fit(SharpnessAwareMinimization(0.2, m=m), ExactAccumulation(), schedule)
    torch.testing.assert_close(found, by_hand(rho=0.2, m=told), rtol=1e-12, atol=1e-13)
    with pytest.raises(ValueError, match=r"m=24.*8 or 40"):
        fit(SharpnessAwareMinimization(0.2, m=24), GradientAccumulationScheduler({0: 3, 1: 5}))


@pytest.mark.parametrize(
    "sizes",
    [
        lambda: GradientAccumulationScheduler({0: 1, 1: 4}),
        lambda: BatchSizeScheduler({0: 8, 1: 32}, max_micro_batch=8),
    ],
    ids=["Lightning's", "ours"],
)
def test_m_beside_a_plugin_that_will_see_another_gradient_is_refused_before_the_first_step(sizes):
    """In the first epoch a micro-batch is the whole step."""
    module, told = Normed(), r"m=8.*of a micro-batch, AdversarialTraining that of a step, with 4 batches of 8"
    before = tiny.state_of(module)
    with pytest.raises(ValueError, match=told):
        fit(SharpnessAwareMinimization(m=8), AdversarialTraining(0.1), sizes(), module=module, precision="32-true")
    assert tiny.same(tiny.state_of(module), before)
    fit(SharpnessAwareMinimization(m=8), GradientPenalty(0.1, m=8), sizes(), precision="32-true")


def test_m_of_a_batch_whose_size_is_decided_during_the_run_is_refused_at_the_start():
    module = Normed()
    before = tiny.state_of(module)
    with pytest.raises(ValueError, match=r"m=8 samples .*decided as it goes; leave m out, or .*BatchSizeScheduler"):
        fit(SharpnessAwareMinimization(m=8), AdaptiveBatchSize(8, 32), module=module, precision="32-true")
    assert tiny.same(tiny.state_of(module), before)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"rho": 0}, "rho"),
        ({"rho": float("nan")}, "rho"),
        ({"norm": "max"}, "rho"),
        ({"norm": "l1"}, "norm"),
        ({"adaptive": "False"}, "adaptive"),
        ({"eta": -1}, "eta"),
        ({"m": 0}, "m"),
        ({"perturb": "bn"}, "perturb"),
        ({"start": 1.0}, "start"),
        ({"every_n_steps": 0}, "every_n_steps"),
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments, told):
    with pytest.raises(ValueError, match=rf"^{told} must"):
        SharpnessAwareMinimization(**arguments)


@pytest.mark.filterwarnings("ignore:A layer with UninitializedParameter", "ignore:`LightningModule.configure_opt")
def test_what_cannot_work_is_refused_before_the_first_step():
    class Plain(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(8, 3)

    class Lazy(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.LazyLinear(16), nn.LazyBatchNorm1d(), nn.Linear(16, 3))

    class Untrained(tiny.TinyClassifier):
        def configure_optimizers(self):
            return None

    class Manual(tiny.TinyClassifier):
        automatic_optimization = False

    cases = [
        (SharpnessAwareMinimization(), Lazy(), {}, r"net\.0\.weight of Lazy is lazy .*; run one batch"),
        (SharpnessAwareMinimization(), Untrained(), {}, "configure_optimizers of Untrained gives no optimizer.*return"),
        (SharpnessAwareMinimization(), Manual(), {}, "automatic_optimization=False.*one with several parameter groups"),
        (SharpnessAwareMinimization(perturb="norm_layers"), Plain(), {}, "perturb='norm_layers'"),
        (SharpnessAwareMinimization(m=5), None, {}, "m=5.*8"),
        (SharpnessAwareMinimization(start=0.5), None, {"max_epochs": -1, "max_time": "00:00:00:20"}, "start=0.5"),
        (SharpnessAwareMinimization(), None, {"precision": "bf16-true"}, "bfloat16"),
    ]
    for plugin, module, options, told in cases:
        with pytest.raises(ValueError, match=told):
            fit(plugin, module=module, **options)


def test_a_step_that_is_not_perturbed_asks_neither_batch_nor_loader(monkeypatch):
    made, read = [], []
    monkeypatch.setattr(closures, "MicroBatch", lambda *args: made.append(args) or MicroBatch(*args))
    shared = _sharing.SharingPlugin._shared_by
    monkeypatch.setattr(_sharing.SharingPlugin, "_shared_by", lambda *args: read.append(args) or shared(*args))

    class See(Callback):
        def on_train_batch_end(self, *_):
            counts.append((len(made), len(read)))

    counts = []
    fit(SharpnessAwareMinimization(0.1, m=8, start=0.5), See(), max_epochs=2)  # of six batches each
    first, *later = counts
    assert later[:5] == [first] * 5  # what the very first has looked at
    assert later[-1] == (first[0] + 6, first[1] + 6)
