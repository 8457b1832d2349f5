import contextlib
import copy
import io
import logging
import warnings
from unittest import mock

import pytest
import tiny
import torch
from lightning.pytorch import Callback, callbacks
from lightning.pytorch.tuner import Tuner
from lightning.pytorch.utilities import CombinedLoader
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SubsetRandomSampler

from lightning_gap import BatchSizeScheduler, GhostBatchNorm1d, GhostBatchNormSwap, ResumableLoader
from lightning_gap.functional import ghost_runs


class Watch(Callback):
    def __init__(self):
        self.kinds, self.metrics = set(), {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.kinds |= {type(pl_module.net[1])}

    def on_train_epoch_end(self, trainer, pl_module):
        self.metrics |= trainer.callback_metrics


def test_layers_are_ghosts_while_training_and_batch_norm_afterwards():
    module, watch = tiny.TinyClassifier(), Watch()
    attributes = set(vars(module.net[1]))
    tiny.trainer(GhostBatchNormSwap(4), watch).fit(module, tiny.loader())
    assert watch.kinds == {GhostBatchNorm1d}
    assert type(module.net[1]) is nn.BatchNorm1d
    assert set(vars(module.net[1])) == attributes
    assert int(module.net[1].num_batches_tracked) == 2 * 3 * 4  # epochs x batches x ghosts of a batch


def test_training_equals_layers_swapped_by_hand():
    ours, by_hand = tiny.TinyClassifier(), tiny.TinyClassifier()
    by_hand.net[1] = GhostBatchNorm1d(16, ghost_batch_size=4)
    for module, ours_or_none in ((ours, [GhostBatchNormSwap(4)]), (by_hand, [])):
        torch.manual_seed(3)
        tiny.trainer(*ours_or_none).fit(module, tiny.loader())
    for name, value in by_hand.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)


def test_the_optimizer_keeps_training_the_swapped_weights():
    module = tiny.TinyClassifier()
    before = module.net[1].weight.detach().clone()
    tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader())
    assert not torch.equal(module.net[1].weight, before)


@pytest.mark.bad_input(8)
def test_layers_made_in_configure_model_are_found():
    class Late(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.made, self.net = self.net, None

        def configure_model(self):
            self.net = self.made

    module, watch = Late(), Watch()
    tiny.trainer(GhostBatchNormSwap(4), watch).fit(module, tiny.loader())
    assert watch.kinds == {GhostBatchNorm1d}


def test_ghost_layers_that_the_model_brought_along_stay():
    module = tiny.TinyClassifier()
    module.net[1] = GhostBatchNorm1d(16, ghost_batch_size=8, leftover="balance", running_stats="mean")
    tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader())
    layer = module.net[1]
    assert type(layer) is GhostBatchNorm1d
    assert (layer.ghost_batch_size, layer.leftover, layer.running_stats) == (8, "balance", "mean")


def test_the_policies_reach_the_layers():
    class Policies(Callback):
        def on_train_start(self, trainer, pl_module):
            self.seen = pl_module.net[1].leftover, pl_module.net[1].running_stats

    seen = Policies()
    tiny.trainer(GhostBatchNormSwap(5, leftover="balance", running_stats="mean"), seen).fit(
        tiny.TinyClassifier(), tiny.loader()
    )
    assert seen.seen == ("balance", "mean")


@pytest.mark.bad_input(67)
def test_a_callback_can_be_used_for_a_second_fit():
    swap, module, watch = GhostBatchNormSwap(4), tiny.TinyClassifier(), Watch()
    for _ in range(2):
        tiny.trainer(swap, watch).fit(module, tiny.loader())
        assert type(module.net[1]) is nn.BatchNorm1d
    assert watch.kinds == {GhostBatchNorm1d}


class ValidatesElsewhere(Callback):
    """In the middle of a fit, by a second Trainer with the callbacks of the first."""

    def __init__(self, *, fails=False):
        self.fails = fails

    def on_train_epoch_start(self, trainer, pl_module):
        others = [callback for callback in trainer.callbacks if callback is not self]
        module = copy.deepcopy(pl_module)
        if self.fails:
            module.validation_step = lambda *_: 1 / 0
        with contextlib.suppress(ZeroDivisionError):
            tiny.trainer(*others).validate(module, tiny.loader(24), verbose=False)


