import math

import pytest
import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler, LearningRateMonitor
from torch.optim import lr_scheduler as lrs

from lightning_gap import BatchSizeScheduler, LearningRateScaling

# 6 batches of 8 an epoch; two optimizer steps an epoch are left when three batches are accumulated
BATCH, STEPS_PER_EPOCH, EPOCHS = 8, 6, 4


class Scheduled(tiny.TinyClassifier):
    def __init__(self, schedule=None, *, interval="epoch", groups=False):
        super().__init__()
        self.schedule, self.interval, self.groups, self.used = schedule, interval, groups, []

    def configure_optimizers(self):
        used = self.used

        class Recorded(torch.optim.SGD):
            @torch.no_grad()
            def _init_group(self, group, *rest):  # runs inside the step, for each group
                used.append(float(group["lr"]))
                return super()._init_group(group, *rest)

        parameters = list(self.parameters())
        groups = [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 0.01}] if self.groups else parameters
        optimizer = Recorded(groups, lr=0.05, momentum=0.9)
        if self.schedule is None:
            return optimizer
        config = {"scheduler": self.schedule(optimizer), "interval": self.interval, "monitor": "loss"}
        return {"optimizer": optimizer, "lr_scheduler": config}


class Slope(Scheduled):
    """Its loss is a plane: the gradient, and with it all that an optimizer remembers, is the same at every rate."""

    def training_step(self, batch, batch_idx):
        loss = sum(parameter.sum() for parameter in self.parameters())
        self.log("loss", 1.0)  # what a plateau scheduler watches must not depend on the rate either
        return loss


SCHEDULES = {
    "none": (None, "epoch"),
    "step": (lambda o: lrs.StepLR(o, 2, 0.1), "epoch"),
    "multistep": (lambda o: lrs.MultiStepLR(o, [5, 11]), "step"),
    "exponential": (lambda o: lrs.ExponentialLR(o, 0.9), "step"),
    "polynomial": (lambda o: lrs.PolynomialLR(o, 20), "step"),
    "linear": (lambda o: lrs.LinearLR(o, 1.0, 0.1, 10), "step"),
    "chained": (lambda o: lrs.ChainedScheduler([lrs.ExponentialLR(o, 0.9), lrs.StepLR(o, 3)], o), "step"),
    "lambda": (lambda o: lrs.LambdaLR(o, lambda t: 1 / (1 + t)), "step"),
    "restarts": (lambda o: lrs.CosineAnnealingWarmRestarts(o, 7), "step"),
    "linear, cosine": (lambda o: lrs.SequentialLR(o, [lrs.LinearLR(o), lrs.CosineAnnealingLR(o, 20)], [4]), "step"),
    "step, exponential": (
        lambda o: lrs.SequentialLR(o, [lrs.StepLR(o, 2), lrs.ExponentialLR(o, 0.9)], [4]),
        "step",
    ),
    "cosine": (lambda o: lrs.CosineAnnealingLR(o, 24, eta_min=0.01), "step"),
    "onecycle": (lambda o: lrs.OneCycleLR(o, 0.5, total_steps=30), "step"),
    "cyclic": (lambda o: lrs.CyclicLR(o, 0.01, 0.1, step_size_up=5), "step"),
    "plateau": (lambda o: lrs.ReduceLROnPlateau(o, patience=0, threshold=10.0, min_lr=0.001), "epoch"),
}


def fit(module, *callbacks, epochs=EPOCHS, **options):
    torch.manual_seed(0)
    trainer = tiny.trainer(*callbacks, max_epochs=epochs, **options)
    trainer.fit(module, tiny.loader(batch_size=BATCH))
    return trainer


CHANGES = {  # batch sizes epoch by epoch, epochs of warmup
    "grows, warmup": ((8, 8, 24, 48), 2),
    "constant, warmup": ((8, 8, 8, 8), 2),
    "shrinks": ((24, 8, 8, 4), 0),
    "constant": ((8, 8, 8, 8), 0),
    "grows": ((8, 8, 24, 48), 0),
    "shrinks, warmup": ((24, 8, 8, 4), 2),
}


