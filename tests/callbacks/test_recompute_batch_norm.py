"""Statistics are those that a hand-written pass over the training data gives, and the run does not notice."""

import copy
from itertools import permutations
from unittest import mock

import pytest
import tiny
import torch
from lightning.pytorch import Trainer
from lightning.pytorch import callbacks as lightnings
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import get_ema_avg_fn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_gap import (
    GeneralizationGapMonitor,
    GhostBatchNormSwap,
    RecomputeBatchNorm,
    ResumableLoader,
    ResumeExactly,
)
from lightning_gap.functional import FixedSubset

needs_weight_averaging = pytest.mark.skipif(
    not hasattr(lightnings, "EMAWeightAveraging"), reason="lightning has had EMAWeightAveraging since 2.6"
)
STATISTICS = ("net.1.running_mean", "net.1.running_var")


class Watched(tiny.Validated):
    """Keeps its state as each validation sees it."""

    def __init__(self, **options):
        super().__init__(**options)
        self.seen = []

    def on_validation_batch_end(self, outputs, batch, batch_idx):
        if batch_idx == 0 and not self.trainer.sanity_checking:
            self.seen.append(tiny.state_of(self))


def fit(*callbacks, module=None, train=None, **options):
    module = module or Watched()
    torch.manual_seed(3)
    trainer = tiny.trainer(*callbacks, **options)
    shuffled = tiny.loader(shuffle=True, generator=torch.Generator().manual_seed(5))
    validation = [tiny.loader(24, seed=2)] if isinstance(module, tiny.Validated) else []
    trainer.fit(module, shuffled if train is None else train, *validation)
    return trainer, module


def by_hand(state, batches=None):
    """Mean and variance of the layer's inputs with these weights: the means over batches of 16."""
    batches = batches or FixedSubset(tiny.dataset(), chunk_size=16, seed=0)
    inputs = [x @ state["net.0.weight"].T + state["net.0.bias"] for x, _ in batches]
    return torch.stack([x.mean(0) for x in inputs]).mean(0), torch.stack([x.var(0) for x in inputs]).mean(0)


def is_exact(state, batches=None):
    return all(
        torch.allclose(state[name], value, rtol=1e-5, atol=1e-6)
        for name, value in zip(STATISTICS, by_hand(state, batches), strict=True)
    )


def test_each_validation_and_the_end_have_the_statistics_of_the_weights_as_they_are():
    _, module = fit(RecomputeBatchNorm(), max_epochs=3, val_check_interval=2)
    assert len(module.seen) == 3
    assert all(map(is_exact, [*module.seen, tiny.state_of(module)]))
    _, without = fit(max_epochs=3, val_check_interval=2)
    assert not any(map(is_exact, [*without.seen, tiny.state_of(without)]))


@pytest.mark.parametrize(("every", "exact"), [("end", [0, 0, 0, 0]), (2, [0, 1, 0, 1]), ("validation", [1, 1, 1, 1])])
def test_every_says_which_validations_and_the_end_is_exact_in_each_case(every, exact):
    _, module = fit(RecomputeBatchNorm(every), max_epochs=4)
    # an average over four steps only: it is far from exact
    assert [is_exact(state) for state in module.seen] == list(map(bool, exact))
    assert is_exact(tiny.state_of(module))


def test_the_end_is_exact_whatever_ends_the_run_and_without_validation():
    _, module = fit(RecomputeBatchNorm(), max_epochs=-1, max_steps=4)
    assert is_exact(tiny.state_of(module))
    _, module = fit(RecomputeBatchNorm("end"), module=tiny.TinyClassifier(), max_epochs=1)
    assert is_exact(tiny.state_of(module))