@pytest.mark.parametrize("fails", [False, True])
def test_a_second_trainer_that_validates_in_the_middle_leaves_the_ghosts(fails):
    module, watch = tiny.Validated(), Watch()
    trainer = tiny.trainer(GhostBatchNormSwap(4), ValidatesElsewhere(fails=fails), watch, max_epochs=2)
    trainer.fit(module, tiny.loader(), tiny.loader(24))
    assert watch.kinds == {GhostBatchNorm1d}
    assert type(module.net[1]) is nn.BatchNorm1d


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_model_is_restored_after_a_tuner(tmp_path):
    module = tiny.TinyClassifier()
    trainer = tiny.trainer(GhostBatchNormSwap(4), default_root_dir=tmp_path)
    Tuner(trainer).lr_find(module, tiny.loader(), num_training=4)
    assert type(module.net[1]) is nn.BatchNorm1d
    trainer.fit(module, tiny.loader())
    assert type(module.net[1]) is nn.BatchNorm1d


def test_a_layer_that_changes_its_class_during_fit_is_named():
    class Wraps(tiny.TinyClassifier):
        def on_train_start(self):
            self.net[1].__class__ = type("Wrapped", (type(self.net[1]),), {})

    with pytest.warns(UserWarning, match=r"net\.1 became Wrapped during fit and cannot be turned back"):
        tiny.trainer(GhostBatchNormSwap(4)).fit(Wraps(), tiny.loader())


def test_layers_that_get_another_name_in_configure_model_are_restored():
    class Compiles(tiny.TinyClassifier):
        def configure_model(self):
            self.layer, self.net = self.net[1], torch.compile(self.net, backend="eager")

        def on_train_epoch_end(self):
            assert type(self.layer) is GhostBatchNorm1d

    torch.compiler.reset()
    module = Compiles()
    tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader())
    assert type(module.layer) is nn.BatchNorm1d
    assert int(module.layer.num_batches_tracked) == 2 * 3 * 4


@pytest.mark.bad_input(12)
def test_layers_shared_by_two_parents_are_swapped_and_restored_once():
    class Shared(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.again = nn.Sequential(self.net[1])

    module, watch = Shared(), Watch()
    tiny.trainer(GhostBatchNormSwap(4), watch).fit(module, tiny.loader())
    assert watch.kinds == {GhostBatchNorm1d}
    assert type(module.again[0]) is nn.BatchNorm1d
    assert float(watch.metrics["ghost/layers"]) == 1


@pytest.mark.bad_input(13)
def test_layers_frozen_by_the_user_stay_frozen():
    class Frozen(tiny.TinyClassifier):
        def on_train_epoch_start(self):
            self.net[1].eval()

    module = Frozen()
    module.net[1].requires_grad_(False)
    tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader())
    assert torch.equal(module.net[1].running_mean, torch.zeros(16))
    assert torch.equal(module.net[1].weight, torch.ones(16))


@pytest.mark.bad_input(6)
def test_evaluation_batches_may_be_smaller_than_a_ghost():
    tiny.trainer(GhostBatchNormSwap(8)).fit(tiny.Validated(), tiny.loader(), tiny.loader(3, batch_size=1))


@pytest.mark.filterwarnings("ignore:.*does not support custom")
@pytest.mark.bad_input(15)
def test_a_compiled_model_trains_with_ghosts():
    torch.compiler.reset()
    ours, by_hand = tiny.TinyClassifier(dropout=0.0), tiny.TinyClassifier(dropout=0.0)
    by_hand.net[1] = GhostBatchNorm1d(16, ghost_batch_size=4)
    ours.net = torch.compile(ours.net, backend="aot_eager")
    tiny.trainer(GhostBatchNormSwap(4)).fit(ours, tiny.loader())
    tiny.trainer().fit(by_hand, tiny.loader())
    for name, value in by_hand.net.state_dict().items():
        torch.testing.assert_close(ours.net._orig_mod.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_the_model_is_restored_after_an_exception():
    class Fails(tiny.TinyClassifier):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("user's own")

    module = Fails()
    with pytest.raises(RuntimeError, match="user's own"):
        tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader())
    assert type(module.net[1]) is nn.BatchNorm1d


def test_a_checkpoint_loads_into_the_plain_model_strictly(tmp_path):
    module = tiny.TinyClassifier()
    trainer = tiny.trainer(GhostBatchNormSwap(4))
    trainer.fit(module, tiny.loader())
    trainer.save_checkpoint(tmp_path / "ghost.ckpt")
    plain = tiny.TinyClassifier.load_from_checkpoint(tmp_path / "ghost.ckpt")
    assert torch.equal(plain.net[1].running_mean, module.net[1].running_mean)


def test_it_composes_with_lightnings_weight_averaging():
    if not hasattr(callbacks, "WeightAveraging"):
        pytest.skip("this Lightning has no WeightAveraging yet")
    module = tiny.TinyClassifier()
    tiny.trainer(callbacks.WeightAveraging(), GhostBatchNormSwap(4)).fit(module, tiny.loader())
    assert type(module.net[1]) is nn.BatchNorm1d
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


