"""The factor on the learning rate reaches every update of the module's weights, or the run says that it does not."""

import copy
import math

import pytest
import tiny
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import BaseFinetuning
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim import SGD, Adam, Optimizer
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.data import DataLoader, TensorDataset

from lightning_gap import BatchSizeScheduler, LearningRateScaling
from lightning_gap.callbacks._run import run_of
from lightning_gap.functional import AdaBatch, GeometricGrowth, SmithGrowth
from lightning_gap.trainer.optimizers import largest_learning_rate

RATE, FACTOR, BATCH = 2.0**-6, 4.0, 16  # powers of two: a learning rate times the factor is exact


class Net(LightningModule):
    """Two layers in float64; what steps them is the subclass's."""

    def __init__(self, rate=RATE):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(4, 3).double(), nn.Linear(3, 1).double()
        self.rate = rate

    def loss(self, batch):
        return mse_loss(self.head(torch.tanh(self.body(batch[0]))), batch[1])

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def configure_optimizers(self):
        return SGD(self.parameters(), self.rate, momentum=0.5)


class Manual(Net):
    automatic_optimization = False


class Replaced(Net):
    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.trainer.optimizers = [Adam(self.parameters(), self.rate)]


class ReplacedInsideAnEpoch(Net):
    def on_train_batch_start(self, batch, batch_idx):
        if self.global_step == 2:
            self.trainer.strategy.optimizers = [SGD(self.parameters(), self.rate / 2)]


class ByHand(Manual):
    """Its optimizer is made in the first step, and Lightning never hears of it."""

    def training_step(self, batch, batch_idx):
        self.own = getattr(self, "own", None) or [Adam(self.parameters(), self.rate)]
        self.own[0].zero_grad()
        self.loss(batch).backward()
        self.own[0].step()

    def configure_optimizers(self):
        return None


class BesideLightnings(Net):
    """Lightning steps the body; the head is stepped by hand when a batch ends."""

    def configure_optimizers(self):
        self.own = [SGD(self.head.parameters(), 2 * self.rate)]
        return SGD(self.body.parameters(), self.rate)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.own[0].step()
        self.own[0].zero_grad()


class Sharpened(Optimizer):
    """Foret et al. (2021) in two calls, the second of which steps a stock optimizer on the same groups."""

    def __init__(self, parameters, rate):
        super().__init__(parameters, {"lr": rate})
        self.inner = SGD(self.param_groups, lr=rate)
        self.param_groups = self.inner.param_groups

    @torch.no_grad()
    def climb(self):
        self.home = [(p, p.clone()) for group in self.param_groups for p in group["params"]]
        for p, _ in self.home:
            p.add_(p.grad, alpha=0.05)
        self.zero_grad()

    @torch.no_grad()
    def descend(self):
        for p, home in self.home:
            p.copy_(home)
        self.inner.step()
        self.zero_grad()


class SharpnessAware(Manual):
    def training_step(self, batch, batch_idx):
        optimizer = self.trainer.optimizers[0]
        self.manual_backward(self.loss(batch))
        optimizer.climb()
        self.manual_backward(self.loss(batch))
        optimizer.descend()

    def configure_optimizers(self):
        return Sharpened(self.parameters(), self.rate)


class SlowWeights:
    """A wrapper that is no `Optimizer`, and has no hooks of its own."""

    def __init__(self, inner):
        self.inner, self.defaults = inner, inner.defaults
        self.slow = [p.detach().clone() for group in inner.param_groups for p in group["params"]]

    param_groups = property(lambda self: self.inner.param_groups)
    state = property(lambda self: self.inner.state)

    def state_dict(self):
        return self.inner.state_dict()

    def load_state_dict(self, state):
        self.inner.load_state_dict(state)

    def zero_grad(self, set_to_none=True):
        self.inner.zero_grad(set_to_none)

    def step(self, closure=None):
        loss = self.inner.step(closure)
        fast = [p for group in self.param_groups for p in group["params"]]
        with torch.no_grad():
            for slow, p in zip(self.slow, fast, strict=True):
                p.copy_(slow.lerp_(p, 0.5))
        return loss


