"""What each update had is what a loop by hand would have set, and between the steps all is the user's own."""

import math

import pytest
import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler, ModelCheckpoint
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_avg_fn

from lightning_gap import AdaptiveBatchSize, BatchSizeScheduler, LearningRateScaling, OptimizerScaling, ResumableLoader
from lightning_gap.functional import SmithGrowth

BASE, SIZES = 2, (8, 32, 16)  # samples, by epoch: 48 of them each
BETAS, ALPHA = (1 - 1 / 64, 1 - 1 / 512), 1 - 1 / 64  # so that 1 - k (1 - beta) has no rounding


class Module(tiny.TinyClassifier):
    """Notes the hyperparameters of each update, and those that the training step finds."""

    def __init__(self, make, schedule=None, **options):
        super().__init__(dropout=0.0, **options)
        self.make, self.schedule, self.used, self.found = make, schedule, [], []
        self.double()

    def configure_optimizers(self):
        optimizer = self.make(self.parameters())
        notes, own = self.used, type(optimizer)._init_group

        class Noted(type(optimizer)):
            def _init_group(self, group, *rest):  # called inside the step, for each group
                notes.append(own_values(group))
                return own(self, group, *rest)

        Noted.__name__ = type(optimizer).__name__
        optimizer.__class__ = Noted
        if self.schedule is None:
            return optimizer
        return [optimizer], [{"scheduler": self.schedule(optimizer), "interval": "step"}]

    def training_step(self, batch, batch_idx):
        self.found += [own_values(group) for group in self.trainer.optimizers[0].param_groups]
        return cross_entropy(self(batch[0].double()), batch[1])


def own_values(group):
    return {name: value for name, value in group.items() if name in ("lr", "betas", "alpha", "eps", "weight_decay")}


def loader(size=8, **options):
    return tiny.loader(batch_size=size, **options)


def fit(module, *callbacks, epochs=3, **options):
    trainer = tiny.trainer(*callbacks, max_epochs=epochs, precision="64-true", **options)
    trainer.fit(module, loader())
    return trainer


def adamw(parameters, **options):
    return AdamW(parameters, **{"lr": 0.01, "betas": BETAS, "weight_decay": 0.1, **options})


def of_tensors(parameters):
    values = [torch.tensor(value, dtype=torch.float64) for value in (0.01, *BETAS)]
    return AdamW(parameters, lr=values[0], betas=tuple(values[1:]), foreach=False)


def root_of_adam(k, own):
    """Malladi et al. (2022), the rule for Adam, written out; and that for RMSprop."""
    average = {"alpha": 1 - k * (1 - own["alpha"])} if "alpha" in own else {}
    average |= {"betas": tuple(1 - k * (1 - beta) for beta in own["betas"])} if "betas" in own else {}
    return {"lr": own["lr"] * math.sqrt(k), "eps": own["eps"] / math.sqrt(k), **average}


def three_of_adamw(k, own):
    betas = own["betas"][0], own["betas"][1] ** k
    return {"lr": own["lr"] * math.sqrt(k), "betas": betas, "weight_decay": own["weight_decay"] * (k / math.sqrt(k))}


RULES = {
    "linear": (
        lambda parameters: SGD(parameters, 0.01, momentum=0.9, weight_decay=0.01),
        "linear",
        lambda k, own: {"lr": own["lr"] * k},
    ),
    "sqrt": (
        lambda parameters: SGD(parameters, 0.01, momentum=0.9, weight_decay=0.01, fused=True),
        "sqrt",
        lambda k, own: {"lr": own["lr"] * math.sqrt(k), "weight_decay": own["weight_decay"] * (k / math.sqrt(k))},
    ),
    "adaptive, Adam": (lambda parameters: Adam(parameters, 0.01, BETAS, 1e-4), "adaptive_sqrt", root_of_adam),
    "adaptive, fused": (lambda parameters: adamw(parameters, fused=True), "adaptive_sqrt", root_of_adam),
    "adaptive, foreach": (lambda parameters: adamw(parameters, foreach=True), "adaptive_sqrt", root_of_adam),
    "adaptive, tensors": (of_tensors, "adaptive_sqrt", root_of_adam),
    "adaptive, RMSprop": (lambda parameters: RMSprop(parameters, 0.01, ALPHA), "adaptive_sqrt", root_of_adam),
    "three": (adamw, ("sqrt", "half_life", "timescale"), three_of_adamw),
}