def test_it_composes_with_stochastic_weight_averaging():
    module, inputs = tiny.TinyClassifier(), []
    module.net[1].register_forward_pre_hook(lambda layer, args: inputs.append(args[0].detach().clone()))
    averaging = callbacks.StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1, annealing_epochs=1)
    tiny.trainer(averaging, GhostBatchNormSwap(4), max_epochs=3).fit(module, tiny.loader())
    layer = module.net[1]
    assert type(layer) is nn.BatchNorm1d
    assert layer.momentum == 0.1
    # The last epoch, of three batches, only recomputes the statistics: their cumulative mean over ghosts.
    ghosts = [ghost for batch in inputs[-3:] for ghost in batch.split(4)]
    torch.testing.assert_close(layer.running_mean, torch.stack([ghost.mean(0) for ghost in ghosts]).mean(0))
    torch.testing.assert_close(layer.running_var, torch.stack([ghost.var(0) for ghost in ghosts]).mean(0))
    assert int(layer.num_batches_tracked) == 12


def test_every_layer_is_in_the_debug_log_and_one_line_in_the_info_log(caplog):
    with caplog.at_level(logging.INFO, "lightning.pytorch"), caplog.at_level(logging.DEBUG, "lightning_gap"):
        tiny.trainer(GhostBatchNormSwap(4)).fit(tiny.TinyClassifier(), tiny.loader())
    info = [record.message for record in caplog.records if record.levelno == logging.INFO]
    debug = [record.message for record in caplog.records if record.levelno == logging.DEBUG]
    assert [line for line in info if "1 BatchNorm layer " in line and " 4 samples" in line]
    assert len(debug) == 1
    assert "net.1  GhostBatchNorm1d  16" in debug[0]


def test_resuming_with_other_settings_is_said(tmp_path):
    trainer = tiny.trainer(GhostBatchNormSwap(4))
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    trainer.save_checkpoint(tmp_path / "ghost.ckpt")
    with pytest.warns(UserWarning, match=r"'ghost_batch_size': 4.* this run continues with .*'ghost_batch_size': 8"):
        tiny.trainer(GhostBatchNormSwap(8), max_epochs=3).fit(
            tiny.TinyClassifier(), tiny.loader(), ckpt_path=tmp_path / "ghost.ckpt"
        )


def test_a_checkpoint_resumes_with_and_without_the_callback(tmp_path):
    module = tiny.TinyClassifier()
    trainer = tiny.trainer(GhostBatchNormSwap(4))
    trainer.fit(module, tiny.loader())
    trainer.save_checkpoint(tmp_path / "ghost.ckpt")
    plain = tiny.TinyClassifier()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks used")
        tiny.trainer(max_epochs=3).fit(plain, tiny.loader(), ckpt_path=tmp_path / "ghost.ckpt")
    assert int(plain.net[1].num_batches_tracked) == 2 * 3 * 4 + 3


class Configured(tiny.TinyClassifier):
    """Its networks are hyperparameters, too."""

    def __init__(self, net, parts):
        super().__init__()
        self.net = net
        self.save_hyperparameters(logger=False)


