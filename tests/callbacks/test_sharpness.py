import itertools
import math
import warnings
from unittest import mock

import numpy as np
import pytest
import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from lightning_gap import SharpnessMonitor
from lightning_gap.functional import DatasetLoss, RandomSubspace, batch_statistics, normalized_logit_loss, sharpness


class Recompute(Callback):
    """Measures the same thing at the same moment, by hand and without our callback."""

    def __init__(self, *, use_batch_statistics=False):
        self.use_batch_statistics = use_batch_statistics
        self.values = []

    def on_train_epoch_end(self, trainer, pl_module):
        model = nn.Sequential(*(layer for layer in pl_module.net))
        modes = [layer.training for layer in model]
        x, y = tiny.dataset().tensors
        model.eval()
        context = batch_statistics(model) if self.use_batch_statistics else torch.enable_grad()
        with context:
            result = sharpness(lambda: cross_entropy(model(x), y), model.parameters(), epsilon=1e-3, max_evaluations=5)
        self.values.append((result.percent, result.loss, result.gradient_norm))
        for layer, mode in zip(model, modes, strict=True):
            layer.train(mode)


class Watch(Callback):
    def __init__(self):
        self.epochs, self.values = [], []

    def on_train_epoch_end(self, trainer, pl_module):
        keys = ("sharpness/full_eps1e-3", "sharpness/loss", "sharpness/gradient_norm")
        if keys[0] in trainer.callback_metrics:
            values = tuple(float(trainer.callback_metrics[key]) for key in keys)
            if not self.values or values != self.values[-1]:
                self.epochs.append(trainer.current_epoch)
                self.values.append(values)


@pytest.mark.parametrize("mode", ["running", "batch"])
def test_it_logs_what_the_function_finds_on_all_samples(mode):
    by_hand, watch = Recompute(use_batch_statistics=mode == "batch"), Watch()
    monitor = SharpnessMonitor(1e-3, samples=1000, batch_norm=mode)
    tiny.trainer(by_hand, monitor, watch, max_epochs=3).fit(tiny.TinyClassifier(), tiny.loader())
    assert len(watch.values) == 3
    for seen, expected in zip(watch.values, by_hand.values, strict=True):
        assert seen == pytest.approx(expected, rel=2e-3)  # float32, logged as float32


def test_chunks_do_not_change_the_value_with_running_statistics():
    found = []
    for chunk_size in (48, 7):
        watch = Watch()
        monitor = SharpnessMonitor(1e-3, samples=48, chunk_size=chunk_size)
        tiny.trainer(monitor, watch, max_epochs=1).fit(tiny.TinyClassifier(), tiny.loader())
        found.append(watch.values[0])
    assert found[0] == pytest.approx(found[1], rel=1e-3)


def test_it_measures_every_nth_epoch_and_the_last():
    watch = Watch()
    tiny.trainer(SharpnessMonitor(1e-3, every_n_epochs=3), watch, max_epochs=5).fit(
        tiny.TinyClassifier(), tiny.loader()
    )
    assert watch.epochs == [2, 4]


@pytest.mark.bad_input(54)
def test_a_loss_function_replaces_training_step():
    class Manual(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch, batch_idx):
            self.optimizers().zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            self.optimizers().step()

    with pytest.raises(ValueError, match=r"Manual optimizes manually.*pass loss_fn"):
        tiny.trainer(SharpnessMonitor()).fit(Manual(), tiny.loader())
    watch = Watch()
    monitor = SharpnessMonitor(1e-3, loss_fn=lambda module, batch: cross_entropy(module(batch[0]), batch[1]))
    tiny.trainer(monitor, watch, max_epochs=1).fit(Manual(), tiny.loader())
    assert watch.values[0][0] > 0