@pytest.fixture(params=RULES)
def case(request):
    return RULES[request.param]


def cosine(optimizer):
    return CosineAnnealingLR(optimizer, 20, eta_min=1e-4)


def step_by_hand(optimizer, k, by_hand):
    """A step with other hyperparameters, which are the user's own again after it."""
    own = [dict(group) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group.update(by_hand(k, group))
    optimizer.step()
    for group, values in zip(optimizer.param_groups, own, strict=True):
        group.update(values)


def assert_same_weights(module, other):
    assert tiny.same(tiny.state_of(module), tiny.state_of(other))


@pytest.mark.promise("rules")
def test_a_batch_that_changes_between_epochs_is_the_loop_by_hand_to_the_bit(case):
    make, rule, by_hand = case
    module, plain = (Module(make, cosine) for _ in range(2))
    fit(module, OptimizerScaling(BASE, rule), BatchSizeScheduler(dict(enumerate(SIZES))))
    (optimizer,), ((config),) = plain.configure_optimizers()
    for size in SIZES:
        for inputs, targets in loader(size):
            optimizer.zero_grad()
            cross_entropy(plain(inputs.double()), targets).backward()
            step_by_hand(optimizer, size / BASE, by_hand)
            config["scheduler"].step()
    assert_same_weights(module, plain)
    assert tiny.same(module.used, plain.used)
    assert len(module.used) == 6 + 2 + 3


class Gradients(Callback):
    """Of each step, with the size of its batch."""

    def __init__(self):
        self.seen = []

    def on_before_optimizer_step(self, trainer, module, optimizer):
        size = 4 * trainer.accumulate_grad_batches
        self.seen.append((trainer.current_epoch, size, [p.grad.clone() for p in module.parameters()]))


@pytest.mark.promise("rules")
def test_a_batch_that_changes_inside_an_epoch_is_the_loop_by_hand_to_the_bit(case):
    make, rule, by_hand = case
    module, plain, gradients = Module(make), Module(make), Gradients()
    grows = AdaptiveBatchSize(
        8, 32, theta=0.01, micro_batches=2, max_micro_batch=4, measure_every_n_steps=1, decide_every_n_steps=1
    )
    fit(module, grows, OptimizerScaling(BASE, rule), gradients, epochs=2)
    assert {size for epoch, size, _ in gradients.seen if epoch == 0} == {8, 16, 32}
    optimizer = plain.configure_optimizers()
    for _, size, gradient in gradients.seen:
        for p, value in zip(plain.parameters(), gradient, strict=True):
            p.grad = value
        step_by_hand(optimizer, size / BASE, by_hand)
    assert tiny.same(module.used, plain.used)
    assert all(map(torch.equal, module.parameters(), plain.parameters()))


def test_between_the_steps_and_in_checkpoints_all_is_the_users_own(case):
    make, rule, _ = case
    module, plain = Module(make, cosine), Module(make, cosine)
    sizes = dict(enumerate(SIZES))
    trainer = fit(module, OptimizerScaling(BASE, rule), BatchSizeScheduler(sizes))
    other = fit(plain, BatchSizeScheduler(sizes))
    assert tiny.same(module.found, plain.found)
    assert not tiny.same(module.used, plain.used)
    states = [each._checkpoint_connector.dump_checkpoint() for each in (trainer, other)]
    assert tiny.same(*(state["optimizer_states"][0]["param_groups"] for state in states))
    assert tiny.same(*(state["lr_schedulers"] for state in states))


def test_betas_that_a_scheduler_cycles_are_scaled_as_they_come():
    def one_cycle(optimizer):
        return OneCycleLR(optimizer, 0.01, total_steps=30, base_momentum=0.85, max_momentum=0.95)

    module, plain = Module(adamw, one_cycle), Module(adamw, one_cycle)
    fit(module, OptimizerScaling(BASE, "adaptive_sqrt"), epochs=2)
    fit(plain, epochs=2)
    first = [own["betas"][0] for own in plain.used]
    assert len({*first}) == 12
    assert [own["betas"][0] for own in module.used] == pytest.approx([1 - 4 * (1 - beta) for beta in first], rel=1e-12)
    with pytest.raises(ValueError, match=r"AdamW, parameter group 0: .* 0.85 at .* at most 13, a beta1"):
        fit(Module(adamw, one_cycle), OptimizerScaling(BASE, "adaptive_sqrt"), BatchSizeScheduler({0: 8, 1: 16}))


class Saved(Callback):
    """What is logged at each step."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_end(self, trainer, *_):
        self.seen[trainer.global_step] = {name: float(value) for name, value in trainer.callback_metrics.items()}


def averaging(**options):
    """Lightning's callback, of lightning 2.6."""
    callbacks = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging")
    return callbacks.EMAWeightAveraging(**options)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_run_resumed_at_any_step_ends_the_same_to_the_bit(tmp_path):
    def run(ckpt_path=None):
        module, saved = Module(adamw, cosine), Saved()
        saving = ModelCheckpoint(
            tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1, save_on_train_epoch_end=False
        )
        callbacks = [
            OptimizerScaling(BASE, ("adaptive_sqrt", "timescale")),
            BatchSizeScheduler(dict(enumerate(SIZES))),
            averaging(decay=0.99),
            saved,
        ]
        trainer = tiny.trainer(
            *callbacks, *([] if ckpt_path else [saving]), enable_checkpointing=not ckpt_path, max_epochs=3
        )
        trainer.fit(module, ResumableLoader(tiny.dataset(), batch_size=8, shuffle=True, seed=1), ckpt_path=ckpt_path)
        return saved.seen, tiny.state_of(module), trainer.optimizers[0].state_dict()

    whole = run()
    for step in (2, 6, 7, 8, 10):  # inside epochs and at their ends
        seen, *end = run(tmp_path / f"step={step}.ckpt")
        assert tiny.same(end, list(whole[1:])), step
        assert seen == {number: values for number, values in whole[0].items() if number > step}


def test_what_it_logs_is_what_the_updates_had():
    def two_groups(parameters):
        first, *rest = parameters
        return adamw([{"params": [first]}, {"params": rest, "lr": 0.1, "betas": (0.75, 0.875), "weight_decay": 0}])

    module, saved = Module(two_groups), Saved()
    fit(module, OptimizerScaling(4, ("adaptive_sqrt", "timescale")), saved, epochs=1)
    first, second = module.used[-2:]
    expected = {
        "lr/effective": first["lr"],
        "lr/effective_1": second["lr"],
        "lr/scale": math.sqrt(2),
        "batch/size": 8.0,
        "optimizer/weight_decay": first["weight_decay"],  # the second group has none
    }
    for suffix, used in (("", first), ("_1", second)):
        expected |= {f"optimizer/beta{i + 1}{suffix}": beta for i, beta in enumerate(used["betas"])}
        expected |= {f"optimizer/eps{suffix}": used["eps"]}
    assert saved.seen[6] == pytest.approx(expected, rel=1e-6)
    assert second["betas"] == (0.5, 0.75)


def test_only_what_the_rule_changes_is_logged():
    keys = {}
    for rule, make in (("half_life", adamw), ("timescale", adamw), ("half_life", lambda p: RMSprop(p, alpha=ALPHA))):
        saved = Saved()
        fit(Module(make), OptimizerScaling(4, rule), saved, epochs=1)
        keys[rule, make is adamw] = set(saved.seen[6])
    assert keys == {
        ("half_life", True): {"optimizer/beta2", "batch/size"},
        ("timescale", True): {"optimizer/weight_decay", "batch/size"},
        ("half_life", False): {"optimizer/alpha", "batch/size"},
    }


class Averages(Callback):
    """The weights after each step and the average of them."""

    def __init__(self, averaging):
        self.averaging, self.weights, self.averages = averaging, [], []

    def note(self, trainer, module):
        self.weights.append(module.net[0].weight.detach().clone())
        self.averages.append(self.averaging._average_model.module.net[0].weight.detach().clone())

    def on_train_batch_end(self, trainer, module, *_):
        self.note(trainer, module)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"update_every_n_steps": 2}, {"update_starting_at_epoch": 0, "update_every_n_steps": 3}]
)
def test_the_average_of_the_weights_forgets_as_much_per_sample(first, options):
    """After steps; what Lightning is asked to do at the end of an epoch, too, is done once whatever the batch."""
    average = averaging(decay=0.9, **options)
    watch, scaling, module = Averages(average), OptimizerScaling(BASE, "linear"), Module(RULES["linear"][0])
    fit(
        module,
        *([scaling, average] if first else [average, scaling]),
        BatchSizeScheduler(dict(enumerate(SIZES))),
        watch,
    )
    expected, step, every_n = watch.weights[0], 0, options.get("update_every_n_steps", 1)
    for size in SIZES:
        for _ in range(math.ceil(48 / size)):
            weights = watch.weights[step]
            if step % every_n == 0 and step > 0:  # the first update takes the weights as they are
                decay = 0.9 ** (size / BASE)
                expected = decay * expected + (1 - decay) * weights
            assert torch.equal(watch.averages[step], expected), step
            step += 1
        if "update_starting_at_epoch" in options:
            expected = 0.9 * expected + (1 - 0.9) * weights
    assert step == len(watch.averages) == 11
    assert average._average_model.avg_fn is average._kwargs["avg_fn"]