class Wraps(Optimizer):
    """An `Optimizer` around another, which makes the update, with groups in common or of its own."""

    def __init__(self, inner, *, shares=True, copies=False, calls=False):
        super().__init__([dict(group) for group in inner.param_groups], inner.defaults)
        self.inner, self.copies, self.calls = inner, copies, calls
        if shares:
            self.param_groups = inner.param_groups

    def step(self, closure=None):
        loss = closure() if self.calls else None
        if self.copies:  # as wrappers do whose own groups a scheduler moves
            for own, group in zip(self.param_groups, self.inner.param_groups, strict=True):
                group["lr"] = own["lr"]
        return loss if self.calls and self.inner.step() is None else self.inner.step(closure)


def stepped_by(make):
    class Stepped(Net):
        def configure_optimizers(self):
            return make(SGD(self.parameters(), self.rate, momentum=0.5))

    return Stepped


class SetsTheRateOfWhatItWraps(SlowWeights):
    """As the schedule of Vaswani et al. (2017) is written: a warmup of its own, set right before the step."""

    def __init__(self, inner):
        super().__init__(inner)
        self.rate, self.steps = inner.param_groups[0]["lr"], 0

    def step(self, closure=None):
        loss = closure()
        self.steps += 1
        for group in self.param_groups:
            group["lr"] = self.rate / self.steps
        self.inner.step()
        return loss


REACHED = {
    "replaced": Replaced,
    "replaced inside an epoch": ReplacedInsideAnEpoch,
    "by hand": ByHand,
    "beside Lightning's": BesideLightnings,
    "two-step SAM": SharpnessAware,
    "a wrapper that is no Optimizer": stepped_by(SlowWeights),
    "a wrapper that sets the learning rate": stepped_by(SetsTheRateOfWhatItWraps),
    "a wrapper with groups in common": stepped_by(Wraps),
    "a wrapper that calls the closure": stepped_by(lambda inner: Wraps(inner, calls=True)),
    "a wrapper with groups of its own": stepped_by(lambda inner: Wraps(inner, shares=False)),
    "a wrapper that copies": stepped_by(lambda inner: Wraps(inner, shares=False, copies=True)),
    "a wrapper that copies after the closure": stepped_by(
        lambda inner: Wraps(inner, shares=False, copies=True, calls=True)
    ),
    "wrappers in wrappers": stepped_by(lambda inner: Wraps(SlowWeights(Wraps(inner)))),
}


def data():
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(1)).double()
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=BATCH)


def fit(module, *callbacks, epochs=2, **options):
    trainer = tiny.trainer(*callbacks, max_epochs=epochs, **options)
    trainer.fit(module, data())
    return trainer


def scaling(**options):
    return LearningRateScaling(int(BATCH / FACTOR), **({"warmup_epochs": 0} | options))


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.filterwarnings("ignore:.*returned `None`, this fit will run with no optimizer")
@pytest.mark.parametrize("kind", REACHED.values(), ids=REACHED)
def test_an_update_has_the_learning_rate_times_the_factor_once(kind):
    scaled, by_hand, unscaled = kind(), kind(FACTOR * RATE), kind()
    fit(scaled, scaling())
    fit(by_hand)
    fit(unscaled)
    assert torch.equal(weights(scaled), weights(by_hand))
    assert not torch.allclose(weights(scaled), weights(unscaled))