class Saves(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.save_checkpoint(self.path)
        assert type(pl_module.net[1]) is GhostBatchNorm1d


@pytest.mark.filterwarnings("ignore:Attribute 'net' is an instance of `nn.Module`")
def test_networks_among_the_hyperparameters_of_a_checkpoint_are_plain(tmp_path):
    net, own, saves = tiny.TinyClassifier().net, GhostBatchNorm1d(16, ghost_batch_size=8), Saves()
    net.append(nn.BatchNorm1d(3))
    net[3] = own
    module, saves.path = Configured(net, {"nested": [(net[1], "text")]}), tmp_path / "networks.ckpt"
    tiny.trainer(GhostBatchNormSwap(4), saves).fit(module, tiny.loader())
    saved = torch.load(saves.path, weights_only=False)
    found = saved["hyper_parameters"]["net"]
    assert [type(layer) for layer in found] == [type(layer) for layer in module.net]
    assert set(vars(found[1])) == set(vars(nn.BatchNorm1d(16)))
    assert found[3].ghost_batch_size == 8
    assert saved["hyper_parameters"]["parts"]["nested"][0][0] is found[1]
    assert found[1].weight.data_ptr() == saved["state_dict"]["net.1.weight"].data_ptr()  # in the file once
    loaded = Configured.load_from_checkpoint(saves.path, weights_only=False)
    assert type(loaded.net[1]) is nn.BatchNorm1d
    assert tiny.same(loaded.state_dict(), saved["state_dict"])


@pytest.mark.promise("ghost size")
@pytest.mark.bad_input(3)
def test_a_ghost_larger_than_the_batch_is_refused_before_the_first_step():
    module = tiny.TinyClassifier()
    before = tiny.state_of(module)
    with pytest.raises(ValueError, match=r"ghost_batch_size=17 is larger than the batch of 16 samples .* at most 16"):
        tiny.trainer(GhostBatchNormSwap(17)).fit(module, tiny.loader())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.bad_input(3)
def test_accumulation_does_not_enlarge_what_is_normalised():
    with pytest.raises(ValueError, match="larger than the batch of 16 samples"):
        tiny.trainer(GhostBatchNormSwap(32), accumulate_grad_batches=3).fit(tiny.TinyClassifier(), tiny.loader())


def test_a_ghost_of_the_whole_batch_is_said_to_change_nothing():
    with pytest.warns(UserWarning, match="ghost_batch_size=16 makes one ghost of the batch of 16 samples"):
        tiny.trainer(GhostBatchNormSwap(16)).fit(tiny.TinyClassifier(), tiny.loader())
    with pytest.warns(UserWarning, match="ghost_batch_size=12 makes one ghost of the batch of 16 samples"):
        tiny.trainer(GhostBatchNormSwap(12, leftover="balance")).fit(tiny.TinyClassifier(), tiny.loader())


class Batches(IterableDataset):
    """Ready batches of a length that it does not say, as lists."""

    def __iter__(self):
        return (list(batch) for batch in tiny.loader())


class TakesAny(tiny.TinyClassifier):
    """Takes one batch, and a dict or list of them as one of all samples, or one after the other."""

    def __init__(self, *, joined=True):
        super().__init__()
        self.joined = joined

    def training_step(self, batch, batch_idx):
        parts = list(batch.values()) if isinstance(batch, dict) else batch
        parts = [parts] if isinstance(parts[0], torch.Tensor) else parts
        if self.joined:
            parts = [[torch.cat(tensors) for tensors in zip(*parts, strict=True)]]
        return sum(cross_entropy(self(x), y) for x, y in parts)


def two_loaders(samples=48):
    return {"first": tiny.loader(), "second": tiny.loader(samples, batch_size=8)}


UNSTATED = pytest.mark.parametrize(
    ("make_loader", "samples"),
    [
        (lambda: DataLoader(Batches(), batch_size=None), 16),
        (lambda: Batches(), 16),
        (lambda: DataLoader([next(iter(tiny.loader()))] * 3, batch_size=1, collate_fn=lambda one: one[0]), 16),
        (two_loaders, 24),
        (lambda: list(two_loaders().values()), 24),
    ],
    ids=["iterable", "no loader", "ready", "dict", "list"],
)


@UNSTATED
def test_where_no_loader_states_the_batch_the_layers_tell_if_they_see_one_ghost(make_loader, samples):
    one = rf"ghost_batch_size=24 makes one ghost of each layer's input in the first batch, of at most {samples} samples"
    module = TakesAny()
    with pytest.warns(UserWarning, match=one) as caught:
        tiny.trainer(GhostBatchNormSwap(24), limit_train_batches=3).fit(module, make_loader())
    assert sum("one ghost" in str(warning.message) for warning in caught) == 1
    assert not module.net[1]._forward_pre_hooks
    tiny.trainer(GhostBatchNormSwap(8), limit_train_batches=3).fit(TakesAny(), make_loader())


@pytest.mark.filterwarnings("ignore:.*does not support custom")
def test_the_layers_of_a_compiled_model_tell_if_they_see_one_ghost():
    torch.compiler.reset()
    module = TakesAny()
    module.net = torch.compile(module.net, backend="aot_eager", fullgraph=True)
    with pytest.warns(UserWarning, match="ghost_batch_size=16 makes one ghost of each layer's input"):
        tiny.trainer(GhostBatchNormSwap(16), limit_train_batches=3).fit(module, Batches())


@pytest.mark.parametrize("collect", [lambda loader: {"only": loader}, lambda loader: [loader]], ids=["dict", "list"])
def test_the_only_loader_of_a_dict_or_list_tells_what_it_tells_by_itself(collect):
    with pytest.raises(ValueError, match=r"ghost_batch_size=17 is larger than the batch of 16 samples .* at most 16"):
        tiny.trainer(GhostBatchNormSwap(17)).fit(TakesAny(), collect(tiny.loader()))
    with pytest.raises(ValueError, match="a batch of 2 samples leaves 2 over with ghost_batch_size=4"):
        tiny.trainer(GhostBatchNormSwap(4, leftover="error")).fit(TakesAny(), collect(tiny.loader(50)))
    with pytest.raises(ValueError, match=r"batches of 16 samples has a batch of one, which net\.1 could not"):
        tiny.trainer(GhostBatchNormSwap(4)).fit(TakesAny(), collect(tiny.loader(33)))


@pytest.mark.promise("ghost size")
@pytest.mark.parametrize(("samples", "batch_size", "size"), [(48, 16, 5), (50, 16, 4)])
@pytest.mark.bad_input(4)
def test_a_leftover_is_refused_before_the_first_step_where_it_is_to_be_an_error(samples, batch_size, size):
    module = tiny.TinyClassifier()
    before = tiny.state_of(module)
    with pytest.raises(ValueError, match=rf"samples leaves . over with ghost_batch_size={size} .*drop_last=True"):
        tiny.trainer(GhostBatchNormSwap(size, leftover="error")).fit(
            module, tiny.loader(samples, batch_size=batch_size)
        )
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("limit", [{"limit_train_batches": 2}, {"max_steps": 2}, {"max_epochs": 1}])
def test_a_leftover_that_is_not_met_is_not_refused(limit):
    full = [list(range(16)), list(range(16, 32))]
    loader = DataLoader(tiny.dataset(50), batch_sampler=full) if "max_epochs" in limit else tiny.loader(50)
    tiny.trainer(GhostBatchNormSwap(4, leftover="error"), **limit).fit(tiny.TinyClassifier(), loader)


def test_a_sampler_inside_a_batch_sampler_tells_the_last_batch():
    sampler = BatchSampler(SubsetRandomSampler(range(36)), 16, drop_last=False)
    with pytest.raises(ValueError, match=r"a batch of 4 samples leaves 4 over with ghost_batch_size=8"):
        tiny.trainer(GhostBatchNormSwap(8, leftover="error")).fit(
            tiny.TinyClassifier(), DataLoader(tiny.dataset(50), batch_sampler=sampler)
        )


def test_a_loader_that_drops_its_last_batch_has_no_leftover():
    tiny.trainer(GhostBatchNormSwap(4, leftover="error")).fit(tiny.TinyClassifier(), tiny.loader(50, drop_last=True))


@pytest.mark.parametrize("leftover", ["merge", "balance"])
@pytest.mark.bad_input(5)
def test_a_last_batch_that_leaves_a_ghost_of_one_trains(leftover):
    assert ghost_runs(9, 4) == ((1, 4), (1, 5))
    module = tiny.TinyClassifier()
    tiny.trainer(GhostBatchNormSwap(4, leftover=leftover)).fit(module, tiny.loader(41))
    assert all(torch.isfinite(value).all() for value in module.state_dict().values())


@pytest.mark.promise("ghost size")
@pytest.mark.bad_input(2)
def test_a_ghost_of_one_sample_without_positions_is_refused_before_a_step():
    module = tiny.TinyClassifier()
    before = tiny.state_of(module)
    with pytest.raises(ValueError, match=r"Expected more than 1 value per channel.*ghost_batch_size=1.*at least 2"):
        tiny.trainer(GhostBatchNormSwap(1)).fit(module, tiny.loader())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.bad_input(8)
def test_a_lazy_layer_is_refused_with_what_to_do():
    module = tiny.TinyClassifier()
    module.net.append(nn.LazyBatchNorm1d())
    with pytest.raises(ValueError, match=r"cannot swap net\.5: lazy layer .*run one batch through the model first"):
        tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader())
    assert type(module.net[1]) is nn.BatchNorm1d


