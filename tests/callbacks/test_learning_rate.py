import math

import pytest
import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import LearningRateMonitor
from torch.optim import lr_scheduler as lrs

from lightning_gap import LearningRateScaling

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


SCHEDULES = {
    "none": (None, "epoch"),
    "step": (lambda o: lrs.StepLR(o, 2, 0.1), "epoch"),
    "multistep": (lambda o: lrs.MultiStepLR(o, [5, 11]), "step"),
    "exponential": (lambda o: lrs.ExponentialLR(o, 0.9), "step"),
    "lambda": (lambda o: lrs.LambdaLR(o, lambda t: 1 / (1 + t)), "step"),
    "polynomial": (lambda o: lrs.PolynomialLR(o, 20), "step"),
    "cosine": (lambda o: lrs.CosineAnnealingLR(o, 24, eta_min=0.01), "step"),
    "restarts": (lambda o: lrs.CosineAnnealingWarmRestarts(o, 7), "step"),
    "onecycle": (lambda o: lrs.OneCycleLR(o, 0.5, total_steps=30), "step"),
    "cyclic": (lambda o: lrs.CyclicLR(o, 0.01, 0.1, step_size_up=5), "step"),
    "sequential": (lambda o: lrs.SequentialLR(o, [lrs.LinearLR(o), lrs.CosineAnnealingLR(o, 20)], [4]), "step"),
    "plateau": (lambda o: lrs.ReduceLROnPlateau(o, patience=0, threshold=10.0, min_lr=0.001), "epoch"),
}


def fit(module, *callbacks, epochs=EPOCHS, **options):
    torch.manual_seed(0)
    trainer = tiny.trainer(*callbacks, max_epochs=epochs, **options)
    trainer.fit(module, tiny.loader(batch_size=BATCH))
    return trainer


def on_paper(step, warmup_epochs, scale):
    """Goyal et al., section 2.2, written out."""
    warmup = warmup_epochs * STEPS_PER_EPOCH
    return scale if step >= warmup else 1 + (scale - 1) * step / warmup


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # SequentialLR, in older torch
@pytest.mark.parametrize("warmup_epochs", [0, 2])
@pytest.mark.parametrize("name", SCHEDULES)
def test_each_step_uses_the_users_rate_times_the_factor(name, warmup_epochs):
    schedule, interval = SCHEDULES[name]
    plain = Scheduled(schedule, interval=interval)
    plain_trainer = fit(plain)
    scaled = Scheduled(schedule, interval=interval)
    scaled_trainer = fit(scaled, LearningRateScaling(2, warmup_epochs=warmup_epochs))
    expected = [rate * on_paper(step, warmup_epochs, 4.0) for step, rate in enumerate(plain.used)]
    assert len(plain.used) == EPOCHS * STEPS_PER_EPOCH
    if name != "plateau":  # there the rates depend on the losses, and those on the scaled steps
        assert scaled.used == pytest.approx(expected, rel=1e-12)
        held = [t.optimizers[0].param_groups[0]["lr"] for t in (plain_trainer, scaled_trainer)]
        assert held[0] == held[1]  # what a checkpoint would hold is the unscaled schedule
    else:
        assert scaled.used[0] == pytest.approx(0.05 * on_paper(0, warmup_epochs, 4.0))
        assert scaled_trainer.optimizers[0].param_groups[0]["lr"] < 0.05


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


def test_a_resumed_run_uses_the_same_rates(tmp_path):
    whole = Scheduled(*SCHEDULES["lambda"][:1], interval="step")
    fit(whole, LearningRateScaling(2, warmup_epochs=3))
    first = Scheduled(*SCHEDULES["lambda"][:1], interval="step")
    fit(first, LearningRateScaling(2, warmup_epochs=3), epochs=2).save_checkpoint(tmp_path / "half.ckpt")
    second = Scheduled(*SCHEDULES["lambda"][:1], interval="step")
    trainer = tiny.trainer(LearningRateScaling(2, warmup_epochs=3), max_epochs=EPOCHS)
    trainer.fit(second, tiny.loader(batch_size=BATCH), ckpt_path=tmp_path / "half.ckpt")
    assert first.used + second.used == whole.used


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


def test_two_scalings_are_refused():
    with pytest.raises(ValueError, match="more than one LearningRateScaling: the rate would be scaled twice"):
        fit(Scheduled(), LearningRateScaling(2), LearningRateScaling(4))


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(tiny.dataset(24))


def test_a_loader_without_length_needs_no_warmup_epochs():
    loader = torch.utils.data.DataLoader(Stream(), batch_size=BATCH)
    with pytest.raises(ValueError, match="warmup_epochs=5 has no length in steps"):
        tiny.trainer(LearningRateScaling(2)).fit(Scheduled(), loader)
    module = Scheduled()
    tiny.trainer(LearningRateScaling(2, warmup_epochs=0), max_epochs=1).fit(module, loader)
    assert module.used == pytest.approx([0.2] * 3)


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
def test_a_base_batch_that_is_no_size_is_refused(base):
    with pytest.raises(ValueError, match="base_batch_size must be a whole number of samples, at least 1"):
        LearningRateScaling(base)


@pytest.mark.parametrize("epochs", [-1, math.nan, math.inf])
def test_a_negative_warmup_is_refused(epochs):
    with pytest.raises(ValueError, match="warmup_epochs must not be negative or infinite"):
        LearningRateScaling(warmup_epochs=epochs)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="rule must be one of 'linear', 'sqrt'"):
        LearningRateScaling(rule="cubic")