@pytest.mark.filterwarnings("ignore:.*returned `None`, this fit will run with no optimizer")
@pytest.mark.parametrize("kind", REACHED.values(), ids=REACHED)
def test_what_is_logged_is_the_learning_rate_of_the_update(kind):
    class Sees(Callback):
        """Asks the stock optimizers for what they used, in the step itself."""

        def __init__(self):
            self.logged, self.used, self.now = [], [], []

        def on_train_batch_start(self, *_):
            self.now = []

        def on_train_batch_end(self, trainer, module, *_):
            names = sorted(name for name in trainer.callback_metrics if name.startswith("lr/effective"))
            self.logged.append([float(trainer.callback_metrics[name]) for name in names])
            self.used.append(self.now)

    sees = Sees()
    with pytest.MonkeyPatch.context() as patch:
        for stock in (SGD, Adam):
            own = stock._init_group

            def records(optimizer, group, *rest, own=own):
                sees.now.append(float(group["lr"]))
                return own(optimizer, group, *rest)

            patch.setattr(stock, "_init_group", records)
        fit(kind(), scaling(), sees)
    if kind is BesideLightnings:  # the head is stepped after the callbacks were called: known in the next batch
        assert sees.logged[0] == [FACTOR * RATE]
        assert all(logged == [FACTOR * RATE, FACTOR * 2 * RATE] for logged in sees.logged[1:])
    else:
        assert sees.logged == [pytest.approx(used, rel=1e-6) for used in sees.used]


def test_an_optimizer_of_other_parameters_is_left_alone():
    class Inner(Net):
        """Looks ahead on a copy of itself, and moves an input: neither are its weights."""

        def training_step(self, batch, batch_idx):
            copied, shift = copy.deepcopy([self.body, self.head]), nn.Parameter(torch.zeros(4).double())
            inner = SGD([*copied[0].parameters(), *copied[1].parameters(), shift], 0.5)
            mse_loss(copied[1](torch.tanh(copied[0](batch[0] + shift))), batch[1]).backward()
            inner.step()
            self.moved = [*getattr(self, "moved", ()), float(shift.detach().norm() / shift.grad.norm())]
            return self.loss(batch)

    module = Inner()
    fit(module, scaling())
    assert module.moved == pytest.approx([0.5] * 8)
    assert torch.equal(weights(module), weights_of(Inner(FACTOR * RATE)))


def weights_of(module, *callbacks):
    fit(module, *callbacks)
    return weights(module)


def test_groups_that_are_added_later_are_scaled_and_logged():
    class Unfreezes(BaseFinetuning):
        def freeze_before_training(self, module):
            self.freeze(module.body)

        def finetune_function(self, module, epoch, optimizer):
            if epoch == 1:
                self.unfreeze_and_add_param_group(module.body, optimizer, lr=module.rate / 2)

    class Head(Net):
        def configure_optimizers(self):
            return SGD(self.head.parameters(), self.rate)

    module = Head()
    trainer = fit(module, Unfreezes(), scaling())
    assert torch.equal(weights(module), weights_of(Head(FACTOR * RATE), Unfreezes()))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("lr/")}
    assert logged == {"lr/effective": FACTOR * RATE, "lr/effective_1": FACTOR * RATE / 2, "lr/scale": FACTOR}


class Unhooked(SlowWeights):
    """Makes the update itself, the old way, out of autograd's sight."""

    def step(self, closure=None):
        loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.data.sub_(p.grad, alpha=group["lr"])
        return loss


def patched(optimizer):
    def step(closure=None):
        loss = closure()
        with torch.no_grad():
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.sub_(p.grad, alpha=group["lr"])
        return loss

    optimizer.step = step
    return optimizer


@pytest.mark.parametrize(("make", "name"), [(Unhooked, "Unhooked"), (patched, "SGD")])
@pytest.mark.parametrize("warmup_epochs", [0, 1])
def test_a_step_that_calls_no_hooks_is_refused_at_the_first_step(make, name, warmup_epochs):
    module = stepped_by(make)()
    with pytest.raises(ValueError, match=f"LearningRateScaling did not reach an update: .* {name} without the factor"):
        fit(module, scaling(warmup_epochs=warmup_epochs))
    assert module.trainer.global_step == 1
    assert "lr/effective" not in module.trainer.callback_metrics