@pytest.mark.bad_input(9)
def test_a_sync_batch_norm_in_the_model_is_left_alone_and_said():
    module = tiny.TinyClassifier()
    module.net.append(nn.SyncBatchNorm(3).eval())
    with pytest.warns(UserWarning, match=r"left net\.5 alone: SyncBatchNorm shares statistics across processes"):
        tiny.trainer(GhostBatchNormSwap(4), limit_train_batches=0).fit(module, tiny.loader())


@pytest.mark.bad_input(9)
def test_a_conversion_to_sync_batch_norm_after_setup_is_refused():
    class Converts(tiny.TinyClassifier):
        def configure_model(self):
            self.net = nn.SyncBatchNorm.convert_sync_batchnorm(self.net)

    with pytest.raises(ValueError, match=r"net\.1 was swapped in setup and is a SyncBatchNorm now"):
        tiny.trainer(GhostBatchNormSwap(4)).fit(Converts(), tiny.loader())


@pytest.mark.bad_input(15)
def test_a_scripted_model_is_refused_with_the_reason():
    module = tiny.TinyClassifier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.net = torch.jit.script(module.net)
    with pytest.raises(ValueError, match=r"left net\.1 alone: scripted layer.*script it after fit"):
        tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader())


@pytest.mark.bad_input(7)
def test_a_model_without_batch_norm_is_refused():
    module = tiny.TinyClassifier()
    module.net[1] = nn.LayerNorm(16)
    with pytest.raises(ValueError, match="found no BatchNorm layer in TinyClassifier"):
        tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader())


