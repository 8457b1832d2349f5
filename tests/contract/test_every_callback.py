"""One battery that every callback passes, in a stock Trainer on a module that knows nothing of us."""

import copy
import inspect
import pickle
from functools import cache

import pytest
import tiny
import torch
from contract.registry import REGISTRY
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import lightning_gap

EPOCHS = 3


@pytest.fixture(params=sorted(REGISTRY))
def name(request):
    return request.param


@pytest.fixture
def entry(name):
    return REGISTRY[name]


def fit(*callbacks, module=None, ckpt_path=None, **options):
    torch.manual_seed(0)
    module = module or tiny.Validated()
    trainer = tiny.trainer(*callbacks, **({"max_epochs": EPOCHS} | options))
    generator = torch.Generator().manual_seed(5)  # the train loader has random numbers of its own
    trainer.fit(module, tiny.loader(shuffle=True, generator=generator), tiny.loader(24, seed=2), ckpt_path=ckpt_path)
    return trainer, module


@cache
def once(name):
    """A fit with a callback, or with none, that several tests look at."""
    return fit(*([REGISTRY[name].make()] if name else []))


def test_the_registry_lists_every_public_callback():
    public = {
        name
        for name in lightning_gap.__all__
        if inspect.isclass(value := getattr(lightning_gap, name)) and issubclass(value, Callback)
    }
    assert set(REGISTRY) == public


@pytest.mark.bad_input(67)
def test_it_constructs_copies_and_pickles(entry):
    callback = entry.make()
    for copied in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert vars(copied).keys() == vars(callback).keys()
        assert copied.state_key == callback.state_key


def test_it_fits_and_training_changes_the_weights(name):
    trainer, module = once(name)
    assert trainer.current_epoch == EPOCHS
    assert trainer.global_step >= EPOCHS
    assert not torch.equal(module.net[0].weight, tiny.Validated().net[0].weight)


@pytest.mark.promise("loggers")
def test_documented_keys_are_logged_and_no_others_by_no_logger_and_by_several(name, entry, tmp_path):
    loggers = [CSVLogger(tmp_path, name="", version=""), TensorBoardLogger(tmp_path, name="", version="")]
    trainer, _ = fit(entry.make(), logger=loggers)
    events = EventAccumulator(str(tmp_path)).Reload()
    users = {"loss_step", "loss_epoch", "val_loss", "epoch", "hp_metric"}
    assert set(events.Tags()["scalars"]) - users == entry.keys
    assert entry.keys <= set((tmp_path / "metrics.csv").read_text().splitlines()[0].split(","))
    for found in (trainer, once(name)[0]):
        assert entry.keys <= set(found.logged_metrics) | set(found.callback_metrics) | {"ghost/layers"}


def test_its_state_round_trips_and_loads_with_weights_only(name, entry, tmp_path):
    trainer, _ = once(name)
    callback = trainer.callbacks[0]
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    stored = torch.load(tmp_path / "run.ckpt", weights_only=True)["callbacks"].get(callback.state_key, {})
    other = entry.make()
    other.load_state_dict(copy.deepcopy(stored))
    assert str(other.state_dict()) == str(callback.state_dict()) == str(stored or {})


@pytest.mark.promise("killed")
def test_a_resumed_run_ends_as_the_uninterrupted_one(entry, tmp_path):
    """Not shuffled: what is tested is the callback, and a stock loader does not resume its order."""

    def run(epochs, ckpt_path=None):
        trainer = tiny.trainer(entry.make(), max_epochs=epochs)
        trainer.fit(tiny.Validated(dropout=0.0), tiny.loader(), tiny.loader(24, seed=2), ckpt_path=ckpt_path)
        return trainer

    whole = run(EPOCHS)
    run(EPOCHS - 1).save_checkpoint(tmp_path / "half.ckpt")
    resumed = run(EPOCHS, tmp_path / "half.ckpt")
    ends = [tiny.state_of(trainer.lightning_module) for trainer in (whole, resumed)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    for key in entry.keys & set(whole.callback_metrics):
        assert torch.equal(whole.callback_metrics[key], resumed.callback_metrics[key]), key


@pytest.mark.bad_input(60)
def test_two_of_it_stand_side_by_side_or_the_second_is_refused(name, entry):
    if isinstance(entry.second, str):
        with pytest.raises(ValueError, match=entry.second):
            fit(entry.make(), entry.make())
        return
    if entry.second is None:
        fit(entry.make(), entry.make())
        return
    alone, _ = once(name)
    second = entry.second()
    together, _ = fit(entry.make(), second)
    for key in entry.keys & set(alone.callback_metrics):
        assert torch.equal(alone.callback_metrics[key], together.callback_metrics[key]), key
    assert set(second.keys) & set(together.callback_metrics)
    with pytest.raises((ValueError, RuntimeError), match=r"both log .* suffix|more than one stateful callback"):
        fit(entry.make(), entry.make())


@pytest.mark.bad_input(67)
def test_one_instance_fits_twice(name, entry):
    callback = entry.make()
    fit(callback)
    again, module = fit(callback)
    fresh, fresh_module = once(name)
    for key in entry.keys & set(fresh.callback_metrics):
        assert torch.equal(again.callback_metrics[key], fresh.callback_metrics[key]), key
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), fresh_module.parameters(), strict=True))