def test_training_goes_on_to_the_bit_as_without_it():
    """With dropout, and a loader that shuffles by its own generator."""
    plain, without = fit()
    seen, module = fit(RecomputeBatchNorm())
    for name, value in tiny.state_of(without).items():
        assert torch.equal(value, module.state_dict()[name]) == (name not in STATISTICS), name
    assert tiny.same(plain.optimizers[0].state_dict(), seen.optimizers[0].state_dict())
    for key in ("loss", "loss_step", "loss_epoch"):
        assert torch.equal(plain.callback_metrics[key], seen.callback_metrics[key]), key
    assert not torch.equal(plain.callback_metrics["val_loss"], seen.callback_metrics["val_loss"])
    assert torch.equal(torch.get_rng_state(), _state_after(fit))
    modes = [[part.training for part in each.modules()] for each in (without, module)]
    assert modes[0] == modes[1]


def _state_after(run):
    run(RecomputeBatchNorm())
    state = torch.get_rng_state()
    run()
    assert torch.equal(state, torch.get_rng_state())
    return state


def test_the_sanity_check_is_left_alone():
    class Checked(tiny.Validated):
        def on_validation_end(self):
            self.states = [*getattr(self, "states", []), tiny.state_of(self)]

    module = Checked()
    fresh = tiny.state_of(module)
    fit(RecomputeBatchNorm(), module=module, num_sanity_val_steps=1)
    assert tiny.same(module.states[0], fresh)
    assert is_exact(module.states[1])


def test_ghost_layers_get_the_statistics_of_whole_batches_in_any_order():
    ends = []
    for order in permutations([GhostBatchNormSwap(4), RecomputeBatchNorm(), GeneralizationGapMonitor(samples=20)]):
        trainer, module = fit(*copy.deepcopy(order))
        assert all(map(is_exact, module.seen))
        ends.append((tiny.state_of(module), trainer.callback_metrics["gap/loss"]))
    assert is_exact(ends[0][0])
    assert all(tiny.same(ends[0], other) for other in ends)


def test_batches_are_drawn_once_by_seed_and_data_is_taken_as_it_is():
    _, module = fit(RecomputeBatchNorm(batches=2, seed=1))
    assert is_exact(tiny.state_of(module), FixedSubset(tiny.dataset(), samples=32, chunk_size=16, seed=1))
    own = list(tiny.loader(30, batch_size=10, seed=9))
    _, module = fit(RecomputeBatchNorm(data=own))
    assert is_exact(tiny.state_of(module), own)
    _, module = fit(RecomputeBatchNorm(), limit_train_batches=2)
    assert is_exact(tiny.state_of(module), FixedSubset(tiny.dataset(), samples=32, chunk_size=16, seed=0))


class TwoNorms(Watched):
    def __init__(self):
        super().__init__()
        self.net.append(nn.BatchNorm1d(3))

    def on_train_epoch_start(self):
        self.net[1].eval()


def test_a_frozen_layer_keeps_its_statistics_and_training_reads_them_as_ever():
    _, without = fit(module=TwoNorms())
    _, module = fit(RecomputeBatchNorm(), module=TwoNorms())
    ends = tiny.state_of(without), tiny.state_of(module)
    changed = {name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])}
    assert changed == {"net.5.running_mean", "net.5.running_var"}
    net = module.net.eval()
    inputs = [net[:5](x) for x, _ in FixedSubset(tiny.dataset(), chunk_size=16, seed=0)]
    torch.testing.assert_close(net[5].running_mean, torch.stack([x.mean(0) for x in inputs]).mean(0).detach())


@pytest.mark.filterwarnings("ignore:Found 1 module")
def test_where_all_layers_are_frozen_a_warning_says_that_they_stay():
    class Frozen(tiny.Validated):
        def __init__(self):
            super().__init__()
            self.net[1].eval()

    module = Frozen()
    with pytest.warns(UserWarning, match="all BatchNorm layers are in evaluation mode"):
        fit(RecomputeBatchNorm(), module=module)
    assert torch.equal(module.net[1].running_mean, torch.zeros(16))


def saved_states(folder):
    return [torch.load(path, weights_only=True)["state_dict"] for path in sorted(folder.glob("*.ckpt"))]