def test_an_average_that_is_updated_once_an_epoch_keeps_its_decay():
    def average(*callbacks):
        ema, module = averaging(decay=0.9, update_every_n_steps=0, update_starting_at_epoch=0), Module(common_adam)
        fit(module, *callbacks, ema)
        return tiny.state_of(module)  # the average, at the end

    assert tiny.same(
        average(OptimizerScaling(2, "linear")), average(OptimizerScaling(2, "linear", scale_ema_decay=False))
    )


def test_an_average_is_left_alone_on_request_and_where_all_weights_count_alike():
    plain = pytest.importorskip("lightning.pytorch.callbacks.weight_averaging").WeightAveraging

    class Keeps(Callback):
        def on_train_start(self, trainer, module):
            self.function = average._average_model.avg_fn

        def on_train_batch_end(self, *_):
            assert average._average_model.avg_fn is self.function

    for average, options in (
        (averaging(decay=0.9), {"scale_ema_decay": False}),
        (plain(), {}),
        (plain(avg_fn=get_swa_avg_fn()), {}),
    ):
        fit(Module(RULES["linear"][0]), Keeps(), OptimizerScaling(BASE, "linear", **options), average, epochs=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: averaging(decay=1.0), "decay must be a number, at least 0 and below 1, got 1.0"),
        (
            lambda plain: plain(multi_avg_fn=get_ema_multi_avg_fn(0.9)),
            "scale_ema_decay=True: the multi_avg_fn of WeightAveraging .* use EMAWeightAveraging",
        ),
        (
            lambda plain: plain(avg_fn=lambda average, now, n: average + (now - average) / (n + 5)),
            "scale_ema_decay=True: the avg_fn of WeightAveraging",
        ),
    ],
)
def test_an_average_whose_decay_cannot_follow_is_refused(make, message):
    average = make(pytest.importorskip("lightning.pytorch.callbacks.weight_averaging").WeightAveraging)
    assert_refused(message, Module(RULES["linear"][0]), OptimizerScaling(BASE, "linear"), average)