def test_it_runs_again_after_a_fit_that_failed(name, entry):
    class Fails(tiny.Validated):
        def on_train_epoch_end(self):
            raise RuntimeError("user's own")

    callback = entry.make()
    with pytest.raises(RuntimeError, match="user's own"):
        fit(callback, module=Fails())
    _, module = fit(callback)
    _, fresh_module = once(name)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), fresh_module.parameters(), strict=True))


def traces(module, optimizer):
    """Everything a callback could leave on a module or an optimizer, by name."""
    found = {}
    for name, part in module.named_modules():
        found[name] = (type(part), {k for k in vars(part) if k not in ("_trainer", "_current_fx_name")})
        found[f"{name} hooks"] = [len(v) for k, v in sorted(vars(part).items()) if k.endswith("_hooks")]
    found["optimizer"] = (len(optimizer._optimizer_step_pre_hooks), len(optimizer._optimizer_step_post_hooks))
    found["rates"] = [group["lr"] for group in optimizer.param_groups]
    return found


def test_it_leaves_nothing_behind(name):
    (plain, plain_module), (trainer, module) = once(None), once(name)
    assert traces(module, trainer.optimizers[0]) == traces(plain_module, plain.optimizers[0])
    assert module.log.__func__ is type(module).log
    assert trainer.loggers == plain.loggers == []


@pytest.mark.bad_input(63)
def test_fast_dev_run_works(entry):
    fit(entry.make(), fast_dev_run=True)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
@pytest.mark.bad_input(63)
def test_barebones_works(entry):
    torch.manual_seed(0)
    trainer = tiny.trainer(entry.make(), barebones=True, log_every_n_steps=None, max_epochs=2)
    trainer.fit(tiny.Validated(), tiny.loader(), tiny.loader(24, seed=2))


@pytest.mark.bad_input(63)
def test_a_whole_sanity_check_and_a_run_without_an_epoch_work(entry):
    callback = entry.make()
    fit(callback, num_sanity_val_steps=-1, max_epochs=2)
    trainer, module = fit(callback, max_epochs=0)
    assert trainer.global_step == 0
    assert tiny.same(list(module.parameters()), list(tiny.Validated().parameters()))


@pytest.mark.bad_input(53)
def test_validate_and_test_do_not_mind_it(entry):
    trainer = tiny.trainer(entry.make())
    trainer.validate(tiny.Validated(), tiny.loader(24, seed=2), verbose=False)


@pytest.mark.promise("trace")
@pytest.mark.parametrize("name", [name for name in REGISTRY if REGISTRY[name].is_monitor])
def test_a_monitor_changes_no_bit_of_the_run(name):
    compare_runs(*once(None), *once(name))


@pytest.mark.promise("trace")
def test_all_monitors_together_change_no_bit_of_the_run():
    compare_runs(*once(None), *fit(*(entry.make() for entry in REGISTRY.values() if entry.is_monitor)))


def compare_runs(plain, plain_module, seen, seen_module):
    for name, value in tiny.state_of(plain_module).items():
        assert torch.equal(value, seen_module.state_dict()[name]), name
    states = [trainer.optimizers[0].state_dict()["state"] for trainer in (plain, seen)]
    for index, state in states[0].items():
        assert torch.equal(state["momentum_buffer"], states[1][index]["momentum_buffer"])
    for key, value in plain.callback_metrics.items():
        assert torch.equal(value, seen.callback_metrics[key]), key
    assert [p.grad is None for p in plain_module.parameters()] == [p.grad is None for p in seen_module.parameters()]