def test_one_that_comes_later_without_hooks_is_told_once_and_its_learning_rate_is_no_longer_logged():
    class Later(Net):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.trainer.optimizers = [Unhooked(SGD(self.parameters(), self.rate))]

    class Keys(Callback):
        def __init__(self):
            self.found = []

        def on_train_batch_end(self, trainer, module, *_):
            self.found.append("lr/effective" in trainer.fit_loop._results.metrics(True)["log"])

    keys = Keys()
    with pytest.warns(UserWarning, match="did not reach an update: .* Unhooked without the factor") as told:
        fit(Later(), scaling(), keys)
    assert len([warning for warning in told if "did not reach" in str(warning.message)]) == 1
    assert keys.found == [True] * 4 + [False] * 4


def test_a_step_that_is_patched_in_the_middle_of_a_run_is_told():
    class Patches(Net):
        def on_train_batch_start(self, batch, batch_idx):
            if self.global_step == 3:
                patched(self.trainer.optimizers[0])

    with pytest.warns(UserWarning, match="did not reach an update: .* SGD without the factor"):
        fit(Patches(), scaling())


@pytest.mark.filterwarnings("ignore:.*returned `None`, this fit will run with no optimizer")
def test_weights_that_are_moved_without_any_optimizer_are_told():
    class NoOptimizer(Manual):
        def training_step(self, batch, batch_idx):
            gradients = torch.autograd.grad(self.loss(batch), list(self.parameters()))
            with torch.no_grad():
                for p, gradient in zip(self.parameters(), gradients, strict=True):
                    p.sub_(gradient, alpha=self.rate)

        def configure_optimizers(self):
            return None

    with pytest.warns(UserWarning, match="without a scaled step: LearningRateScaling may not .* the module itself"):
        trainer = fit(NoOptimizer(), scaling())
    assert "lr/effective" not in trainer.callback_metrics


class TwoOptimizers(Manual):
    """Batch by batch the one or the other; both hold the body, or one the head and the other all."""

    def __init__(self, rate=RATE, last=False, phases=False):
        super().__init__(rate)
        self.other, self.last, self.phases = nn.Linear(3, 1).double(), last, phases

    def configure_optimizers(self):
        body, head, other = (list(part.parameters()) for part in (self.body, self.head, self.other))
        shares = [head, body + head] if self.phases else [body + head, body + other]
        return [SGD(share[::-1] if self.last else share, self.rate) for share in shares]

    def training_step(self, batch, batch_idx):
        turn = self.current_epoch if self.phases else batch_idx % 2
        optimizer, head = self.optimizers()[turn], (self.other if turn and not self.phases else self.head)
        optimizer.zero_grad()
        self.manual_backward(mse_loss(head(torch.tanh(self.body(batch[0]))), batch[1]))
        optimizer.step()


@pytest.mark.parametrize("kind", [{}, {"last": True}, {"phases": True}, {"phases": True, "last": True}])
def test_two_optimizers_that_share_weights_are_scaled_and_not_accused(kind):
    assert torch.equal(weights_of(TwoOptimizers(**kind), scaling()), weights_of(TwoOptimizers(FACTOR * RATE, **kind)))


def test_weights_that_are_clamped_before_their_optimizer_steps_are_no_fault():
    class Critic(Manual):
        def configure_optimizers(self):
            return [SGD(self.body.parameters(), self.rate), SGD(self.head.parameters(), self.rate)]

        def training_step(self, batch, batch_idx):
            own = self.optimizers()[batch_idx % 3 == 2]
            own.zero_grad()
            self.manual_backward(self.loss(batch))
            own.step()
            for p in self.parameters():
                p.data.clamp_(-0.3, 0.3)

    assert torch.equal(weights_of(Critic(), scaling()), weights_of(Critic(FACTOR * RATE)))


def test_what_cannot_be_told_is_one_warning():
    """Gradients are accumulated by hand, and weights scaled before the first step: it might have been an update."""

    class Initialises(Manual):
        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                self.body.weight.div_(self.body.weight.norm())
            self.manual_backward(self.loss(batch) / 2)
            if batch_idx % 2:
                self.optimizers().step()
                self.optimizers().zero_grad()

    with pytest.warns(UserWarning, match="weights changed without a scaled step") as told:
        found = weights_of(Initialises(), scaling())
    assert len([warning for warning in told if "scaled step" in str(warning.message)]) == 1
    assert torch.equal(found, weights_of(Initialises(FACTOR * RATE)))


