import pytest
import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import lr_scheduler as lrs

from lightning_gap import BatchSizeScheduler, LearningRateScaling, PiggybackWarmStart, WeightDistanceMonitor


class Module(tiny.TinyClassifier):
    def __init__(self):
        super().__init__(dropout=0.0)
        self.steps = []

    def training_step(self, batch, batch_idx):
        self.steps.append((self.current_epoch, len(batch[1])))
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [lrs.StepLR(optimizer, 1, 0.5)]


class Momentum(Callback):
    """Whether the optimizer remembered anything before each step."""

    def __init__(self):
        self.known, self.rates = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pass

    def on_before_backward(self, trainer, *rest):
        self.known.append(len(trainer.optimizers[0].state) > 0)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(*callbacks, epochs=4, module=None, ckpt_path=None, batch_size=8, **options):
    module, watch = module or Module(), Momentum()
    trainer = tiny.trainer(*callbacks, watch, max_epochs=epochs, **options)
    trainer.fit(module, tiny.loader(48, batch_size=batch_size), ckpt_path=ckpt_path)
    return trainer, module, watch


@pytest.mark.parametrize("state", ["keep", "reset"])
def test_in_one_run_the_small_batch_comes_first_and_the_optimizer_remembers_or_not(state):
    trainer, module, watch = fit(PiggybackWarmStart(2, 24, optimizer_state=state))
    assert module.steps == [(0, 8)] * 6 + [(1, 8)] * 6 + [(2, 24)] * 2 + [(3, 24)] * 2
    first_after = watch.known[12]
    assert first_after == (state == "keep")
    assert watch.known[0] is False
    assert all(watch.known[13:])
    assert (float(trainer.callback_metrics["piggyback/switched"]), float(trainer.callback_metrics["batch/size"])) == (
        1,
        24,
    )