def in_turn():
    """Every schedule with the first of the changes and one of the others in turn; the rest is slow."""
    first, *others = CHANGES
    for place, name in enumerate(SCHEDULES):
        for change in CHANGES:
            quick = change in (first, others[place % len(others)])
            yield pytest.param(name, change, marks=() if quick else pytest.mark.slow)


def on_paper(sizes, base, warmup_epochs):
    """Goyal et al., sections 2.1 and 2.2, written out: a factor for each step of epochs with these batch sizes."""
    factors = []
    for epoch, size in enumerate(sizes):
        steps = math.ceil(48 / size)
        for step in range(steps):
            before, length = epoch * steps + step, warmup_epochs * steps
            scale = size / base
            factors.append(scale if before >= length else 1 + (scale - 1) * before / length)
    return factors


@pytest.mark.promise("rates")
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # SequentialLR, in older torch
@pytest.mark.filterwarnings("ignore:.* warms up too")
@pytest.mark.filterwarnings("ignore:OneCycleLR was made for total_steps")
@pytest.mark.parametrize(("name", "change"), [*in_turn()])
@pytest.mark.bad_input(22)
def test_each_step_uses_the_users_rate_times_the_factor_exactly(name, change):
    sizes, warmup_epochs = CHANGES[change]

    def run(*callbacks):
        schedule, interval = SCHEDULES[name]
        module = Slope(schedule, interval=interval)
        changes = [BatchSizeScheduler(dict(enumerate(sizes)))] if len(set(sizes)) > 1 else []
        trainer = fit(module, *changes, *callbacks)
        return module.used, trainer._checkpoint_connector.dump_checkpoint()

    plain_rates, plain = run()
    rates, scaled = run(LearningRateScaling(2, warmup_epochs=warmup_epochs))
    factors = on_paper(sizes, 2, warmup_epochs)
    assert rates == [rate * factor for rate, factor in zip(plain_rates, factors, strict=True)]
    for part in ("optimizer_states", "lr_schedulers"):
        assert tiny.same(plain[part], scaled[part]), part


@pytest.mark.parametrize(
    ("when", "rule", "expected"),
    [
        ("rescale", "linear", (4, 12, 24)),
        ("keep", "linear", (4, 4, 4)),
        ("replace_decay", "linear", (4, 12, 24)),
        ("rescale", "sqrt", (2, math.sqrt(12), math.sqrt(24))),
        ("replace_decay", "sqrt", (2, 6, 12)),
        ("replace_decay", "none", (1, 3, 6)),
        ("rescale", lambda size, base: 7 * size / base, (28, 84, 168)),
    ],
)
def test_what_a_growing_batch_does_to_the_rate(when, rule, expected):
    module = Scheduled()
    scaling = LearningRateScaling(2, rule=rule, warmup_epochs=0, when_batch_changes=when)
    fit(module, scaling, BatchSizeScheduler({0: 8, 1: 24, 2: 48}), epochs=3)
    rates = [0.05 * factor for factor, steps in zip(expected, (6, 2, 1), strict=True) for _ in range(steps)]
    assert module.used == rates


@pytest.mark.parametrize(("when", "then"), [("keep", 4), ("replace_decay", 2)])
def test_the_first_batch_is_the_one_that_lightnings_schedule_accumulates(when, then):
    module = Scheduled()
    accumulates = GradientAccumulationScheduler({0: 4, 1: 2})
    fit(module, LearningRateScaling(2, rule="sqrt", warmup_epochs=0, when_batch_changes=when), accumulates, epochs=2)
    assert module.used == [0.05 * 4] * 2 + [0.05 * then] * 3


def test_growth_replaces_the_users_own_decay():
    module = Scheduled(lambda o: lrs.MultiStepLR(o, [1, 2], 1 / 2))
    keeps = LearningRateScaling(12, warmup_epochs=0, when_batch_changes="replace_decay")
    fit(module, keeps, BatchSizeScheduler({0: 12, 1: 24, 2: 48}), epochs=4)
    assert module.used == [0.05] * (4 + 2 + 1 + 1)