@needs_weight_averaging
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("use_buffers", [True, False])
def test_averaged_weights_get_statistics_of_their_own_also_in_checkpoints(first, use_buffers, tmp_path):
    averaging = lightnings.EMAWeightAveraging(decay=0.8, use_buffers=use_buffers)
    saving = ModelCheckpoint(tmp_path, monitor="val_loss", save_top_k=-1)
    pair = [RecomputeBatchNorm(), averaging] if first else [averaging, RecomputeBatchNorm()]
    trainer, module = fit(*pair, saving, max_epochs=2, enable_checkpointing=True)
    trainer.save_checkpoint(tmp_path / "z.ckpt")
    saved = saved_states(tmp_path)
    assert len(module.seen) == 2
    assert len(saved) == 3
    assert all(map(is_exact, [*module.seen, *saved, tiny.state_of(module)]))
    _, plain = fit()
    assert not torch.equal(plain.net[0].weight, module.net[0].weight)  # it is the average
    assert all(tiny.same(mine, theirs) for mine, theirs in zip(module.seen, saved[:2], strict=True))
    _, alone = fit(lightnings.EMAWeightAveraging(decay=0.8, use_buffers=use_buffers), max_epochs=2)
    assert tiny.same(list(alone.parameters()), list(module.parameters()))
    assert not is_exact(tiny.state_of(alone))


@needs_weight_averaging
@pytest.mark.parametrize("first", [True, False])
def test_an_average_that_is_updated_after_the_last_validation_is_exact_at_the_end(first, tmp_path):
    class ByEpoch(lightnings.WeightAveraging):
        def should_update(self, step_idx=None, epoch_idx=None):
            return epoch_idx is not None

    averaging = ByEpoch(avg_fn=get_ema_avg_fn(0.5))
    last = ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, every_n_epochs=9)
    pair = [RecomputeBatchNorm("end"), averaging] if first else [averaging, RecomputeBatchNorm("end")]
    trainer, module = fit(*pair, last, max_epochs=3, enable_checkpointing=True)
    trainer.save_checkpoint(tmp_path / "z.ckpt")
    assert all(map(is_exact, [tiny.state_of(module), *saved_states(tmp_path)]))


@pytest.mark.parametrize("first", [True, False])
def test_beside_lightnings_stochastic_weight_averaging_the_average_is_exact(first):
    pair = [StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=1), RecomputeBatchNorm()]
    _, module = fit(*(pair if first else pair[::-1]), max_epochs=3)
    assert is_exact(tiny.state_of(module))
    assert module.net[1].momentum == 0.1


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_checkpoints_after_a_validation_hold_what_was_validated_and_resume_to_the_bit(tmp_path):
    def run(*saving, ckpt_path=None):
        module = Watched(dropout=0.0)
        trainer = tiny.trainer(RecomputeBatchNorm(), *saving, max_epochs=3, enable_checkpointing=bool(saving))
        trainer.fit(module, tiny.loader(), tiny.loader(24, seed=2), ckpt_path=ckpt_path)
        return module

    whole = run(ModelCheckpoint(tmp_path, save_top_k=-1, every_n_epochs=1, filename="{epoch}"))
    assert list(map(is_exact, saved_states(tmp_path))) == [True] * 3
    resumed = run(ckpt_path=tmp_path / "epoch=0.ckpt")
    assert tiny.same(whole.seen[1:], resumed.seen)
    assert tiny.same(tiny.state_of(whole), tiny.state_of(resumed))


class Stepwise(tiny.Validated):
    """Keeps its state as each step leaves it."""

    def __init__(self):
        super().__init__()
        self.after = {}

    def on_train_batch_end(self, *_):
        self.after[self.trainer.global_step] = tiny.state_of(self)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