def test_a_step_without_hooks_beside_one_that_has_them_is_told():
    class Half(Manual):
        def configure_optimizers(self):
            return SGD(self.body.parameters(), self.rate), Unhooked(SGD(self.head.parameters(), self.rate))

        def training_step(self, batch, batch_idx):
            first, second = self.trainer.optimizers
            self.zero_grad()
            first.step()
            second.step(lambda: self.manual_backward(self.loss(batch)))

    with pytest.warns(UserWarning, match="without a scaled step: .* those of Unhooked"):
        fit(Half(), scaling())


def test_a_step_that_only_counts_is_no_update_and_an_accumulating_wrapper_is_scaled():
    class EverySecond(Wraps):
        """Steps at every second call."""

        def step(self, closure=None):
            loss, self.calls = closure(), self.calls + 1
            if self.calls % 2 == 0:
                self.inner.step()
            return loss

    class NoHooks(SlowWeights):
        calls = 0
        step = EverySecond.step

    for make in (EverySecond, NoHooks):
        kind = stepped_by(make)
        assert torch.equal(weights_of(kind(), scaling()), weights_of(kind(FACTOR * RATE)))


def test_an_optimizer_that_sets_its_own_learning_rate_inside_the_step_is_refused():
    class Decays(SGD):
        @torch.no_grad()
        def step(self, closure=None):
            loss = super().step(closure)
            self.param_groups[0]["lr"] *= 0.5
            return loss

    class Own(Net):
        def configure_optimizers(self):
            return Decays(self.parameters(), self.rate)

    module = Own()
    with pytest.raises(ValueError, match=r"Decays sets its own learning rate inside step, .*LearningRateScaling"):
        fit(module, scaling())
    assert module.trainer.optimizers[0].param_groups[0]["lr"] == RATE / 2


class Relative(Optimizer):
    """Finds its own step size, as Adafactor does: no learning rate."""

    def __init__(self, parameters, **defaults):
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad, alpha=0.01)
        return loss


@pytest.mark.parametrize("defaults", [{"lr": None}, {}], ids=["None", "no lr"])
@pytest.mark.parametrize(
    ("make", "owner"),
    [
        (scaling, "LearningRateScaling"),
        (lambda: BatchSizeScheduler(SmithGrowth(16, [1], 16)), "BatchSizeScheduler"),
        (lambda: BatchSizeScheduler(AdaBatch(16, 32, every_n_epochs=1)), "BatchSizeScheduler"),
    ],
    ids=["scaling", "SmithGrowth", "AdaBatch"],
)
@pytest.mark.bad_input(25)
def test_an_optimizer_without_a_learning_rate_is_refused_before_the_first_step(defaults, make, owner):
    class Own(Net):
        def configure_optimizers(self):
            return Relative(self.parameters(), **defaults)

    module = Own()
    before = weights(module)
    with pytest.raises(ValueError, match=f"Relative has no .* to scale.* or remove {owner}"):
        fit(module, make())
    assert torch.equal(before, weights(module))


def test_a_schedule_without_a_factor_takes_an_optimizer_without_a_learning_rate():
    class Own(Net):
        def configure_optimizers(self):
            return Relative(self.parameters(), lr=None)

    fit(Own(), BatchSizeScheduler(GeometricGrowth(16, 32, factor=2.0)))