@pytest.mark.filterwarnings("ignore:the schedule changes the batch size at epoch 2")
@pytest.mark.parametrize("when", ["keep", "replace_decay"])
def test_a_resumed_run_remembers_the_first_batch_size(tmp_path, when):
    def run(epochs, ckpt_path=None):
        module = Scheduled()
        scaling = LearningRateScaling(2, warmup_epochs=1, when_batch_changes=when)
        trainer = tiny.trainer(scaling, BatchSizeScheduler({0: 8, 1: 24, 2: 48}), max_epochs=epochs)
        trainer.fit(module, tiny.loader(batch_size=BATCH), ckpt_path=ckpt_path)
        return trainer, module

    _, whole = run(3)
    first_trainer, first = run(2)
    first_trainer.save_checkpoint(tmp_path / "half.ckpt")
    _, second = run(3, tmp_path / "half.ckpt")
    assert first.used + second.used == whole.used


def test_constant_warmup_jumps_and_a_warmup_may_start_below_the_users_rate():
    module = Scheduled()
    fit(module, LearningRateScaling(2, warmup_epochs=1, warmup="constant"), epochs=2)
    assert module.used == [0.05] * 6 + [0.2] * 6
    module = Scheduled()
    fit(module, LearningRateScaling(2, warmup_steps=4, warmup_start=0.0), epochs=1)
    assert module.used == [0.05 * factor for factor in (0.0, 1.0, 2.0, 3.0, 4.0, 4.0)]
    module = Scheduled()
    fit(module, LearningRateScaling(8, rule="none", warmup_steps=2, warmup_start=0.5), epochs=1)
    assert module.used == [0.05 * factor for factor in (0.5, 0.75, 1, 1, 1, 1)]


def test_a_gradient_scaler_that_skips_a_step_does_not_move_the_rate():
    from lightning.pytorch.plugins import MixedPrecision

    class Overflows(Scheduled):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            return loss * float("inf") if self.global_step == 2 else loss

    module = Overflows()
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    fit(module, LearningRateScaling(2, warmup_epochs=1), plugins=plugin, epochs=2)
    factors = on_paper((8, 8), 2, 1)
    assert module.used == [0.05 * factor for step, factor in enumerate(factors) if step != 2]


def test_a_rate_that_is_set_inside_the_step_is_scaled_and_stays():
    class Sets(Scheduled):
        def training_step(self, batch, batch_idx):
            group = self.trainer.optimizers[0].param_groups[0]
            self.found = (*getattr(self, "found", ()), group["lr"])
            group["lr"] = 0.1 / (1 + self.global_step)
            return super().training_step(batch, batch_idx)

    module = Sets()
    trainer = fit(module, LearningRateScaling(2, warmup_epochs=0), epochs=1)
    assert module.used == [4 * 0.1 / (1 + step) for step in range(6)]
    assert list(module.found) == [0.05] + [0.1 / (1 + step) for step in range(5)]  # never a scaled one
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.1 / 6
    assert float(trainer.callback_metrics["lr/effective"]) == pytest.approx(4 * 0.1 / 6)


def test_an_optimizer_that_calls_the_closure_often_uses_the_scaled_rate():
    class Plane(tiny.TinyClassifier):
        def configure_optimizers(self):
            return torch.optim.LBFGS(self.parameters(), lr=self.learning_rate, max_iter=4)

    states = []
    for rate, callbacks in ((0.2, ()), (0.05, (LearningRateScaling(2, warmup_epochs=0),))):
        module = Plane(dropout=0.0, learning_rate=rate)
        fit(module, *callbacks, epochs=1)
        states.append(tiny.state_of(module))
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_second_fit_of_a_trainer_keeps_what_it_kept():
    module = Scheduled()
    keeps = LearningRateScaling(2, warmup_epochs=0, when_batch_changes="keep")
    trainer = tiny.trainer(keeps, BatchSizeScheduler(lambda epoch: (8, 24)[min(epoch, 1)]), max_epochs=1)
    trainer.fit(module, tiny.loader(batch_size=BATCH))
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, tiny.loader(batch_size=BATCH))
    assert module.used == [0.05 * 4] * (6 + 2)


