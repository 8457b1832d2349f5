"""What a plugin is given and what it must not touch, in a user's own fit."""

import copy
import os
import signal

import pytest
import tiny
import torch
from lightning.pytorch import Callback, callbacks
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.nn.utils import spectral_norm
from torch.nn.utils.parametrizations import spectral_norm as parametrized_spectral_norm
from torchmetrics import CatMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassRecall

from lightning_gap import (
    AdversarialTraining,
    BatchSizeScheduler,
    ConservativeTraining,
    ExactAccumulation,
    GradientPenalty,
    SharpnessAwareMinimization,
)
from lightning_gap.callbacks._plugin import Plugin
from lightning_gap.functional import SmithGrowth


class Again(Plugin):
    """Take the second pass, and keep the gradient that each of the two has left."""

    def __init__(self):
        self.seen = []

    def change_gradient(self, trainer, pl_module, again):
        self._keep(pl_module)
        again()
        self._keep(pl_module)

    def _keep(self, module):
        self.seen.append([None if w.grad is None else w.grad.clone() for w in module.parameters()])


class Halves(Plugin):
    def change_gradient(self, trainer, pl_module, again):
        for weight in pl_module.parameters():
            weight.grad /= 2


def fit(*callbacks, module=None, batch_size=16, **options):
    module = module or tiny.TinyClassifier()
    trainer = tiny.trainer(*callbacks, **({"max_epochs": 1} | options))
    trainer.fit(module, tiny.loader(batch_size=batch_size))
    return trainer, tiny.state_of(module)


def scaled():
    return MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))


def test_under_a_gradient_scaler_a_plugin_sees_the_gradient_of_the_loss():
    in_float32, under_scaler = Again(), Again()
    fit(in_float32, module=tiny.TinyClassifier(dropout=0.0), limit_train_batches=1)
    fit(under_scaler, module=tiny.TinyClassifier(dropout=0.0), limit_train_batches=1, plugins=[scaled()])
    assert len(in_float32.seen) == len(under_scaler.seen) == 2
    for expected, found in zip(in_float32.seen, under_scaler.seen, strict=True):
        for own, other in zip(expected, found, strict=True):
            torch.testing.assert_close(other, own, rtol=0.02, atol=2e-3)  # of float16


def test_under_a_gradient_scaler_the_step_is_by_the_changed_gradient():
    def change(*callbacks):
        before = tiny.state_of(tiny.TinyClassifier())
        _, after = fit(*callbacks, limit_train_batches=1, plugins=[scaled()])
        return {name: after[name] - before[name] for name in before if "weight" in name or "bias" in name}

    whole, again, half = change(), change(Again()), change(Halves())
    for name, value in whole.items():
        assert torch.equal(again[name], value)
        torch.testing.assert_close(half[name], value / 2, rtol=1e-3, atol=1e-6)


class Each(Again):
    """The same, for one micro-batch after the other."""

    sees = "micro_batch"


class EveryOther(Again):
    def changes_this_step(self, trainer):
        return trainer.global_step % 2 == 0