def test_given_batches_replace_the_subset():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(tiny.dataset(24))

    stream = torch.utils.data.DataLoader(Stream(), batch_size=8)
    with pytest.raises(ValueError, match=r"cannot draw a fixed subset from DataLoader.*pass data=\.\.\."):
        tiny.trainer(SharpnessMonitor()).fit(tiny.TinyClassifier(), stream)
    watch = Watch()
    monitor = SharpnessMonitor(1e-3, data=list(tiny.loader(24)))
    tiny.trainer(monitor, watch, max_epochs=1).fit(tiny.TinyClassifier(), stream)
    assert watch.values[0][0] > 0


@pytest.mark.bad_input(47)
def test_an_empty_list_of_batches_is_refused():
    with pytest.raises(ValueError, match="no samples to measure on; pass data="):
        tiny.trainer(SharpnessMonitor(data=[])).fit(tiny.TinyClassifier(), tiny.loader())


@pytest.mark.bad_input(48)
def test_a_training_step_without_loss_is_refused():
    class NoLoss(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return None if not self.training else super().training_step(batch, batch_idx)

    with pytest.raises(ValueError, match="training_step gave no loss but None; pass loss_fn"):
        tiny.trainer(SharpnessMonitor()).fit(NoLoss(), tiny.loader())


def test_a_training_step_that_returns_a_dict_and_takes_no_index_is_fine():
    class Terse(tiny.TinyClassifier):
        def training_step(self, batch):
            return {"loss": cross_entropy(self(batch[0]), batch[1])}

    watch = Watch()
    tiny.trainer(SharpnessMonitor(1e-3), watch, max_epochs=1).fit(Terse(), tiny.loader())
    assert watch.values[0][0] > 0


@pytest.mark.bad_input(55)
def test_half_precision_weights_are_refused_before_the_first_step():
    with pytest.raises(ValueError, match=r"net.0.weight is torch.bfloat16"):
        tiny.trainer(SharpnessMonitor(), precision="bf16-true").fit(tiny.TinyClassifier(), tiny.loader())


@pytest.mark.bad_input(55)
def test_mixed_precision_is_measured_in_full_precision():
    watch, by_hand = Watch(), Recompute()
    trainer = tiny.trainer(by_hand, SharpnessMonitor(1e-3), watch, precision="bf16-mixed", max_epochs=1)
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    assert watch.values[0] == pytest.approx(by_hand.values[0], rel=2e-3)


@pytest.mark.parametrize("epsilon", [0, -1e-3, (), (1e-3, 1e-3), math.nan, math.inf, "1e-3"])
@pytest.mark.bad_input(45)
def test_an_epsilon_that_is_no_box_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon must be a positive number, or several different ones"):
        SharpnessMonitor(epsilon)


@pytest.mark.parametrize("argument", ["every_n_epochs", "samples", "chunk_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
@pytest.mark.bad_input(56)
def test_counts_that_are_no_counts_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be a whole number, at least 1, got {value!r}"):
        SharpnessMonitor(**{argument: value})


@pytest.mark.bad_input(52)
def test_an_unknown_batch_norm_mode_is_refused():
    with pytest.raises(ValueError, match="batch_norm must be one of 'running', 'batch', 'recomputed', got 'eval'"):
        SharpnessMonitor(batch_norm="eval")


@pytest.mark.bad_input(50)
def test_sharded_weights_are_refused():
    class FSDPStrategy(type(tiny.trainer().strategy)):
        pass

    trainer = tiny.trainer(SharpnessMonitor(), strategy=FSDPStrategy(device="cpu"), accelerator="auto")
    with pytest.raises(ValueError, match="needs whole parameters on every process, and FSDPStrategy shards them"):
        trainer.fit(tiny.TinyClassifier(), tiny.loader())


def test_the_batch_takes_the_way_of_the_training_loop():
    class Scales(tiny.TinyClassifier):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            batch[0].mul_(3)  # in place: what the monitor keeps must not grow from one evaluation to the next
            return {"x": batch[0], "y": batch[1]}

        def training_step(self, batch, batch_idx):
            seen.append(float(batch["x"].std()))
            return cross_entropy(self(batch["x"]), batch["y"])

    seen = []
    fresh = torch.utils.data.DataLoader(
        list(tiny.dataset()),
        batch_size=48,
        collate_fn=lambda s: [torch.stack([x for x, _ in s]).clone(), torch.stack([y for _, y in s])],
    )
    tiny.trainer(SharpnessMonitor(chunk_size=48), max_epochs=1).fit(Scales(), fresh)
    assert len(seen) > 3
    assert seen == pytest.approx([seen[0]] * len(seen))


def test_double_precision_is_measured_in_double_precision():
    watch = Watch()
    tiny.trainer(SharpnessMonitor(1e-3), watch, precision="64-true", max_epochs=1).fit(
        tiny.Validated(), tiny.loader(), tiny.loader(24)
    )
    assert watch.values[0][0] > 0


@pytest.mark.bad_input(52)
def test_a_random_loss_is_the_same_at_every_evaluation():
    class Noisy(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return cross_entropy(self(batch[0] + torch.randn_like(batch[0])), batch[1])

    watch = Watch()
    monitor = SharpnessMonitor((1e-3, 1e-7))
    trainer = tiny.trainer(monitor, watch, max_epochs=1)
    trainer.fit(Noisy(), tiny.loader())
    assert float(trainer.callback_metrics["sharpness/full_eps1e-7"]) < 1e-3 < watch.values[0][0]


def test_a_training_step_that_needs_gradients_can_be_measured():
    class Penalty(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            x = batch[0].clone().requires_grad_()
            loss = cross_entropy(self(x), batch[1])
            (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
            return loss + gradient.square().sum()

    for evaluations in (2, 7):
        watch = Watch()
        tiny.trainer(SharpnessMonitor(1e-3, max_evaluations=evaluations), watch, max_epochs=1).fit(
            Penalty(), tiny.loader()
        )
        assert watch.values[0][0] > 0


@pytest.mark.promise("nan measured")
def test_a_diverged_run_goes_on_and_its_sharpness_is_missing():
    class Diverges(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (math.nan if self.current_epoch else 1.0)

    trainer = tiny.trainer(SharpnessMonitor(1e-3), max_epochs=2)
    with pytest.warns(UserWarning, match="sharpness is logged as NaN: the loss at params must be finite"):
        trainer.fit(Diverges(), tiny.loader())
    assert trainer.global_step == 6
    assert math.isnan(float(trainer.callback_metrics["sharpness/full_eps1e-3"]))


@pytest.mark.promise("nan measured")
@pytest.mark.parametrize(("beyond", "logged"), [(math.inf, "inf"), (math.nan, "nan")])
def test_a_box_that_is_not_finite_is_logged_as_such_with_one_warning(beyond, logged):
    def loss_fn(module, batch):
        moved = module.net[0].weight.detach().abs().max() > 2
        return module(batch[0]).square().mean() + (beyond if moved else 0.0)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = tiny.trainer(SharpnessMonitor((1e-3, 5), loss_fn=loss_fn, accurate_at_end=True), max_epochs=2)
        trainer.fit(tiny.TinyClassifier(), tiny.loader())
    told = [str(w.message) for w in caught if "sharpness is logged as" in str(w.message)]
    assert len(told) == 1
    assert f"sharpness is logged as {logged}, which is said once: the loss is finite at the weights, but" in told[0]
    found = {key: float(value) for key, value in trainer.callback_metrics.items() if "full" in key}
    assert len(found) == 4
    for key, value in found.items():
        assert str(value) == logged if "eps5e0" in key else math.isfinite(value), key


_COUNTER = itertools.count()  # the variable of a Python module: no measurement can put it back


class Opaque:
    """A batch of another library's making."""

    def __init__(self, rows):
        self.inputs, self.targets = torch.utils.data.default_collate(rows)


def loss_of_opaque(module, batch):
    return cross_entropy(module(batch.inputs), batch.targets)


def test_a_batch_given_without_its_samples_is_refused_and_count_says_them():
    rows = list(tiny.dataset())
    data = [Opaque(rows[:40]), Opaque(rows[40:])]
    with pytest.raises(ValueError, match=r"cannot tell how many samples a Opaque of data holds.*pass count="):
        tiny.trainer(SharpnessMonitor(data=data, loss_fn=loss_of_opaque)).fit(tiny.TinyClassifier(), tiny.loader())
    module = tiny.TinyClassifier()
    monitor = SharpnessMonitor(1e-3, data=data, loss_fn=loss_of_opaque, count=lambda batch: len(batch.targets))
    trainer = tiny.trainer(monitor, max_epochs=1)
    trainer.fit(module, tiny.loader())
    whole = loss_of_opaque(module.eval(), Opaque(rows)).detach()
    assert float(trainer.callback_metrics["sharpness/loss"]) == pytest.approx(float(whole), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"relative": True}, "relative"),
        ({"norm": "l2"}, "l2"),
        ({"norm": "l2", "relative": True}, "l2_relative"),
        ({"subspace": 20}, "subspace"),
        ({"subspace": 20, "method": "lbfgsb"}, "subspace"),
        ({"method": "lbfgsb"}, "full"),
        ({"batch_norm": "recomputed"}, "full"),
    ],
)
def test_each_kind_of_neighbourhood_has_a_key_of_its_own_and_the_functions_value(arguments, kind):
    class ByHand(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            x, y = tiny.dataset().tensors
            terms = dict(arguments)
            if "subspace" in terms:
                terms["subspace"] = RandomSubspace(20)
            mode = terms.pop("batch_norm", "running")
            loss = DatasetLoss(
                pl_module.net, lambda net, batch: cross_entropy(net(batch[0]), batch[1]), [(x, y)], batch_norm=mode
            )
            self.percent = sharpness(loss, pl_module.parameters(), epsilon=0.1, max_evaluations=5, **terms).percent

    by_hand, monitor = ByHand(), SharpnessMonitor(0.1, samples=48, chunk_size=48, **arguments)
    trainer = tiny.trainer(by_hand, monitor, max_epochs=1)
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    assert f"sharpness/{kind}_eps1e-1" in monitor.keys
    assert float(trainer.callback_metrics[f"sharpness/{kind}_eps1e-1"]) == pytest.approx(by_hand.percent, rel=5e-3)


def test_the_quantiles_of_the_weights_stand_beside_it():
    trainer = tiny.trainer(SharpnessMonitor(1e-3), max_epochs=1)
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    sizes = torch.cat([p.detach().abs().flatten() for p in trainer.lightning_module.parameters()]).numpy()
    for name, level in (("p05", 0.05), ("p50", 0.5), ("p95", 0.95)):
        expected = np.quantile(sizes, level, method="inverted_cdf")
        assert float(trainer.callback_metrics[f"sharpness/weight_{name}"]) == pytest.approx(expected, rel=1e-6)


def test_the_loss_of_normalised_logits_makes_a_curve_that_larger_logits_do_not_change():
    def logits_of(module, batch):
        return module(batch[0]), batch[1]

    loss_fn = normalized_logit_loss(logits_of)
    scaled = normalized_logit_loss(lambda module, batch: (100 * module(batch[0]), batch[1]))
    terms = {"relative": True, "samples": 48, "chunk_size": 48}
    monitors = [SharpnessMonitor(0.01, loss_fn=f, suffix=s, **terms) for f, s in ((loss_fn, "_a"), (scaled, "_b"))]
    trainer = tiny.trainer(*monitors, max_epochs=1)
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    first, second = (float(trainer.callback_metrics[f"sharpness/relative_eps1e-2_{name}"]) for name in "ab")
    assert first == pytest.approx(second, rel=1e-3)
    module = trainer.lightning_module.eval()
    loss = DatasetLoss(module, loss_fn, [tuple(tiny.dataset().tensors)])
    by_hand = sharpness(loss, module.parameters(), epsilon=0.01, relative=True, max_evaluations=5)
    assert first == pytest.approx(by_hand.percent, rel=1e-3)


def test_what_cannot_go_together_is_refused():
    with pytest.raises(ValueError, match="accurate_at_end draws from the train loader"):
        SharpnessMonitor(accurate_at_end=True, data=[])
    with pytest.raises(ValueError, match="relative=True goes with the full space"):
        SharpnessMonitor(relative=True, subspace=10)
    with pytest.raises(ValueError, match="subspace must be a whole number, at least 1, got 0"):
        SharpnessMonitor(subspace=0)
    with pytest.raises(ValueError, match="method must be one of 'corner', 'lbfgsb', 'best', 'apgd', got 'adam'"):
        SharpnessMonitor(method="adam")


@pytest.mark.bad_input(46)
def test_a_subspace_as_large_as_the_model_ends_before_it_is_measured():
    with pytest.raises(ValueError, match=r"dimension=500 is not below the 227 weights; use the full space"):
        tiny.trainer(SharpnessMonitor(subspace=500)).fit(tiny.TinyClassifier(), tiny.loader())


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda self, batch: None, "training_step gave no loss but None"),
        (lambda self, batch: {"nothing": 1}, r"training_step gave no loss but \{'nothing': 1\}"),
        (lambda self, batch: cross_entropy(self(batch[0]), batch[1], reduction="none"), "scalar"),
        (lambda self, batch: cross_entropy(self(batch[0]), batch[1]).detach(), "does not depend on params"),
        (
            lambda self, batch: cross_entropy(self(batch[0] + float(next(_COUNTER))), batch[1]),
            "the loss is random",
        ),
    ],
)
@pytest.mark.bad_input(48)
def test_a_loss_that_cannot_be_measured_ends_the_run_before_the_first_step(step, message):
    class Odd(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return step(self, batch)

    trainer = tiny.trainer(SharpnessMonitor(1e-3, every_n_epochs=3), max_epochs=3)
    with pytest.raises(ValueError, match=message):
        trainer.fit(Odd(), tiny.loader())
    assert trainer.global_step == 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's compiler looks at the logged loss
def test_a_compiled_module_is_measured_as_the_plain_one():
    found = []
    for wrap in (lambda module: module, lambda module: torch.compile(module, backend="eager")):
        watch = Watch()
        trainer = tiny.trainer(SharpnessMonitor(1e-3), watch, max_epochs=1)
        trainer.fit(wrap(tiny.TinyClassifier(dropout=0.0)), tiny.loader())
        found.append(watch.values[0])
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.bad_input(50)
def test_a_parameter_that_is_not_trained_is_not_moved():
    class Frozen(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.net[0].weight.requires_grad_(False)
            self.unused = nn.Linear(2, 2)

        def training_step(self, batch, batch_idx):
            seen.append(self.net[0].weight.detach().clone())
            return super().training_step(batch, batch_idx)

    seen = []
    watch = Watch()
    tiny.trainer(SharpnessMonitor(1e-3), watch, max_epochs=1).fit(Frozen(), tiny.loader())
    assert all(torch.equal(weight, seen[0]) for weight in seen)
    assert watch.values[0][0] > 0


@pytest.mark.promise("exception")
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("failing", range(1, 12))
def test_a_loss_that_fails_at_any_evaluation_leaves_the_weights_as_they_were(error, failing):
    calls = []  # outside of the module, whose own state every evaluation finds as it was

    class Fails(tiny.TinyClassifier):
        def on_train_epoch_end(self):  # after the monitor: not reached when it raises
            raise AssertionError("the monitor should have raised")

        def training_step(self, batch, batch_idx):
            if not self.training:
                calls.append(batch_idx)
                if len(calls) == 3 + failing:  # three are the check before the first step
                    raise error("user's own")
            return super().training_step(batch, batch_idx)

    class Remembers(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            self.state = tiny.state_of(pl_module)
            self.modes = [part.training for part in pl_module.modules()]

    remembers, module = Remembers(), Fails()
    trainer = tiny.trainer(remembers, SharpnessMonitor((1e-3, 5e-4), samples=48, chunk_size=24), max_epochs=1)
    with pytest.raises((RuntimeError, KeyboardInterrupt, SystemExit)):
        trainer.fit(module, tiny.loader())
    after = tiny.state_of(module)
    assert all(torch.equal(after[name], remembers.state[name]) for name in after)
    assert remembers.modes == [part.training for part in module.modules()]
    assert module.log.__func__ is type(module).log


def test_the_figure_of_sharpness_against_loss_is_written(tmp_path):
    loggers = [TensorBoardLogger(tmp_path, name="", version=""), CSVLogger(tmp_path)]
    monitor = SharpnessMonitor(1e-3)
    tiny.trainer(monitor, logger=loggers, max_epochs=3).fit(tiny.TinyClassifier(), tiny.loader())
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    assert len(events.Images("sharpness/against_loss")) == 1
    assert (tmp_path / "lightning_logs" / "version_0" / "sharpness-against_loss.png").stat().st_size > 5000
    (line,) = monitor.figure().axes[0].lines
    assert len(line.get_xdata()) == 3


def test_the_figure_of_a_resumed_run_has_all_points(tmp_path):
    trainer = tiny.trainer(SharpnessMonitor(1e-3), max_epochs=2)
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    monitor = SharpnessMonitor(1e-3)
    tiny.trainer(monitor, max_epochs=4).fit(tiny.TinyClassifier(), tiny.loader(), ckpt_path=tmp_path / "half.ckpt")
    assert len(monitor.figure().axes[0].lines[0].get_xdata()) == 4


def test_batch_statistics_under_sync_batch_norm_are_refused():
    trainer = tiny.trainer(SharpnessMonitor(batch_norm="batch"), sync_batchnorm=True, strategy="ddp", devices=1)
    try:
        message = r"batch_norm='batch' cannot be measured under sync_batchnorm=True"
        with mock.patch.dict("os.environ"), pytest.raises(ValueError, match=message):
            trainer.fit(tiny.TinyClassifier(), tiny.loader())
    finally:
        torch.distributed.destroy_process_group()


def test_a_step_that_replaces_a_buffer_counts_the_training_samples_only():
    class Counts(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def training_step(self, batch, batch_idx):
            self.seen = self.seen + len(batch[0])
            return super().training_step(batch, batch_idx)

    module = Counts()
    tiny.trainer(SharpnessMonitor(samples=20), max_epochs=1).fit(module, tiny.loader())
    assert float(module.seen) == 48


def test_only_the_samples_that_the_loader_serves_are_measured():
    class Values(torch.utils.data.Dataset):
        def __len__(self):
            return 48

        def __getitem__(self, index):
            read.append(index)
            return tiny.dataset()[index]

    read = []
    served = list(range(30))
    loader = torch.utils.data.DataLoader(Values(), batch_size=10, sampler=torch.utils.data.SubsetRandomSampler(served))
    tiny.trainer(SharpnessMonitor(samples=100), max_epochs=1).fit(tiny.TinyClassifier(), loader)
    assert set(read) == set(served)


def test_a_state_that_the_modules_own_hook_sets_up_is_no_reason_to_end_the_run():
    class SetsUp(tiny.TinyClassifier):
        def on_train_batch_start(self, batch, batch_idx):
            self.weight = 0.5

        def training_step(self, batch, batch_idx):
            return self.weight * super().training_step(batch, batch_idx)

    watch = Watch()
    tiny.trainer(SharpnessMonitor(1e-3), watch, max_epochs=1).fit(SetsUp(), tiny.loader())
    assert watch.values[0][0] > 0


def test_a_run_resumed_with_another_epsilon_goes_on(tmp_path):
    trainer = tiny.trainer(SharpnessMonitor(1e-3), max_epochs=2, logger=CSVLogger(tmp_path))
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    monitor = SharpnessMonitor((1e-3, 5e-4))
    resumed = tiny.trainer(monitor, max_epochs=4, logger=CSVLogger(tmp_path))
    with pytest.warns(UserWarning, match=r"saved with SharpnessMonitor's epsilon=\[0\.001\].*not comparable"):
        resumed.fit(tiny.TinyClassifier(), tiny.loader(), ckpt_path=tmp_path / "half.ckpt")
    assert [len(line.get_xdata()) for line in monitor.figure().axes[0].lines] == [4, 2]


def test_a_flat_loss_is_flat_for_lbfgsb_too():
    class Flat(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * 0.0 + 1.0

    trainer = tiny.trainer(SharpnessMonitor(1e-3, method="lbfgsb"), max_epochs=1)
    trainer.fit(Flat(), tiny.loader())
    assert float(trainer.callback_metrics["sharpness/full_eps1e-3"]) == 0.0


@pytest.mark.bad_input(47)
def test_batches_that_can_be_read_once_only_are_refused():
    with pytest.raises(ValueError, match="data is a generator, which can be read once only; pass a list of batches"):
        SharpnessMonitor(data=(batch for batch in tiny.loader()))


def test_a_loader_of_a_stream_can_be_given_as_data():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(tiny.dataset(24))

    watch = Watch()
    stream = torch.utils.data.DataLoader(Stream(), batch_size=8)
    tiny.trainer(SharpnessMonitor(1e-3, data=stream), watch, max_epochs=1).fit(tiny.TinyClassifier(), stream)
    assert watch.values[0][0] > 0


def test_no_more_samples_than_a_chunk_are_evaluated_at_a_time():
    class Sizes(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            if not self.training:
                sizes.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    sizes = []
    tiny.trainer(SharpnessMonitor(1e-3, samples=400, chunk_size=10), max_epochs=1).fit(Sizes(), tiny.loader(400))
    assert max(sizes) == 10


def test_a_fast_dev_run_does_not_measure_everything():
    class Counts(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            seen.append(len(batch[0]))
            return super().training_step(batch, batch_idx)

    seen = []
    monitor = SharpnessMonitor(1e-3, samples=16, accurate_at_end=True)
    tiny.trainer(monitor, fast_dev_run=True).fit(Counts(), tiny.loader(4000))
    assert sum(seen) < 400


def test_the_accurate_value_with_a_count_leaves_no_trace():
    class Noisy(Dataset):
        """Adds noise by the global generator and by one of its own."""

        def __init__(self):
            self.samples, self.own = tiny.dataset(), torch.Generator().manual_seed(4)

        def __len__(self):
            return len(self.samples)

        def __getitem__(self, index):
            inputs, target = self.samples[index]
            return inputs + 0.1 * torch.randn(8) + 0.1 * torch.randn(8, generator=self.own), target

    def twice(*callbacks):
        torch.manual_seed(3)
        module, loader = tiny.TinyClassifier(), DataLoader(Noisy(), batch_size=16)
        trainer = tiny.trainer(*callbacks, max_epochs=1)
        trainer.fit(module, loader)
        trainer.fit_loop.max_epochs = 2
        trainer.fit(module, loader)
        return tiny.state_of(module)

    monitor = SharpnessMonitor(1e-3, samples=16, accurate_at_end=True, count=lambda batch: len(batch[0]))
    assert tiny.same(twice(monitor), twice())