class Frozen(nn.BatchNorm1d):
    def forward(self, input):
        return nn.functional.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias)


def with_frozen(layers, *, plain=1):
    module = tiny.TinyClassifier()
    module.net[1] = nn.Sequential(*(Frozen(16) for _ in range(layers)), *(nn.BatchNorm1d(16) for _ in range(plain)))
    return module


def test_layers_that_are_left_alone_are_named_once_with_the_reason():
    with pytest.warns(UserWarning, match="alone") as caught:
        tiny.trainer(GhostBatchNormSwap(4)).fit(with_frozen(4, plain=4), tiny.loader())
    (text,) = [str(warning.message) for warning in caught if "alone" in str(warning.message)]
    assert text == (
        "GhostBatchNormSwap left net.1.0, net.1.1, net.1.2 and 1 more alone: "
        "Frozen overrides forward and does not normalise by the batch in training"
    )


@pytest.mark.parametrize(
    ("layers", "plain", "message"), [(2, 0, "found no BatchNorm layer"), (2, 1, "1 of 3 BatchNorm")]
)
def test_a_model_of_which_most_is_left_alone_is_refused(layers, plain, message):
    module = with_frozen(layers, plain=plain)
    with pytest.raises(ValueError, match=rf"{message} .*left net\.1\.0, net\.1\.1 alone: Frozen overrides forward"):
        tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader())
    assert not [layer for layer in module.modules() if isinstance(layer, GhostBatchNorm1d)]


