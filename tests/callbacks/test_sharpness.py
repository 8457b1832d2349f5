import math

import pytest
import tiny
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap import SharpnessMonitor
from lightning_gap.functional import batch_statistics, sharpness


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
            result = sharpness(lambda: cross_entropy(model(x), y), model.parameters(), epsilon=1e-3)
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


def test_an_empty_list_of_batches_is_refused():
    with pytest.raises(ValueError, match="no samples to measure on; pass data="):
        tiny.trainer(SharpnessMonitor(data=[])).fit(tiny.TinyClassifier(), tiny.loader())


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


def test_half_precision_weights_are_refused_before_the_first_step():
    with pytest.raises(ValueError, match=r"params\[0\] is torch.bfloat16"):
        tiny.trainer(SharpnessMonitor(), precision="bf16-true").fit(tiny.TinyClassifier(), tiny.loader())


def test_mixed_precision_is_measured_in_full_precision():
    watch, by_hand = Watch(), Recompute()
    trainer = tiny.trainer(by_hand, SharpnessMonitor(1e-3), watch, precision="bf16-mixed", max_epochs=1)
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    assert watch.values[0] == pytest.approx(by_hand.values[0], rel=2e-3)


@pytest.mark.parametrize("epsilon", [0, -1e-3, (), (1e-3, 1e-3), math.nan, math.inf, "1e-3"])
def test_an_epsilon_that_is_no_box_is_refused(epsilon):
    with pytest.raises(ValueError, match="epsilon must be positive"):
        SharpnessMonitor(epsilon)


@pytest.mark.parametrize("argument", ["every_n_epochs", "samples", "chunk_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
def test_counts_that_are_no_counts_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be a whole number, at least 1, got {value!r}"):
        SharpnessMonitor(**{argument: value})


def test_an_unknown_batch_norm_mode_is_refused():
    with pytest.raises(ValueError, match="batch_norm must be 'running' or 'batch', got 'eval'"):
        SharpnessMonitor(batch_norm="eval")


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


def test_a_diverged_run_goes_on_and_its_sharpness_is_missing():
    class Diverges(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (math.nan if self.current_epoch else 1.0)

    trainer = tiny.trainer(SharpnessMonitor(1e-3), max_epochs=2)
    with pytest.warns(UserWarning, match="sharpness is logged as NaN: the loss at params must be finite"):
        trainer.fit(Diverges(), tiny.loader())
    assert trainer.global_step == 6
    assert math.isnan(float(trainer.callback_metrics["sharpness/full_eps1e-3"]))


def test_batches_of_unknown_size_are_refused_before_the_first_step():
    class Opaque:
        pass

    loader = torch.utils.data.DataLoader(list(tiny.dataset()), batch_size=16, collate_fn=lambda _: Opaque())
    with pytest.raises(ValueError, match=r"cannot tell how many samples a Opaque holds; pass data="):
        tiny.trainer(SharpnessMonitor()).fit(tiny.TinyClassifier(), loader)