@pytest.mark.parametrize("validates", [{}, {"val_check_interval": 2}, {"check_val_every_n_epoch": 2}])
def test_a_run_resumed_from_any_step_goes_on_to_the_bit_also_without_the_validation_that_was_due_there(
    tmp_path, validates
):
    def run(*saving, ckpt_path=None):
        module, data = Stepwise(), list(tiny.loader(24, seed=2))
        gap = GeneralizationGapMonitor(validation_data=data, max_time_share=None)
        callbacks = [RecomputeBatchNorm(), gap, ResumeExactly(), *saving]
        trainer = tiny.trainer(*callbacks, max_epochs=3, enable_checkpointing=bool(saving), **validates)
        loader = ResumableLoader(tiny.dataset(), batch_size=16, shuffle=True, seed=0)
        trainer.fit(module, loader, tiny.loader(24, seed=2), ckpt_path=ckpt_path)
        return module.after, gap.history

    saving = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    states, measured = run(saving)
    for step in range(1, 9):
        after, again = run(ckpt_path=tmp_path / f"step={step}.ckpt")
        assert tiny.same(after, {later: states[later] for later in range(step + 1, 10)}), step
        assert again == measured


@needs_weight_averaging
def test_a_checkpoint_with_the_batch_before_a_validation_of_the_average_is_left_as_it_is(tmp_path):
    averaging = lightnings.EMAWeightAveraging(decay=0.8)
    for name, callbacks in {"without": [], "with": [RecomputeBatchNorm()]}.items():
        saving = ModelCheckpoint(tmp_path / name, filename="{step}", save_top_k=-1, every_n_train_steps=1)
        fit(*callbacks, copy.deepcopy(averaging), saving, max_epochs=1, enable_checkpointing=True)
    assert tiny.same(saved_states(tmp_path / "with"), saved_states(tmp_path / "without"))


def test_a_run_resumed_after_its_last_step_ends_exact(tmp_path):
    trainer, _ = fit()
    trainer.save_checkpoint(tmp_path / "done.ckpt")
    module = tiny.TinyClassifier()
    tiny.trainer(RecomputeBatchNorm("end")).fit(module, tiny.loader(), ckpt_path=tmp_path / "done.ckpt")
    assert is_exact(tiny.state_of(module))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_resumed_from_its_last_batch_ends_exact(tmp_path):
    """Saved before the end of the epoch: Lightning then begins and ends training without a batch."""
    fit(ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1), enable_checkpointing=True)
    last = max(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.removeprefix("step=")))
    assert not is_exact(torch.load(last, weights_only=True)["state_dict"])
    module = tiny.TinyClassifier()
    tiny.trainer(RecomputeBatchNorm("end")).fit(module, tiny.loader(), ckpt_path=last)
    assert is_exact(tiny.state_of(module))


TOLD = []  # of a module's state nothing is left