class Accumulates(Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        trainer.accumulate_grad_batches = 1 + trainer.current_epoch


@pytest.mark.parametrize("plugin", [Again, Each, EveryOther])
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("batch_size", [8, 10], ids=["even", "last is smaller"])
def test_the_same_pass_again_gives_the_same_gradient_also_of_accumulated_batches(plugin, weighed, batch_size):
    others = [ExactAccumulation()] if weighed else []
    options = {"batch_size": batch_size, "max_epochs": 2, "accumulate_grad_batches": 3, "precision": "64-true"}
    _, expected = fit(*others, **options)
    _, found = fit(plugin(), *others, **options)
    if plugin is Each or (weighed and batch_size == 10):  # a factor multiplies each part, or the sum of all
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    else:
        assert tiny.same(found, expected)


@pytest.mark.parametrize(
    "callback",
    [Accumulates, lambda: BatchSizeScheduler(SmithGrowth(8, [1], 16, factor=2.0), max_micro_batch=8)],
    ids=["the user's own", "BatchSizeScheduler"],
)
@pytest.mark.parametrize("plugin", [Again, Each])
def test_accumulation_may_change_from_epoch_to_epoch(plugin, callback):
    options = {"batch_size": 8, "max_epochs": 3, "precision": "64-true"}
    _, expected = fit(callback(), **options)
    _, found = fit(plugin(), callback(), **options)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_a_step_that_is_not_changed_costs_no_pass():
    plugin = EveryOther()
    fit(plugin, max_epochs=2)
    assert len(plugin.seen) == 2 * 3


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("skips", [{1}, {2}, {0, 1, 2}], ids=str)
def test_batches_that_the_user_skips_are_left_out_of_further_passes(skips):
    class Skips(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx in skips else loss

    for accumulate in (1, 3):
        options = {"batch_size": 16, "accumulate_grad_batches": accumulate, "precision": "64-true"}
        _, expected = fit(module=Skips(), **options)
        for plugin in (Again(), Each()):
            _, found = fit(plugin, module=Skips(), **options)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_plugins_nest_in_the_order_of_their_names():
    """Further passes of the second include what the first has done."""

    class ZAgain(Again):
        pass

    (_, found), (_, expected) = fit(ZAgain(), Halves()), fit(Halves())
    assert tiny.same(found, expected)
    _, other = fit(Again(), Halves())
    assert tiny.same(other, expected)


def test_inner_plugins_pass_over_what_the_outer_one_makes_of_the_batches():
    class Doubles(Plugin):
        def change_gradient(self, trainer, pl_module, again):
            again(lambda batch, loss_of: [2 * batch[0], batch[1]], other_loss=lambda loss, batch, loss_of: 3 * loss)

    class Twice(tiny.TinyClassifier):
        """Trained on what the plugin makes of the batches."""

        def training_step(self, batch, batch_idx):
            return 3 * super().training_step([2 * batch[0], batch[1]], batch_idx)

    for accumulate in (1, 3):
        options = {"precision": "64-true", "accumulate_grad_batches": accumulate}
        inner = [SharpnessAwareMinimization(0.1), GradientPenalty(0.3)]
        doubles = type("ZDoubles", (Doubles,), {})()
        (_, found), (_, expected) = fit(doubles, *inner, **options), fit(*inner, module=Twice(), **options)
        trained = [
            name for name in expected if "running" not in name
        ]  # by the first pass, over the batches as they are
        assert len(trained) > 4
        torch.testing.assert_close({n: found[n] for n in trained}, {n: expected[n] for n in trained})


def test_a_plugin_of_single_micro_batches_stands_alone():
    with pytest.raises(ValueError, match=r"Each.*Halves"):
        fit(Each(), Halves())


def test_metrics_that_the_module_updates_see_the_first_pass_only():
    class Measures(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.metrics = MetricCollection([MulticlassAccuracy(3), MulticlassRecall(3), CatMetric()])

        def training_step(self, batch, batch_idx):
            scores = self(batch[0])
            self.metrics["MulticlassAccuracy"](scores, batch[1])
            self.metrics["MulticlassRecall"].update(scores, batch[1])
            self.metrics["CatMetric"].update(batch[1])
            return nn.functional.cross_entropy(scores, batch[1])

    def measured(*callbacks):
        module = Measures()
        fit(*callbacks, module=module)
        return {**module.metrics.compute(), "updates": module.metrics["CatMetric"].update_count}

    expected = measured()
    assert expected["updates"] == 3
    assert tiny.same(measured(Again()), expected)


def test_a_training_step_that_writes_to_its_batch_is_refused():
    class Writes(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            batch[0].div_(2)
            return super().training_step(batch, batch_idx)

    class TakesOut(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            targets = batch.pop()
            return nn.functional.cross_entropy(self(batch[0]), targets)

    for module in (Writes(), TakesOut()):
        with pytest.raises(ValueError, match="training_step writes to its batch"):
            fit(Again(), module=module)


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
def test_what_takes_no_second_pass_is_refused():
    class Newton(tiny.TinyClassifier):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters())

    class Twice(tiny.TinyClassifier):
        def configure_optimizers(self):
            class Optimizer(torch.optim.SGD):
                def step(self, closure):
                    closure()
                    return super().step(closure)

            return Optimizer(self.parameters(), lr=0.1)

    class Iterates(tiny.TinyClassifier):
        def training_step(self, dataloader_iter):
            batch, _, _ = next(dataloader_iter)
            return super().training_step(batch, 0)

    class Frozen(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.requires_grad_(False)

    cases = [(Newton(), "LBFGS"), (Twice(), "Optimizer"), (Iterates(), "dataloader_iter"), (Frozen(), "has none")]
    for module, named in cases:
        with pytest.raises(ValueError, match=rf"Again.*{named}"):
            fit(Again(), module=module)


def test_a_second_plugin_of_one_name_is_refused():
    with pytest.raises(ValueError, match="Again and Again"):
        fit(Again(), Again())
    fit(Again(), Halves())


def test_in_the_epoch_of_weight_averaging_nothing_is_changed():
    def averaging():
        return StochasticWeightAveraging(0.01, swa_epoch_start=1)

    plugin = Again()
    _, found = fit(plugin, averaging(), max_epochs=3)
    _, expected = fit(averaging(), max_epochs=3)
    assert len(plugin.seen) == 2 * 3 * 3
    assert tiny.same(found, expected)


class Halfway(Plugin):
    """The gradient where half a plain step would lead to."""

    def change_gradient(self, trainer, pl_module, again):
        weights = list(pl_module.parameters())
        before = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight in weights:
                weight.sub_(0.5 * weight.grad)
        again()
        with torch.no_grad():
            for weight, value in zip(weights, before, strict=True):
                weight.copy_(value)


class States(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, *rest):
        self.seen.append(tiny.state_of(pl_module))


def fit_validated(*callbacks, ckpt_path=None, **options):
    module = tiny.Validated(dropout=0.0)
    trainer = tiny.trainer(*callbacks, val_check_interval=2, **options)
    trainer.fit(module, tiny.loader(batch_size=8), tiny.loader(24, seed=2), ckpt_path=ckpt_path)
    return tiny.state_of(module)


AVERAGES = {
    "mean": (lambda: callbacks.WeightAveraging(), lambda old, new, n: old + (new - old) / (n + 1)),
    "exponential": (lambda: callbacks.EMAWeightAveraging(decay=0.75), lambda old, new, n: 0.75 * old + 0.25 * new),
}
with_averages = pytest.mark.skipif(
    not hasattr(callbacks, "EMAWeightAveraging"), reason="this Lightning does not average the weights of each step yet"
)


@with_averages
@pytest.mark.parametrize("kind", AVERAGES)
@pytest.mark.parametrize("first", [True, False])
def test_beside_an_average_of_each_step_the_run_is_as_without_and_ends_with_the_average(kind, first):
    make, on_paper = AVERAGES[kind]
    alone, beside = States(), States()
    fit_validated(Halfway(), alone)
    plugin, averaging = Halfway(), make()
    found = fit_validated(*((plugin, averaging) if first else (averaging, plugin)), beside)
    assert len(alone.seen) == 12
    assert tiny.same(alone.seen, beside.seen)
    expected = alone.seen[0]
    for steps, state in enumerate(alone.seen[1:], 1):
        expected = {name: on_paper(expected[name], value, steps) for name, value in state.items()}
    for name, value in found.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])


@with_averages
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_beside_an_average_of_each_step_a_resumed_run_is_the_same(tmp_path):
    make, _ = AVERAGES["exponential"]
    half = ModelCheckpoint(tmp_path, filename="half", save_on_train_epoch_end=True)
    whole = fit_validated(Halfway(), make())
    fit_validated(Halfway(), make(), half, max_epochs=1, enable_checkpointing=True)
    assert tiny.same(fit_validated(Halfway(), make(), ckpt_path=tmp_path / "half.ckpt"), whole)


class Copies(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        self.copy = copy.deepcopy(pl_module)


def test_a_copy_of_the_module_during_a_fit_is_a_plain_module(tmp_path):
    def copied(*callbacks):
        copies = Copies()
        _, state = fit(*callbacks, copies, logger=CSVLogger(tmp_path))
        assert tiny.same(tiny.state_of(copies.copy), state)
        return copies.copy

    found, expected = copied(Again()), copied()
    assert vars(found).keys() == vars(expected).keys()
    fit(module=found)


def test_a_step_that_the_user_has_put_on_the_module_is_called_and_kept():
    module, calls = tiny.TinyClassifier(), []
    of_class = module.optimizer_step

    def own(*arguments, **named):
        calls.append(1)
        return of_class(*arguments, **named)

    module.optimizer_step = own
    plugin = Again()
    trainer, _ = fit(plugin, module=module)
    assert len(calls) == trainer.global_step == 3
    assert len(plugin.seen) == 6
    assert vars(module)["optimizer_step"] is own
    trainer.fit_loop.max_epochs = 2
    trainer.callbacks.remove(plugin)
    trainer.fit(module, tiny.loader(batch_size=16))
    assert len(plugin.seen) == 6


class Averages(nn.Module):
    """A user's own layer, one of whose buffers is replaced by another at each pass."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("passes", torch.zeros((), dtype=torch.long))
        self.register_buffer("ones", torch.ones(1).expand(8))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        self.passes += 1
        return x * self.ones


class Instances(nn.InstanceNorm1d):
    def forward(self, x):
        return super().forward(x[:, None])[:, 0]


@pytest.mark.parametrize(
    "layer",
    [
        lambda: Instances(1, track_running_stats=True),
        lambda: spectral_norm(nn.Linear(8, 8)),
        lambda: parametrized_spectral_norm(nn.Linear(8, 8)),
        Averages,
    ],
    ids=["instance_norm", "spectral_norm", "parametrized_spectral_norm", "own"],
)
def test_the_buffers_of_all_layers_are_left_to_the_first_pass(layer):
    def module():
        made = tiny.TinyClassifier()
        made.net.insert(0, layer())
        return made

    class First(Plugin):
        def change_gradient(self, trainer, pl_module, again):
            self.after_first, held = tiny.state_of(pl_module), dict(pl_module.named_buffers())
            again()
            self.after_second = tiny.state_of(pl_module)
            assert all(buffer is held[name] for name, buffer in pl_module.named_buffers())

    plugin = First()
    fit(plugin, module=module())
    assert tiny.same(plugin.after_second, plugin.after_first)


PLUGINS = {
    "sam": (lambda: SharpnessAwareMinimization(0.1), 2),
    "asam": (lambda: SharpnessAwareMinimization(adaptive=True), 2),
    "conservative": (lambda: ConservativeTraining(0.5), 3),
    "penalty": (lambda: GradientPenalty(0.3), 2),
    "adversarial": (lambda: AdversarialTraining(0.2), 3),  # the second pass is the attack
}


def presses_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def fails():
    raise RuntimeError("user's own")


PASSES = []  # of a step; not on the module, where each further pass begins with what the first one began with


class EndsInPass(tiny.TinyClassifier):
    """Ends the fit in one pass of the second step; keeps the state that this step began with."""

    def __init__(self, number, end):
        super().__init__()
        self.number, self.end = number, end

    def on_train_batch_start(self, batch, batch_idx):
        PASSES.clear()
        self.before = tiny.state_of(self)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        PASSES.append(batch_idx)
        if len(PASSES) == 1:
            self.after_first = tiny.state_of(self)
        if batch_idx == 1 and len(PASSES) == self.number:
            self.end()
        return loss


def held_by(trainer, module):
    """The names of all that a fit may leave behind on the objects of the user and of Lightning."""
    fit_loop = trainer.fit_loop
    loop = fit_loop.epoch_loop.automatic_optimization
    parts = [module, *module.net, trainer, trainer.strategy, trainer.precision_plugin, fit_loop, loop]
    hooks = [
        len(kept) for part in (module, *module.net) for name, kept in vars(part).items() if name.endswith("_hooks")
    ]
    return [set(vars(part)) for part in parts], hooks, [weight._backward_hooks for weight in module.parameters()]


def ended(number, end, *callbacks, **options):
    module, trainer = EndsInPass(number, end), tiny.trainer(*callbacks, **options)
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises((RuntimeError, KeyboardInterrupt, SystemExit)):
            trainer.fit(module, tiny.loader(batch_size=16))
    finally:
        signal.signal(signal.SIGINT, interrupt)  # Lightning ignores it from the first one on
    return trainer, module


@pytest.mark.parametrize(
    ("name", "number"), [(name, number + 1) for name, (_, passes) in PLUGINS.items() for number in range(passes)]
)
@pytest.mark.parametrize("end", [fails, presses_ctrl_c])
def test_a_fit_that_ends_in_any_pass_leaves_the_weights_and_nothing_else_behind(name, number, end):
    trainer, module = ended(number, end, PLUGINS[name][0]())
    assert len(PASSES) == number
    for key, weight in module.named_parameters():
        assert torch.equal(weight.detach(), module.before[key])
    for key, buffer in module.named_buffers():
        assert torch.equal(buffer, module.after_first[key])
    assert held_by(trainer, module) == held_by(*ended(1, end))


@pytest.mark.parametrize("name", PLUGINS)
def test_after_a_fit_nothing_is_left_behind(name):
    def run(*callbacks):
        module = EndsInPass(1, lambda: None)
        trainer, _ = fit(*callbacks, module=module)
        return held_by(trainer, module)

    assert run(PLUGINS[name][0]()) == run()