def test_what_another_callback_has_set_counts_before_a_fixed_micro_batch():
    module = Scheduled()
    fit(
        module, LearningRateScaling(2, warmup_epochs=0, micro_batch_size=8), BatchSizeScheduler({0: 8, 1: 16}), epochs=2
    )
    assert module.used == [0.05 * 4] * 6 + [0.05 * 8] * 3


@pytest.mark.bad_input(23)
def test_several_optimizers_in_manual_optimization():
    class Manual(Scheduled):
        automatic_optimization = False

        def configure_optimizers(self):
            parts = list(self.net)
            return [torch.optim.SGD(parts[0].parameters(), 0.1), torch.optim.SGD(parts[-1].parameters(), 0.01)]

        def training_step(self, batch, batch_idx):
            before = [[p.clone() for p in o.param_groups[0]["params"]] for o in self.trainer.optimizers]
            self.manual_backward(super().training_step(batch, batch_idx))
            for optimizer, old in zip(self.optimizers(), before, strict=True):
                optimizer.step()
                parameters = optimizer.param_groups[0]["params"]
                moved = max(
                    float(((o - p) / p.grad).detach().nanmedian()) for o, p in zip(old, parameters, strict=True)
                )
                self.used.append(moved)  # plain SGD moves by rate times gradient
                optimizer.zero_grad()

    module = Manual()
    fit(module, LearningRateScaling(2, warmup_epochs=1), epochs=2)
    factors = on_paper((8, 8), 2, 1)
    assert module.used == pytest.approx([rate * factor for factor in factors for rate in (0.1, 0.01)], rel=1e-3)