def test_it_is_a_schedule_of_two_sizes():
    states = [
        tiny.state_of(fit(callback)[1])
        for callback in (PiggybackWarmStart(1, 24, optimizer_state="keep"), BatchSizeScheduler({0: 8, 1: 24}))
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("stop", [1, 2, 3])
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_run_switches_once_at_its_epoch(tmp_path, stop):
    def piggyback():
        return PiggybackWarmStart(2, 24, optimizer_state="reset")

    saves = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    _, whole, seen = fit(piggyback(), saves, enable_checkpointing=True)
    _, resumed, watch = fit(piggyback(), ckpt_path=tmp_path / f"epoch={stop - 1}.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert watch.known == seen.known[-len(watch.known) :]


@pytest.fixture
def stored(tmp_path):
    """A small-batch run with a checkpoint of every epoch."""
    saves = ModelCheckpoint(tmp_path, filename="{epoch}", every_n_epochs=1, save_top_k=-1)
    fit(saves, epochs=3, enable_checkpointing=True)
    return tmp_path


def test_from_stored_weights_a_new_run_begins(stored):
    source = stored / "epoch=1.ckpt"
    weights = torch.load(source, weights_only=True)["state_dict"]

    class Begins(Module):
        def on_train_start(self):
            self.at_start = tiny.state_of(self)

    start = PiggybackWarmStart(None, 24, source_checkpoint=source, optimizer_state="reset")
    distance = WeightDistanceMonitor()
    for order in ((start, distance), (distance, start)):
        trainer, module, watch = fit(*order, epochs=2, module=Begins())
        assert all(torch.equal(module.at_start[name], value) for name, value in weights.items())
        assert module.steps == [(0, 24)] * 2 + [(1, 24)] * 2
        assert watch.rates == [0.05] * 2 + [0.025] * 2
        assert (watch.known[0], trainer.global_step) == (False, 4)
        moved = sum(float(((p.detach() - weights[n]) ** 2).sum()) for n, p in module.named_parameters()) ** 0.5
        assert float(trainer.callback_metrics["weights/distance_from_init"]) == pytest.approx(moved, rel=1e-5)


@pytest.mark.parametrize("state", ["keep", "reset"])
def test_from_a_stored_epoch_the_same_run_goes_on(stored, state):
    source = stored / "epoch=1.ckpt"
    start = PiggybackWarmStart(None, 24, source_checkpoint=source, mode="continue", optimizer_state=state)
    trainer, module, watch = fit(start, epochs=4)
    assert module.steps == [(2, 24)] * 2 + [(3, 24)] * 2
    assert trainer.global_step == 12 + 4
    assert watch.known[0] == (state == "keep")
    first = 0.05 if state == "reset" else 0.0125
    assert watch.rates == [first] * 2 + [first / 2] * 2
    if state == "keep":
        _, alike, _ = fit(PiggybackWarmStart(2, 24, optimizer_state="keep"))
        assert all(torch.equal(a, b) for a, b in zip(module.parameters(), alike.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_a_resumed_large_batch_run_does_not_start_from_the_small_one_again(stored, tmp_path):
    source = stored / "epoch=1.ckpt"

    def start():
        return PiggybackWarmStart(None, 24, source_checkpoint=source, optimizer_state="reset")

    saves = ModelCheckpoint(tmp_path / "large", filename="{epoch}", save_top_k=-1)
    _, whole, _ = fit(start(), saves, enable_checkpointing=True)
    source.unlink()
    _, resumed, _ = fit(start(), ckpt_path=tmp_path / "large" / "epoch=1.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_the_rate_follows_the_switch():
    trainer, _, _ = fit(PiggybackWarmStart(2, 24, optimizer_state="keep"), LearningRateScaling(8, warmup_epochs=0))
    assert float(trainer.callback_metrics["lr/scale"]) == 3.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimizer_state": None}, "optimizer_state must be stated, 'keep' or 'reset', got None"),
        ({"optimizer_state": "half"}, "optimizer_state must be stated"),
        (
            {"switch_epoch": 0},
            "switch_epoch must be a whole number, at least 1, got 0; for the small batch to come first",
        ),
        ({"switch_epoch": 1.5}, "switch_epoch must be a whole number, .* got 1.5"),
        ({"switch_epoch": None}, "got switch_epoch=None and source_checkpoint=None; give one of them"),
        ({"source_checkpoint": "a.ckpt"}, "got switch_epoch=2 and source_checkpoint='a.ckpt'"),
        ({"large_batch_size": 0}, "large_batch_size must be a whole number, at least 1, got 0"),
        ({"switch_epoch": None, "source_checkpoint": "a", "mode": "all"}, "mode must be one of 'weights', 'continue'"),
        (
            {"switch_epoch": None, "source_checkpoint": "a"},
            "no optimizer_state can be kept; use .*'reset' or mode='cont",
        ),
    ],
)
@pytest.mark.bad_input(40, 44)
def test_arguments_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PiggybackWarmStart(**({"switch_epoch": 2, "large_batch_size": 24, "optimizer_state": "keep"} | arguments))


@pytest.mark.parametrize("switch", [4, 9])
@pytest.mark.bad_input(40)
def test_a_switch_after_the_run_is_refused(switch):
    with pytest.raises(ValueError, match=f"switch_epoch={switch} is not before the end of the run, max_epochs=4"):
        fit(PiggybackWarmStart(switch, 24, optimizer_state="keep"))


@pytest.mark.parametrize("large", [4, 8])
@pytest.mark.bad_input(43)
def test_a_large_batch_that_is_not_larger_is_refused(large):
    with pytest.raises(ValueError, match=f"large_batch_size={large} is not larger than the small batch, 8 samples"):
        fit(PiggybackWarmStart(2, large, optimizer_state="keep"))


@pytest.mark.bad_input(41, 42)
def test_a_checkpoint_that_is_not_there_is_refused_with_those_that_are(stored):
    start = PiggybackWarmStart(None, 24, source_checkpoint=stored / "epoch=7.ckpt", optimizer_state="reset")
    with pytest.raises(FileNotFoundError, match=r"holds epoch=0.ckpt, epoch=1.ckpt, .*every_n_epochs=1, save_top_k=-1"):
        fit(start)


@pytest.mark.bad_input(41)
def test_a_checkpoint_of_another_kind_is_refused(stored, tmp_path):
    class Wider(Module):
        def __init__(self):
            super().__init__()
            self.net[4] = torch.nn.Linear(16, 5)

    whole = PiggybackWarmStart(None, 24, source_checkpoint=stored / "epoch=1.ckpt", optimizer_state="reset")
    with pytest.raises(ValueError, match=r"(?s)does not fit Wider: .*size mismatch"):
        fit(whole, module=Wider())
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes((stored / "epoch=1.ckpt").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"torn.ckpt' cannot be read: "):
        fit(PiggybackWarmStart(None, 24, source_checkpoint=torn, optimizer_state="reset"))


def test_a_checkpoint_from_inside_an_epoch_cannot_go_on_in_other_batches(tmp_path):
    saves = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1)
    fit(saves, epochs=1, enable_checkpointing=True)
    start = PiggybackWarmStart(
        None, 24, source_checkpoint=tmp_path / "step=4.ckpt", mode="continue", optimizer_state="keep"
    )
    with pytest.raises(
        ValueError, match=r"saved inside an epoch.* use one from the end of an epoch, or mode='weights'"
    ):
        fit(start)