def test_the_factor_of_a_schedule_reaches_an_optimizer_that_comes_later_and_refuses_one_without_hooks():
    schedule = AdaBatch(16, 16, every_n_epochs=1, learning_rate_factor=0.5)  # past its limit: 1/4 in epoch 1

    class Later(Net):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                rate = self.rate if scaled else schedule(1).learning_rate_factor * self.rate
                self.trainer.optimizers = [Adam(self.parameters(), rate)]

    scaled = True
    module = Later()
    trainer = fit(module, BatchSizeScheduler(schedule))
    assert float(trainer.callback_metrics["batch/lr_factor"]) == schedule(1).learning_rate_factor != 1
    scaled = False
    assert torch.equal(weights(module), weights_of(Later()))

    with pytest.raises(ValueError, match="BatchSizeScheduler did not reach an update"):
        fit(stepped_by(Unhooked)(), BatchSizeScheduler(lambda epoch: AdaBatch(8, 64, every_n_epochs=1)(epoch + 1)))


def test_no_hook_is_left_whatever_ends_the_fit():
    class Fails(Net):
        def training_step(self, batch, batch_idx):
            if self.global_step == 2:
                raise RuntimeError("user's own")
            return super().training_step(batch, batch_idx)

    before = len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)
    fit(Net(), scaling())
    with pytest.raises(RuntimeError, match="user's own"):
        fit(Fails(), scaling())
    assert (len(_global_optimizer_pre_hooks), len(_global_optimizer_post_hooks)) == before
    assert weights_of(Net()).equal(weights_of(Net()))


def test_a_micro_batch_size_that_the_loader_contradicts_is_refused():
    module = Net()
    with pytest.raises(ValueError, match=r"micro_batch_size=64 is not what DataLoader states, 16 samples"):
        fit(module, LearningRateScaling(4, warmup_epochs=0, micro_batch_size=64))
    assert module.trainer.global_step == 0
    fit(Net(), LearningRateScaling(4, warmup_epochs=0, micro_batch_size=16))


def test_a_micro_batch_size_is_taken_where_a_sample_of_the_loader_may_be_several():
    """Ready batches of 16 behind batch_size=1, and two views of each of 8."""
    inputs, targets = data().dataset.tensors
    ready = list(zip(inputs.split(16), targets.split(16), strict=True))

    class OfOne(Net):
        def training_step(self, batch, batch_idx):
            return self.loss([part.squeeze(0) for part in batch])

    def views(rows):
        return [torch.stack([row[part] for row in rows]).repeat(2, 1) for part in (0, 1)]

    def factor(module, loader, **options):
        scales = LearningRateScaling(4, warmup_epochs=0, **options)
        trainer = tiny.trainer(scales, max_epochs=1)
        trainer.fit(module, loader)
        return float(trainer.callback_metrics["lr/scale"])

    with pytest.warns(UserWarning, match="micro_batch_size=16 is not what DataLoader states, 1 samples"):
        assert factor(OfOne(), DataLoader(ready), micro_batch_size=16) == 4
    with pytest.warns(UserWarning, match="micro_batch_size=16 is not what DataLoader states, 8 samples"):
        assert factor(Net(), DataLoader(data().dataset, 8, collate_fn=views), micro_batch_size=16) == 4
    taken_out = DataLoader(ready, batch_size=1, collate_fn=lambda rows: rows[0])
    assert factor(Net(), taken_out, micro_batch_size=16) == 4
    with pytest.raises(ValueError, match="cannot read a batch size from DataLoader; pass micro_batch_size="):
        factor(Net(), taken_out)


@pytest.mark.filterwarnings("ignore:.*returned `None`, this fit will run with no optimizer")
def test_where_there_is_no_learning_rate_the_largest_one_is_nan():
    class Asks(Callback):
        def on_train_batch_end(self, trainer, *_):
            self.found = largest_learning_rate(trainer), run_of(trainer).learning_rate_scale

    class Own(Net):
        def configure_optimizers(self):
            return Relative(self.parameters(), lr=None)

    for module, expected in ((Own(), (math.nan, 1.0)), (ByHand(), (math.nan, 1.0)), (Net(), (RATE, 1.0))):
        asks = Asks()
        fit(module, asks)
        assert asks.found == pytest.approx(expected, nan_ok=True)
    asks = Asks()
    fit(Net(), scaling(), asks)
    assert asks.found == (RATE, FACTOR)