class Absorbing(torch.optim.Optimizer):
    """Momentum as in Goyal et al., equation 9: v <- m v + rate * g; w <- w - v."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr, "momentum": 0.9})

    def step(self, closure=None):
        loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                history = state.setdefault("momentum_buffer", torch.zeros_like(parameter))
                history.mul_(0.9).add_(parameter.grad, alpha=float(group["lr"]))
                parameter.data.sub_(history)
        return loss


def test_momentum_correction_makes_an_absorbing_optimizer_train_as_torchs_sgd(tmp_path):
    class Absorbed(tiny.TinyClassifier):
        def configure_optimizers(self):
            return Absorbing(self.parameters(), lr=self.learning_rate)

    def run(module, *, epochs=3, ckpt_path=None, correct):
        scaling = LearningRateScaling(2, warmup_epochs=2, momentum_correction=correct)
        trainer = tiny.trainer(scaling, max_epochs=epochs, precision="64-true")
        module.double()  # now, because Lightning loads a checkpoint before it changes the precision
        trainer.fit(module, tiny.loader(batch_size=BATCH), ckpt_path=ckpt_path)
        return trainer, torch.cat([p.detach().flatten() for p in module.parameters()])

    def apart(weights):
        return float((weights - expected).abs().max())

    _, expected = run(tiny.TinyClassifier(dropout=0.0), correct=False)
    _, corrected = run(Absorbed(dropout=0.0), correct=True)
    _, uncorrected = run(Absorbed(dropout=0.0), correct=False)
    assert apart(corrected) < 1e-12 < 1e-3 < apart(uncorrected)
    half, _ = run(Absorbed(dropout=0.0), epochs=2, correct=True)
    half.save_checkpoint(tmp_path / "half.ckpt")
    _, resumed = run(Absorbed(dropout=0.0), ckpt_path=tmp_path / "half.ckpt", correct=True)
    assert torch.equal(resumed, corrected)


@pytest.mark.bad_input(24)
def test_sqrt_rule_and_several_groups():
    module = Scheduled(groups=True)
    fit(module, LearningRateScaling(2, rule="sqrt", warmup_epochs=0), epochs=1)
    assert module.used == pytest.approx([0.1, 0.02] * STEPS_PER_EPOCH)


def test_accumulation_enlarges_the_batch_and_shortens_the_warmup():
    module = Scheduled()
    fit(module, LearningRateScaling(2, warmup_epochs=2), accumulate_grad_batches=3)
    factors = [1 + 11 * min(step, 4) / 4 for step in range(8)]  # 24 / 2 = 12 after 2 epochs of 2 steps
    assert module.used == pytest.approx([0.05 * factor for factor in factors])


def test_a_batch_below_the_base_lowers_the_rate_at_once():
    module = Scheduled()
    fit(module, LearningRateScaling(32, warmup_epochs=5), epochs=1)
    assert module.used == pytest.approx([0.05 / 4] * STEPS_PER_EPOCH)


@pytest.mark.filterwarnings("ignore:warmup_epochs=3 is longer than the run")
def test_a_resumed_run_uses_the_same_rates(tmp_path):
    whole = Scheduled(*SCHEDULES["lambda"][:1], interval="step")
    fit(whole, LearningRateScaling(2, warmup_epochs=3))
    first = Scheduled(*SCHEDULES["lambda"][:1], interval="step")
    fit(first, LearningRateScaling(2, warmup_epochs=3), epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    second = Scheduled(*SCHEDULES["lambda"][:1], interval="step")
    trainer = tiny.trainer(LearningRateScaling(2, warmup_epochs=3), max_epochs=EPOCHS)
    trainer.fit(second, tiny.loader(batch_size=BATCH), ckpt_path=tmp_path / "half.ckpt")
    assert first.used + second.used == whole.used


@pytest.mark.bad_input(24)
def test_tensor_rates_are_not_changed_in_place():
    class Tensors(tiny.TinyClassifier):
        def configure_optimizers(self):
            self.rate = torch.tensor(0.05)
            return torch.optim.Adam(self.parameters(), lr=self.rate, foreach=False, capturable=False)

    module = Tensors()
    fit(module, LearningRateScaling(2, warmup_epochs=0), epochs=1)
    assert float(module.rate) == pytest.approx(0.05)


def test_what_it_logs_is_what_it_used():
    class Watch(Callback):
        seen = ()

        def on_train_batch_end(self, trainer, pl_module, *rest):
            keys = ("lr/effective", "lr/effective_1", "lr/scale", "batch/effective")
            self.seen = (*self.seen, tuple(float(trainer.callback_metrics[key]) for key in keys))

    module, watch = Scheduled(groups=True), Watch()
    fit(module, LearningRateScaling(2, warmup_epochs=1), watch, epochs=2)
    scales = [1 + 3 * min(step, 6) / 6 for step in range(12)]
    expected = [(0.05 * s, 0.01 * s, s, 8.0) for s in scales]
    assert [value for row in watch.seen for value in row] == pytest.approx([v for row in expected for v in row])


def test_lightnings_monitor_shows_the_users_own_schedule(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    logger = CSVLogger(tmp_path)
    fit(Scheduled(), LearningRateScaling(2, warmup_epochs=0), LearningRateMonitor(), logger=logger, epochs=1)
    rows = [row for row in logger.experiment.metrics if "lr-Recorded" in row] or logger.experiment.metrics
    assert all(row["lr-Recorded"] == 0.05 for row in rows if "lr-Recorded" in row)


def test_after_an_exception_in_the_step_the_rate_is_the_users_again():
    class Fails(torch.optim.SGD):
        def _init_group(self, *args):
            raise RuntimeError("user's own")

    class Module(tiny.TinyClassifier):
        def configure_optimizers(self):
            self.optimizer = Fails(self.parameters(), lr=0.05, momentum=0.9)
            return self.optimizer

    module = Module()
    with pytest.raises(RuntimeError, match="user's own"):
        fit(module, LearningRateScaling(2, warmup_epochs=0))
    assert module.optimizer.param_groups[0]["lr"] == 0.05
    assert not module.optimizer._optimizer_step_pre_hooks


@pytest.mark.bad_input(20)
def test_two_scalings_are_refused():
    with pytest.raises(ValueError, match="LearningRateScaling and LearningRateScaling both scale"):
        fit(Scheduled(), LearningRateScaling(2), LearningRateScaling(4))


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(tiny.dataset(24))


@pytest.mark.bad_input(26)
def test_a_loader_without_length_needs_no_warmup_epochs():
    loader = torch.utils.data.DataLoader(Stream(), batch_size=BATCH)
    with pytest.raises(ValueError, match="warmup_epochs=5 has no length in steps"):
        tiny.trainer(LearningRateScaling(2)).fit(Scheduled(), loader)
    module = Scheduled()
    tiny.trainer(LearningRateScaling(2, warmup_epochs=0), max_epochs=1).fit(module, loader)
    assert module.used == pytest.approx([0.2] * 3)


@pytest.mark.bad_input(26)
def test_a_loader_that_hides_its_batch_size_is_refused_until_told():
    class Ready:
        def __len__(self):
            return 3

        def __iter__(self):
            return iter([(torch.randn(8, 8), torch.arange(8) % 3)] * 3)

    ready = Ready()
    with pytest.raises(ValueError, match="cannot read a batch size from Ready; pass micro_batch_size"):
        tiny.trainer(LearningRateScaling(2)).fit(Scheduled(), ready)
    module = Scheduled()
    tiny.trainer(LearningRateScaling(2, warmup_epochs=0, micro_batch_size=8), max_epochs=1).fit(module, ready)
    assert module.used == pytest.approx([0.2] * 3)


@pytest.mark.parametrize("base", [0, -256, True, 25.6])
@pytest.mark.bad_input(17)
def test_a_base_batch_that_is_no_size_is_refused(base):
    with pytest.raises(ValueError, match="base_batch_size must be a whole number of samples, at least 1"):
        LearningRateScaling(base)


@pytest.mark.parametrize("epochs", [-1, math.nan, math.inf])
@pytest.mark.bad_input(19)
def test_a_negative_warmup_is_refused(epochs):
    with pytest.raises(ValueError, match="warmup_epochs must be a number, at least 0"):
        LearningRateScaling(warmup_epochs=epochs)


@pytest.mark.bad_input(18)
def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="rule must be one of 'linear', 'sqrt'"):
        LearningRateScaling(rule="cubic")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps must be a whole number, at least 0, got -1"),
        ({"warmup_start": 1.5}, "warmup_start must be a number, at least 0 and at most 1, got 1.5"),
        ({"warmup_start": -0.1}, "warmup_start must be a number, at least 0"),
        ({"warmup": "slow"}, "warmup must be one of 'gradual', 'constant', got 'slow'"),
        ({"when_batch_changes": "follow"}, "when_batch_changes must be one of 'rescale', 'keep', 'replace_decay'"),
        ({"micro_batch_size": 0}, "micro_batch_size must be a whole number"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LearningRateScaling(**arguments)


@pytest.mark.bad_input(25)
def test_optimizers_without_a_rate_or_the_momentum_to_correct_are_refused():
    class Rateless(torch.optim.Optimizer):
        def __init__(self, parameters):
            super().__init__(parameters, {})

    class Own(tiny.TinyClassifier):
        def __init__(self, make):
            super().__init__()
            self.make = make

        def configure_optimizers(self):
            return self.make(self.parameters())

    scaling = {"base_batch_size": 2, "warmup_epochs": 0}
    for make, correct, message in (
        (Rateless, False, "Rateless has no 'lr' to scale"),
        (lambda p: torch.optim.Adam(p), True, "optimizer with momentum, and Adam has none"),
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), True, "would be wrong for torch's SGD"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(Own(make), LearningRateScaling(**scaling, momentum_correction=correct))


@pytest.mark.bad_input(19, 21)
def test_a_warmup_longer_than_the_run_and_a_second_warmup_are_told():
    with pytest.warns(UserWarning, match="warmup_epochs=5 is longer than the run, max_epochs=4, .* use at most 4"):
        fit(Scheduled(), LearningRateScaling(2))
    with pytest.warns(UserWarning, match="warmup_steps=9 is longer than the run, max_steps=3"):
        fit(Scheduled(), LearningRateScaling(2, warmup_steps=9), max_steps=3)
    schedule = SCHEDULES["linear, cosine"][0]
    with pytest.warns(UserWarning, match="LinearLR warms up too, .* use warmup_epochs=0"):
        fit(Scheduled(schedule, interval="step"), LearningRateScaling(2, warmup_epochs=1))


def test_a_rule_of_ones_own_must_return_a_factor():
    with pytest.raises(ValueError, match=r"rule returns for batch_size=8 .* must be a positive number, got -1"):
        fit(Scheduled(), LearningRateScaling(2, rule=lambda size, base: -1, warmup_epochs=0))