class Odd(tiny.Validated):
    """Needs gradients, skips some batches, keeps something, and tells where it ran."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.kept = []

    def training_step(self, batch, batch_idx):
        x = batch[0].requires_grad_()
        loss = cross_entropy(self(x), batch[1])
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        self.kept.append(float(loss.detach()))
        if self.trainer.validating:
            TOLD.append((torch.is_autocast_enabled("cpu"), self.net[1].training, self.net[3].training))
            return None
        return loss + gradient.square().sum()


def test_a_step_of_any_kind_is_run_as_validation_runs_and_leaves_nothing():
    TOLD.clear()
    module = Odd()
    fit(RecomputeBatchNorm(batches=2), module=module, precision="bf16-mixed", max_epochs=2)
    by_batch = (True, True, False)
    assert TOLD[0] == by_batch
    assert TOLD.count(by_batch) == 1 + 3 * 2  # tried out on one; two validations and the end
    assert len(module.kept) == 2 * 3  # the training's own


class Manual(tiny.TinyClassifier):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(cross_entropy(self(batch[0]), batch[1]))
        optimizer.step()


def test_loss_fn_stands_in_for_a_step_that_trains():
    _, module = fit(RecomputeBatchNorm(loss_fn=lambda m, b: m(b[0]).sum()), module=Manual())
    assert is_exact(tiny.state_of(module))


def refused(callback, message, *others, module=None, train=None, **options):
    module = module or tiny.TinyClassifier()
    before = tiny.state_of(module)
    trainer = tiny.trainer(callback, *others, **options)
    with pytest.raises(ValueError, match=message):
        trainer.fit(module, tiny.loader() if train is None else train)
    assert trainer.global_step == 0
    assert tiny.same(tiny.state_of(module), before)


class Plain(tiny.TinyClassifier):
    def __init__(self, norm=None):
        super().__init__()
        self.net[1] = norm or nn.Identity()


class Stream(IterableDataset):
    def __iter__(self):
        return iter([tiny.dataset()[i] for i in range(48)])


class Fails(tiny.TinyClassifier):
    def training_step(self, batch, batch_idx):
        if not self.net[3].training:
            raise KeyError("only for training")
        return super().training_step(batch, batch_idx)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Plain, "needs BatchNorm layers with running statistics, and Plain has none"),
        (lambda: Plain(nn.BatchNorm1d(16, track_running_stats=False)), "Plain has 1 without running statistics"),
        (Manual, "Manual optimizes manually.*pass loss_fn="),
        (Fails, "cannot be measured in evaluation mode: KeyError: .*only for training.*; pass a loss_fn"),
    ],
)
def test_a_module_without_such_statistics_is_refused_before_the_first_step(module, message):
    refused(RecomputeBatchNorm(), message, module=module())


def test_what_cannot_work_is_refused_before_the_first_step():
    refused(RecomputeBatchNorm(), "no data set of single samples", train=DataLoader(Stream(), batch_size=16))
    refused(RecomputeBatchNorm(data=[]), "no batches to gather statistics on; pass data=")
    refused(RecomputeBatchNorm(), "both recompute the running statistics", RecomputeBatchNorm("end"))


def test_sync_batch_norm_is_refused_with_what_to_do():
    try:
        with mock.patch.dict("os.environ"):
            refused(
                RecomputeBatchNorm(),
                r"use Trainer\(sync_batchnorm=False\)",
                sync_batchnorm=True,
                strategy="ddp",
                devices=1,
            )
    finally:
        torch.distributed.destroy_process_group()


def test_sync_batch_norm_layers_made_by_hand_are_refused_on_several_processes_alone():
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(tiny.TinyClassifier())
    with mock.patch.object(Trainer, "world_size", 2):  # refused in setup, before the two would speak
        refused(RecomputeBatchNorm(), "SyncBatchNorm layers.*use.* BatchNorm layers", module=synchronised)


@pytest.mark.filterwarnings("ignore:A layer with UninitializedParameter")
def test_lazy_layers_are_refused_by_name():
    class Lazy(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 16), nn.LazyBatchNorm1d(), nn.Linear(16, 3))

    with pytest.raises(ValueError, match=r"RecomputeBatchNorm .*net\.1\.weight of Lazy is lazy.*run one batch"):
        fit(RecomputeBatchNorm(), module=Lazy())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": "epoch"}, "every must be one of 'validation', 'end', got 'epoch'"),
        ({"every": 0}, "every must be a whole number of epochs, at least 1, got 0"),
        ({"every": True}, "every must be a whole number"),
        ({"batches": 0}, "batches must be a whole number, at least 1, got 0"),
        ({"batches": 2, "data": [torch.ones(2)]}, "batches=2 are drawn from the train loader, not from data"),
        ({"data": torch.ones(2)}, "data must be a list of batches"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"loss_fn": "mse"}, "loss_fn must be a function of"),
    ],
)
def test_bad_arguments_are_refused_by_name_and_value(arguments, message):
    with pytest.raises(ValueError, match=message):
        RecomputeBatchNorm(**arguments)


def test_a_user_without_any_validation_loader_and_a_dataset_of_dicts():
    class Dicts(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return cross_entropy(self(batch["x"]), batch["y"])

    samples = [{"x": x, "y": y} for x, y in TensorDataset(*tiny.dataset().tensors)]
    module = Dicts()
    tiny.trainer(RecomputeBatchNorm()).fit(module, DataLoader(samples, batch_size=16))
    assert is_exact(tiny.state_of(module))