class NormAct(nn.BatchNorm1d):
    """As some libraries fuse them: does not call super().forward."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        if self.training:
            self.num_batches_tracked.add_(1)
        statistics = self.running_mean, self.running_var
        return self.act(nn.functional.batch_norm(x, *statistics, self.weight, self.bias, self.training, self.momentum))


def test_a_subclass_trains_like_the_layers_that_it_fuses():
    fused, apart, watch = tiny.TinyClassifier(dropout=0.0), tiny.TinyClassifier(dropout=0.0), Watch()
    fused.net[1], fused.net[2] = NormAct(16), nn.Identity()
    tiny.trainer(GhostBatchNormSwap(4), watch).fit(fused, tiny.loader(42))
    tiny.trainer(GhostBatchNormSwap(4)).fit(apart, tiny.loader(42))
    assert {kind.__name__ for kind in watch.kinds} == {"GhostNormAct"}
    assert type(fused.net[1]) is NormAct
    torch.testing.assert_close(fused.state_dict(), apart.state_dict())


def test_a_data_set_smaller_than_the_batch_makes_the_batch():
    with pytest.raises(ValueError, match="ghost_batch_size=32 is larger than the batch of 24 samples"):
        tiny.trainer(GhostBatchNormSwap(32)).fit(tiny.TinyClassifier(), tiny.loader(24, batch_size=64))


@pytest.mark.bad_input(9)
def test_sync_batch_norm_is_refused_with_what_to_do():
    trainer = tiny.trainer(GhostBatchNormSwap(4), sync_batchnorm=True, strategy="ddp", devices=1)
    try:
        with mock.patch.dict("os.environ"), pytest.raises(ValueError, match=r"use Trainer\(sync_batchnorm=False\)"):
            trainer.fit(tiny.TinyClassifier(), tiny.loader())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.promise("ghost size")
@pytest.mark.parametrize("size", [0, -1, True, 2.5, "32", float("nan"), None])
@pytest.mark.bad_input(1)
def test_a_size_that_is_no_count_is_refused_at_construction(size):
    with pytest.raises(ValueError, match=rf"ghost_batch_size must be a whole number of samples.*got {size!r}; try 128"):
        GhostBatchNormSwap(size)


def test_unknown_policies_are_refused_at_construction():
    with pytest.raises(ValueError, match="leftover must be one of 'merge', 'balance', 'error', got 'drop'"):
        GhostBatchNormSwap(leftover="drop")
    with pytest.raises(ValueError, match="running_stats must be one of 'sequential', 'mean', got 'last'"):
        GhostBatchNormSwap(running_stats="last")


class Keeper(Callback):
    """Keeps copies that it made during fit."""

    def on_train_epoch_end(self, trainer, pl_module):
        self.average = copy.deepcopy(pl_module.net)
        pl_module.teacher = copy.deepcopy(pl_module.net)
        pl_module.unregistered = {"teachers": [copy.deepcopy(pl_module.net)]}
        pl_module.own = GhostBatchNorm1d(16, ghost_batch_size=8)
        self.file = io.BytesIO()
        torch.save(pl_module.net, self.file)


def test_copies_made_during_fit_turn_back_wherever_they_are_kept():
    module, keeper = tiny.TinyClassifier(), Keeper()
    tiny.trainer(GhostBatchNormSwap(4), keeper).fit(module, tiny.loader())
    for net in (module.net, module.teacher, *module.unregistered["teachers"], keeper.average):
        assert type(net[1]) is nn.BatchNorm1d
        assert set(vars(net[1])) == set(vars(nn.BatchNorm1d(16)))
    assert type(module.own) is GhostBatchNorm1d


def test_copies_turn_back_after_an_exception():
    class Fails(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            self.copy = copy.deepcopy(pl_module.net)
            raise RuntimeError("user's own")

    fails = Fails()
    with pytest.raises(RuntimeError, match="user's own"):
        tiny.trainer(GhostBatchNormSwap(4), fails).fit(tiny.TinyClassifier(), tiny.loader())
    assert type(fails.copy[1]) is nn.BatchNorm1d


def test_copies_of_ghost_layers_that_the_model_brought_along_get_their_settings_back():
    module, keeper = tiny.TinyClassifier(), Keeper()
    module.net[1] = GhostBatchNorm1d(16, ghost_batch_size=8)
    tiny.trainer(GhostBatchNormSwap(4), keeper).fit(module, tiny.loader())
    for net in (module.net, module.teacher, keeper.average):
        assert type(net[1]) is GhostBatchNorm1d
        assert net[1].ghost_batch_size == 8


def test_a_model_saved_whole_during_fit_loads_and_turns_back_in_the_next_fit():
    module, keeper = tiny.TinyClassifier(), Keeper()
    tiny.trainer(GhostBatchNormSwap(4), keeper).fit(module, tiny.loader())
    keeper.file.seek(0)
    module.net = torch.load(keeper.file, weights_only=False)
    assert type(module.net[1]) is GhostBatchNorm1d
    tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader())
    assert type(module.net[1]) is nn.BatchNorm1d


def test_a_mean_teacher_runs_a_layer_in_both_modes_before_one_backward_pass():
    class Consistent(tiny.TinyClassifier):
        def on_slices(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            target = self.eval()(batch[0])
            first, second = self.train().on_slices(batch[0]), self.on_slices(batch[0][:4] + 0.1)
            return cross_entropy(first, batch[1]) + (target - first).square().mean() + second.square().mean()

    class BySlices(Consistent):
        def on_slices(self, x):
            return torch.cat([self.net(part) for part in x.split(4)])

    ours, by_hand = Consistent(dropout=0.0), BySlices(dropout=0.0)
    tiny.trainer(GhostBatchNormSwap(4)).fit(ours, tiny.loader())
    tiny.trainer().fit(by_hand, tiny.loader())
    torch.testing.assert_close(ours.state_dict(), by_hand.state_dict())


def test_scripting_during_fit_says_what_to_do_and_after_fit_it_works():
    class Scripts(Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            with pytest.raises(RuntimeError, match=r"cannot be scripted in training mode: .* or model\.eval\(\)"):
                torch.jit.script(pl_module.net)
            x = torch.randn(5, 8)
            scripted = torch.jit.script(pl_module.net.eval())
            torch.testing.assert_close(scripted(x), pl_module.net(x))
            pl_module.net.train()
            assert type(pl_module.net[1]) is GhostBatchNorm1d

    module = tiny.TinyClassifier()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tiny.trainer(GhostBatchNormSwap(4), Scripts()).fit(module, tiny.loader())
        scripted = torch.jit.script(module.net.eval())
    x = torch.randn(5, 8)
    torch.testing.assert_close(scripted(x), module.net(x))


class Steps(Callback):
    """Counts optimizer steps."""

    def __init__(self):
        self.count = 0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.count = trainer.global_step


@pytest.mark.promise("ghost size")
@pytest.mark.parametrize(
    ("make_loader", "more"),
    [
        (lambda: tiny.loader(33), []),
        (lambda: ResumableLoader(tiny.dataset(33), batch_size=16), []),
        (lambda: tiny.loader(41, batch_size=8), []),
        (lambda: DataLoader(tiny.dataset(33), batch_sampler=[range(16), range(16, 17), range(17, 33)]), []),
        (lambda: tiny.loader(41, batch_size=16), [BatchSizeScheduler({0: 16, 1: 40})]),
        (lambda: ResumableLoader(tiny.dataset(41), batch_size=16), [BatchSizeScheduler({0: 16, 1: 40})]),
    ],
    ids=["stock", "ours", "smaller", "written out", "scheduled", "ours scheduled"],
)
@pytest.mark.bad_input(5)
def test_a_last_batch_of_one_sample_is_refused_before_the_first_step(make_loader, more):
    module, steps = tiny.TinyClassifier(), Steps()
    weights = [parameter.detach().clone() for parameter in module.parameters()]
    message = r"has a batch of one, which net\.1 could not normalise: .*use drop_last=True in the loader or another"
    with pytest.raises(ValueError, match=message):
        tiny.trainer(GhostBatchNormSwap(4), steps, *more).fit(module, make_loader())
    assert steps.count == 0
    assert all(map(torch.equal, weights, module.parameters()))
    assert not module.net[1]._forward_pre_hooks


ONE_AFTER_THE_OTHER = [
    lambda: two_loaders(41),
    lambda: list(two_loaders(41).values()),
    lambda: CombinedLoader(two_loaders(17), "max_size_cycle"),
    lambda: {"first": tiny.loader(), "second": ResumableLoader(tiny.dataset(41), batch_size=8)},
]


@pytest.mark.parametrize("make_loaders", ONE_AFTER_THE_OTHER, ids=["dict", "list", "cycle", "ours"])
def test_a_last_batch_of_one_sample_in_one_of_several_loaders_is_refused_before_the_first_step(make_loaders):
    steps = Steps()
    message = r"batches of 8 samples has a batch of one, which net\.1 .*also where your step skips such a batch"
    with pytest.raises(ValueError, match=message):
        tiny.trainer(GhostBatchNormSwap(4), steps).fit(TakesAny(joined=False), make_loaders())
    assert steps.count == 0


@pytest.mark.parametrize("how", ["joined", "min_size", "max_steps", "limit"])
def test_a_last_batch_of_one_sample_in_one_of_several_loaders_that_no_layer_meets_is_not_refused(how):
    loaders = CombinedLoader(two_loaders(41), "min_size") if how == "min_size" else two_loaders(41)
    limits = {"max_steps": {"max_steps": 5}, "limit": {"limit_train_batches": 5}}.get(how, {})
    module = TakesAny(joined=how == "joined")
    tiny.trainer(GhostBatchNormSwap(4), max_epochs=1, **limits).fit(module, loaders)
    assert module.trainer.global_step == (3 if how == "min_size" else 6 if how == "joined" else 5)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.bad_input(14)
def test_a_process_with_two_samples_refuses_where_the_other_has_one(rank):
    with (
        mock.patch("lightning_gap.data._planned_loader._processes", return_value=(2, rank)),
        pytest.raises(ValueError, match="has a batch of one, which"),
    ):
        tiny.trainer(GhostBatchNormSwap(4)).fit(
            tiny.TinyClassifier(), ResumableLoader(tiny.dataset(32 + 3), batch_size=16)
        )


@pytest.mark.parametrize("limits", [{"drop_last": True}, {"limit_train_batches": 2}, {"max_steps": 2}], ids=str)
def test_a_last_batch_of_one_sample_that_is_not_met_is_not_refused(limits):
    limits = dict(limits)
    loader = tiny.loader(33, drop_last=limits.pop("drop_last", False))
    tiny.trainer(GhostBatchNormSwap(4), max_epochs=1, **limits).fit(tiny.TinyClassifier(), loader)


@pytest.mark.parametrize("how", ["positions", "more rows", "frozen"])
def test_a_last_batch_of_one_sample_trains_where_every_layer_can_normalise_it(how):
    class Several(tiny.TinyClassifier):
        """Two rows or positions of each sample."""

        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(8)
            self.net[1] = nn.Identity()

        def on_train_epoch_start(self):
            self.norm.train(how != "frozen")

        def forward(self, x):
            if how == "positions":
                return self.net(self.norm(torch.stack([x, 2 * x], 2)).mean(2))
            rows = torch.cat([x, 2 * x]) if how == "more rows" else x
            return self.net(self.norm(rows)[: len(x)])

    module = Several()
    tiny.trainer(GhostBatchNormSwap(4), max_epochs=1).fit(module, tiny.loader(33))
    assert module.trainer.global_step == 3
    assert not module.norm._forward_pre_hooks


def test_a_layer_for_images_behind_pooling_cannot_normalise_one_sample_either():
    class Pooled(tiny.TinyClassifier):
        def forward(self, x):
            return self.net[4](self.norm(self.net[0](x)[..., None, None]).flatten(1))

    module = Pooled()
    module.norm, module.net[1] = nn.BatchNorm2d(16), nn.Identity()
    with pytest.raises(ValueError, match="norm could not normalise: its input of shape \\(16, 16, 1, 1\\)"):
        tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader(33))
