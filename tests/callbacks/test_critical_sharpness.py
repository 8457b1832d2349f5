import csv
import math

import pytest
import tiny
import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss, scaled_dot_product_attention

from lightning_gap import BatchSizeScheduler, CriticalSharpnessMonitor, ExactAccumulation, LearningRateScaling
from lightning_gap.functional import batch_statistics

NAMES = ("sharpness", "learning_rate", "multiple", "evaluations")


class Regression(LightningModule):
    """A linear model with squared error: the loss of a batch is a parabola, and its Hessian known."""

    def __init__(self, make_optimizer):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(8, 2)
        self.make_optimizer = make_optimizer

    def training_step(self, batch, batch_idx):
        return self.loss(batch)

    def loss(self, batch):
        return mse_loss(self.net(batch[0]), nn.functional.one_hot(batch[1], 3)[:, :2].to(batch[0]))

    def configure_optimizers(self):
        return self.make_optimizer(self.net)


class Watches(Callback):
    """The multiple of each step's update that is critical for its batches, by the parabola that their loss is."""

    def __init__(self, keep=None):
        self.keep, self.expected, self.batches = keep, [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if not self.batches:
            self.before = [p.detach().double().clone() for p in pl_module.net.parameters()]
            self.step = trainer.global_step
        self.batches.append(batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            return
        after = [p.detach().double() for p in pl_module.net.parameters()]
        d = torch.cat([(b - a).flatten() for b, a in zip(self.before, after, strict=True)])
        w = torch.cat([b.flatten() for b in self.before])
        x = torch.cat([batch[0] for batch in self.batches[: self.keep]]).double()
        y = nn.functional.one_hot(torch.cat([batch[1] for batch in self.batches[: self.keep]]), 3)[:, :2].double()

        def loss(flat):
            return mse_loss(x @ flat[:16].view(2, 8).T + flat[16:], y)

        g = torch.autograd.functional.jacobian(loss, w)
        hessian = torch.autograd.functional.hessian(loss, w)
        self.expected.append(float(2 * g @ d / (d @ hessian @ d)))
        self.batches = []


class Reads(Callback):
    """What is logged, step by step."""

    def __init__(self):
        self.logged = {}

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        found = trainer.callback_metrics
        if "curvature/critical_multiple" in found:
            self.logged[trainer.global_step] = {n: float(found[f"curvature/critical_{n}"]) for n in NAMES}


def fit(monitor, *others, module, epochs=2, loader=None, **options):
    reads = Reads()
    trainer = tiny.trainer(monitor, *others, reads, max_epochs=epochs, **options)
    trainer.fit(module, tiny.loader() if loader is None else loader)
    return reads.logged, trainer


def every_step(**changed):
    return CriticalSharpnessMonitor(**{"every_n_steps": 1, "max_time_share": None} | changed)


def two_groups(net):
    return torch.optim.SGD([{"params": [net.weight], "lr": 0.01}, {"params": [net.bias], "lr": 0.04}], momentum=0.9)


@pytest.mark.parametrize(
    ("make", "rate"),
    [
        (lambda net: torch.optim.SGD(net.parameters(), lr=0.02), 0.02),
        (lambda net: torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.1), 0.01),
        (lambda net: torch.optim.AdamW(net.parameters(), lr=0.003), 0.003),
        (two_groups, 0.04),
    ],
)
def test_it_is_exact_for_a_parabola_along_the_update_that_the_optimizer_made(make, rate):
    watches = Watches()
    logged, _ = fit(every_step(), watches, module=Regression(make), precision="64-true")
    assert len(watches.expected) == len(logged) == 6
    for seen, multiple in zip(logged.values(), watches.expected, strict=True):
        assert multiple > 0
        assert seen["multiple"] == pytest.approx(multiple, rel=1e-6)  # metrics are float32
        assert seen["learning_rate"] == pytest.approx(multiple * rate, rel=1e-6)
        assert seen["sharpness"] == pytest.approx(2 / (multiple * rate), rel=1e-6)
    assert all(seen["evaluations"] <= 7 for step, seen in logged.items() if step > 1)


@pytest.mark.parametrize("keep", [None, 1])
@pytest.mark.parametrize("exact", [False, True])
def test_under_accumulation_it_measures_on_the_micro_batches_of_the_step_or_some_of_them(keep, exact):
    """Of 16, 16, 11 samples, the last of which counts as much as the others where micro-batches are not weighed."""

    class Weighed(Watches):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if not exact and keep is None:  # each mean counts alike, as if its samples were there more often
                self.batches = [[torch.cat([t] * (176 // len(t))) for t in batch] for batch in self.batches]
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    watches = Weighed(keep)
    module = Regression(lambda net: torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.5))
    others = [ExactAccumulation()] if exact else []
    logged, _ = fit(
        every_step(micro_batches=keep),
        watches,
        *others,
        module=module,
        loader=tiny.loader(43),
        accumulate_grad_batches=3,
        precision="64-true",
    )
    assert [seen["multiple"] for seen in logged.values()] == pytest.approx(watches.expected, rel=1e-6)
    assert len(logged) == 2


def test_dropout_is_off_and_batch_norm_normalises_by_the_batch_or_not():
    class Keeps(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.before, self.batch = tiny.state_of(pl_module), batch

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.after = tiny.state_of(pl_module)

    def loss_at(keeps, multiple, mode):
        module = tiny.TinyClassifier()
        names = dict(module.named_parameters())
        module.load_state_dict(
            {n: v + multiple * (keeps.after[n] - v) if n in names else v for n, v in keeps.before.items()}
        )
        module.double().eval()
        inputs, targets = keeps.batch
        if mode == "running":
            buffers = {n: v for n, v in keeps.after.items() if n not in names}  # those of the moment
            module.load_state_dict({**module.state_dict(), **buffers})
            return float(cross_entropy(module.net(inputs.double()), targets).detach())
        with batch_statistics(module):
            return float(cross_entropy(module.net(inputs.double()), targets).detach())

    for mode in ("batch", "running"):
        keeps = Keeps()
        monitor = every_step(batch_norm=mode, tolerance=0.01, max_evaluations=20)
        logged, _ = fit(monitor, keeps, module=tiny.TinyClassifier(dropout=0.5), precision="64-true")
        multiple = logged[6]["multiple"]
        start = loss_at(keeps, 0.0, mode)
        assert loss_at(keeps, multiple * 0.99, mode) < start < loss_at(keeps, multiple * 1.01, mode)


def steps_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["curvature/critical_multiple"]]


def test_it_logs_every_n_th_step_beginning_with_the_first_whatever_the_trainers_interval(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    fit(every_step(every_n_steps=4), module=tiny.TinyClassifier(), epochs=3, logger=logger, log_every_n_steps=50)
    assert steps_of(tmp_path) == [0, 4, 8]


def test_what_would_take_more_than_its_share_of_the_time_is_left_out(tmp_path):
    logger = CSVLogger(tmp_path, name="", version="")
    fit(every_step(max_time_share=1e-6), module=tiny.TinyClassifier(), epochs=3, logger=logger)
    assert steps_of(tmp_path) == [0]


@pytest.mark.filterwarnings("ignore:critical sharpness is logged as")  # dropout's updates may lead up without it
def test_the_share_of_the_time_is_kept(monkeypatch):
    """By a clock that moves only in steps, 1 s each, and in evaluations, 0.25 s each."""
    clock = [0.0]
    monkeypatch.setattr("lightning_gap.callbacks._schedule.time.perf_counter", lambda: clock[0])

    class Timed(tiny.TinyClassifier):
        measuring = 0

        def training_step(self, batch, batch_idx):
            clock[0] += 1.0 if self.training else 0.25
            return super().training_step(batch, batch_idx)

    logged, trainer = fit(CriticalSharpnessMonitor(every_n_steps=1, max_time_share=0.1), module=Timed(), epochs=100)
    assert trainer.global_step == 300
    budget = trainer.callbacks[0]._budget
    assert 0.05 * 300 < budget._spent <= 0.1 * 300 + 2  # the last may take longer than the one before
    assert 8 < len({str(seen) for seen in logged.values()}) < 25  # of 1 to 3 s each


def test_the_learning_rate_is_the_scaled_one():
    scaled, _ = fit(every_step(), LearningRateScaling(8, warmup_epochs=0), module=tiny.TinyClassifier())
    for seen in scaled.values():
        assert seen["learning_rate"] == pytest.approx(seen["multiple"] * 0.05 * 2)  # 16 samples, tuned for 8


@pytest.mark.parametrize(
    ("make", "told", "multiple"),
    [
        (lambda net: torch.optim.SGD(net.parameters(), lr=0.01, maximize=True), "lowers the loss", math.nan),
        (lambda net: torch.optim.SGD(net.parameters(), lr=0.0), "direction is zero", math.nan),
    ],
)
def test_where_there_is_none_it_is_nan_and_the_reason_is_said_once(make, told, multiple):
    with pytest.warns(UserWarning, match=told) as caught:
        logged, _ = fit(every_step(), module=Regression(make))
    assert all(math.isnan(seen["multiple"]) and math.isnan(seen["sharpness"]) for seen in logged.values())
    assert len([each for each in caught if told in str(each.message)]) == 1


def test_without_a_learning_rate_the_multiple_is_known():
    class Steps(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {})

        @torch.no_grad()
        def step(self, closure=None):
            loss = closure()
            for group in self.param_groups:
                for weight in group["params"]:
                    weight.sub_(0.02 * weight.grad)
            return loss

    watches = Watches()
    logged, _ = fit(every_step(), watches, module=Regression(lambda net: Steps(net.parameters())), precision="64-true")
    assert [seen["multiple"] for seen in logged.values()] == pytest.approx(watches.expected, rel=1e-6)
    assert all(math.isnan(seen["learning_rate"]) for seen in logged.values())


def test_a_diverged_run_goes_on():
    class Diverges(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            return super().training_step(batch, batch_idx) * (math.nan if self.global_step else 1.0)

    with pytest.warns(UserWarning, match="critical sharpness is logged as nan: the loss at params must be finite"):
        logged, trainer = fit(every_step(), module=Diverges())
    assert trainer.global_step == 6
    assert math.isnan(logged[6]["multiple"])


class Attention(LightningModule):
    """Causal attention by the fused kernel, which has no double backward; compiled if asked to."""

    def __init__(self, *, compiled):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.ModuleDict({"embed": nn.Linear(1, 16), "heads": nn.Linear(16, 48), "out": nn.Linear(16, 3)})
        self.scores = torch.compile(self.plain, backend="aot_eager") if compiled else self.plain

    def plain(self, x):
        h = self.net["embed"](x[..., None])
        q, k, v = self.net["heads"](h).unflatten(-1, (2, 24)).transpose(1, 2).chunk(3, dim=-1)
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.FLASH_ATTENTION):
            h = h + scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return self.net["out"](nn.functional.dropout(h, 0.1, self.training)).mean(1)

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.scores(batch[0]), batch[1])

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=0.01)


@pytest.mark.parametrize("compiled", [False, True])
def test_fused_attention_and_compiled_modules_can_be_measured_and_train_to_the_same_bits(compiled):
    plain, seen = (Attention(compiled=compiled) for _ in range(2))
    torch.manual_seed(1)
    tiny.trainer(max_epochs=2).fit(plain, tiny.loader(shuffle=True))
    torch.manual_seed(1)
    logged, _ = fit(every_step(), module=seen, loader=tiny.loader(shuffle=True))
    assert len(logged) == 6
    assert all(0 < values["sharpness"] < math.inf for values in logged.values())
    assert tiny.same(tiny.state_of(plain), tiny.state_of(seen))


def test_it_goes_where_the_batch_grows():
    logged, trainer = fit(
        every_step(), BatchSizeScheduler({0: 16, 1: 48}, max_micro_batch=16), module=tiny.TinyClassifier()
    )
    assert trainer.global_step == len(logged) == 4


class Random(tiny.TinyClassifier):
    def training_step(self, batch, batch_idx):
        self.calls = [*getattr(self, "calls", []), 1]
        return super().training_step(batch, batch_idx) * (1 + next(NOISE))


NOISE = iter(torch.rand(10_000, generator=torch.Generator().manual_seed(0)).tolist())


class ByHand(tiny.TinyClassifier):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Iterates(tiny.TinyClassifier):
    def training_step(self, dataloader_iter):
        return None


class Writes(tiny.TinyClassifier):
    def training_step(self, batch, batch_idx):
        self.net[0].weight.data.mul_(0.99)
        return super().training_step(batch, batch_idx)


class Fails(tiny.TinyClassifier):
    def training_step(self, batch, batch_idx):
        if not self.training:
            raise RuntimeError("only when it trains")
        return super().training_step(batch, batch_idx)


class Untrained(tiny.TinyClassifier):
    def configure_optimizers(self):
        return None


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Random, "the loss is random"),
        (ByHand, "optimizes manually"),
        (Iterates, "dataloader_iter would fetch the next one"),
        (Writes, r"training_step writes to the trained weight net\.0\.weight"),
        (Fails, "cannot be measured in evaluation mode: RuntimeError: only when it trains"),
        (Untrained, "configure_optimizers of Untrained gives none"),
    ],
)
@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
@pytest.mark.filterwarnings("ignore:`LightningModule.configure_optimizers` returned `None`")
def test_what_cannot_be_measured_is_refused_before_the_first_step(module, message):
    made = module()
    start = tiny.state_of(made)
    with pytest.raises(ValueError, match=message):
        fit(every_step(), module=made)
    if module is not Writes:
        assert tiny.same(tiny.state_of(made), start)


def test_sharded_weights_are_refused():
    class FSDPStrategy(type(tiny.trainer().strategy)):
        """What it is called is what is asked."""

    with pytest.raises(ValueError, match="needs whole parameters on every process, and FSDPStrategy shards them"):
        fit(every_step(), module=tiny.TinyClassifier(), strategy=FSDPStrategy(device="cpu"), accelerator="auto")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps must be a whole number, at least 1, got 0"),
        ({"micro_batches": 0}, "micro_batches must be a whole number, at least 1, got 0"),
        ({"batch_norm": "recomputed"}, "batch_norm must be one of 'batch', 'running', got 'recomputed'"),
        ({"tolerance": 0.0}, "tolerance must be a number, above 0 and below 1, got 0.0"),
        ({"max_evaluations": 4}, "max_evaluations must be a whole number, at least 5, got 4"),
        ({"max_time_share": 0}, "max_time_share must be a positive number"),
        ({"loss_fn": 1}, r"loss_fn must be a function of \(module, batch\), got 1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CriticalSharpnessMonitor(**arguments)