def assert_refused(message, module, *callbacks, **options):
    trainer = tiny.trainer(*callbacks, max_epochs=9, precision="64-true", **options)
    with pytest.raises(ValueError, match=message):
        trainer.fit(module, loader())
    assert trainer.global_step == 0


def plain_sgd(parameters):
    return SGD(parameters, 0.1)


def common_adam(parameters):
    return AdamW(parameters, 0.01)  # betas 0.9 and 0.999


@pytest.mark.parametrize(
    ("make", "callbacks", "message"),
    [
        (plain_sgd, [OptimizerScaling(4, "adaptive_sqrt")], "SGD, parameter group 0: .*'adaptive_sqrt' needs betas"),
        (plain_sgd, [OptimizerScaling(4, "half_life")], "SGD, parameter group 0: .*'half_life' needs betas"),
        (plain_sgd, [OptimizerScaling(4, "timescale")], "SGD: .*weight_decay=0 in all parameter groups; give it one"),
        (
            lambda p: torch.optim.Adamax(p, weight_decay=0.1),
            [OptimizerScaling(4, "timescale")],
            "Adamax, parameter group 0: .* weight_decay=0.1 is coupled here",
        ),
        (
            lambda p: AdamW([{"params": [next(p)]}, {"params": list(p), "betas": (0.5, 0.9)}]),
            [OptimizerScaling(4, "adaptive_sqrt")],
            "AdamW, parameter group 1: .*no beta1 for batch_size=8: 0.5 .* at most 7, a beta1",
        ),
        (
            common_adam,
            [OptimizerScaling(4, "adaptive_sqrt"), BatchSizeScheduler({0: 8, 7: 40})],
            "AdamW, parameter group 0: .* batch_size=40: 0.9 .* at most 39",
        ),
        (
            common_adam,
            [AdaptiveBatchSize(8, 48, micro_batches=2), OptimizerScaling(4, "adaptive_sqrt")],
            "AdamW, parameter group 0: .* batch_size=48: 0.9 .* at most 39",
        ),
        (
            common_adam,
            [OptimizerScaling(4, "adaptive_sqrt"), GradientAccumulationScheduler({3: 5})],
            "AdamW, parameter group 0: .* batch_size=40: 0.9 .* at most 39",
        ),
        (
            common_adam,
            [OptimizerScaling(4, "sqrt"), LearningRateScaling(4)],
            "OptimizerScaling and LearningRateScaling both scale the learning rate",
        ),
        (
            common_adam,
            [LearningRateScaling(4), OptimizerScaling(4, "timescale")],
            "LearningRateScaling and OptimizerScaling both scale the learning rate",
        ),
        (
            common_adam,
            [OptimizerScaling(4, "sqrt"), OptimizerScaling(4, "half_life")],
            "OptimizerScaling and OptimizerScaling both scale hyperparameters .* both rules",
        ),
        (
            common_adam,
            [OptimizerScaling(4, "sqrt"), BatchSizeScheduler(SmithGrowth(8, [1], 16, factor=4))],
            "OptimizerScaling and BatchSizeScheduler both change the learning rate .* leaves the learning rate alone",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(make, callbacks, message):
    assert_refused(message, Module(make), *callbacks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_batch_size": 0}, "base_batch_size must be a whole number of samples, at least 1, got 0"),
        ({"rule": "root"}, "rule must be one of 'linear', .* got 'root'"),
        ({"rule": ("linear", "surge")}, "'linear' and 'surge' both set lr"),
        ({"rule": "surge"}, "noise_scale must be a positive number, got None"),
        ({"rule": "surge", "noise_scale": 0}, "noise_scale must be a positive number, got 0"),
        ({"noise_scale": 100.0}, "noise_scale=100.0 is used by rule='surge' alone"),
        ({"scale_ema_decay": "no"}, "scale_ema_decay must be True or False"),
        ({"micro_batch_size": 0}, "micro_batch_size must be a whole number"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        OptimizerScaling(**{"base_batch_size": 4, "rule": "linear", **arguments})


def test_a_rule_for_beta2_stands_beside_a_scaling_of_the_learning_rate():
    module = Module(common_adam)
    fit(module, LearningRateScaling(2, warmup_epochs=1), OptimizerScaling(2, "half_life"), epochs=2)
    assert [own["lr"] for own in module.used] == [0.01 * (1 + 3 * min(step, 6) / 6) for step in range(12)]
    assert {own["betas"] for own in module.used} == {(0.9, 0.999**4)}


class Wraps(Optimizer):
    """Around another, which makes the update, with its groups or copies of them."""

    def __init__(self, inner, shares):
        super().__init__([dict(group) for group in inner.param_groups], inner.defaults)
        self.inner = inner
        if shares:
            self.param_groups = inner.param_groups

    def step(self, closure=None):
        for own, group in zip(self.param_groups, self.inner.param_groups, strict=True):
            group.update(own_values(own))
        return self.inner.step(closure)


@pytest.mark.parametrize("shares", [True, False])
def test_an_optimizer_in_a_wrapper_is_scaled_once(shares):
    class Wrapped(Module):
        def configure_optimizers(self):
            return Wraps(super().configure_optimizers(), shares)

    module, plain, saved = Wrapped(adamw), Module(adamw), Saved()
    fit(module, OptimizerScaling(BASE, ("adaptive_sqrt", "timescale")), saved)
    fit(plain, OptimizerScaling(BASE, ("adaptive_sqrt", "timescale")))
    assert module.used == plain.used
    assert_same_weights(module, plain)
    assert saved.seen[18]["optimizer/beta1"] == pytest.approx(plain.used[-1]["betas"][0])
    assert module.found == plain.found  # and copies are not left scaled


def test_an_optimizer_that_sets_its_own_betas_inside_the_step_is_refused():
    class Own(AdamW):
        def step(self, closure=None):
            loss = super().step(closure)
            self.param_groups[0]["betas"] = (0.5, 0.9)
            return loss

    module = Module(lambda p: Own(p, betas=BETAS))
    with pytest.raises(ValueError, match="sets its own learning rate or another hyperparameter inside step"):
        fit(module, OptimizerScaling(BASE, "adaptive_sqrt"))


def test_after_an_exception_in_the_step_all_is_the_users_again():
    class Fails(AdamW):
        def _init_group(self, *args):
            raise RuntimeError("user's own")

    module = Module(lambda p: Fails(p, betas=BETAS))
    trainer = tiny.trainer(OptimizerScaling(BASE, "adaptive_sqrt"), averaging(decay=0.9), precision="64-true")
    with pytest.raises(RuntimeError, match="user's own"):
        trainer.fit(module, loader())
    group = trainer.optimizers[0].param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (1e-3, BETAS, 1e-8)


def test_optimizers_that_the_module_steps_by_hand_are_scaled():
    class ByHand(Module):
        automatic_optimization = False

        def training_step(self, batch, batch_idx):
            for optimizer in self.optimizers():
                optimizer.zero_grad()
                self.manual_backward(cross_entropy(self(batch[0].double()), batch[1]))
                optimizer.step()

        def configure_optimizers(self):
            head, body = self.net[-1].parameters(), self.net[0].parameters()
            return [AdamW(head, 0.01, BETAS), RMSprop(body, 0.01, ALPHA)]

    class Sees(Callback):
        def on_train_batch_end(self, trainer, *_):
            self.seen = {name: float(value) for name, value in trainer.callback_metrics.items()}

    sees = Sees()
    fit(ByHand(adamw), OptimizerScaling(BASE, "adaptive_sqrt"), sees, epochs=1)
    rates = {"lr/effective": 0.02, "lr/effective_1": 0.02, "lr/scale": 2.0, "batch/size": 8.0}
    first = {"optimizer/beta1": 1 - 4 / 64, "optimizer/beta2": 1 - 4 / 512, "optimizer/eps": 5e-9}
    second = {"optimizer/alpha_1": 1 - 4 / 64, "optimizer/eps_1": 5e-9}
    assert sees.seen == pytest.approx(rates | first | second, rel=1e-6)
