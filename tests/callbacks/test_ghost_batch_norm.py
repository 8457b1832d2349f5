from unittest import mock

import pytest
import tiny
import torch
from lightning.pytorch import Callback, callbacks
from torch import nn

from lightning_gap import GhostBatchNorm1d, GhostBatchNormSwap


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
    module.net[1] = GhostBatchNorm1d(16, ghost_batch_size=8)
    tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader())
    assert type(module.net[1]) is GhostBatchNorm1d
    assert module.net[1].ghost_batch_size == 8


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


def test_a_ghost_larger_than_the_batch_is_refused_before_the_first_step():
    module = tiny.TinyClassifier()
    before = tiny.state_of(module)
    with pytest.raises(ValueError, match=r"ghost_batch_size=17 is larger than the batch of 16 samples .* at most 16"):
        tiny.trainer(GhostBatchNormSwap(17)).fit(module, tiny.loader())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_accumulation_does_not_enlarge_what_is_normalised():
    with pytest.raises(ValueError, match="larger than the batch of 16 samples"):
        tiny.trainer(GhostBatchNormSwap(32), accumulate_grad_batches=3).fit(tiny.TinyClassifier(), tiny.loader())


def test_a_model_without_batch_norm_is_refused():
    module = tiny.TinyClassifier()
    module.net[1] = nn.LayerNorm(16)
    with pytest.raises(ValueError, match="found no BatchNorm layer in TinyClassifier"):
        tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader())


def test_layers_that_are_left_alone_are_named_with_the_reason():
    class Own(nn.BatchNorm1d):
        pass

    module = tiny.TinyClassifier()
    module.net[1] = Own(16)
    with pytest.raises(ValueError, match=r"found no BatchNorm layer .*left net\.1 alone: Own is a subclass"):
        tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader())
    module.net.append(nn.BatchNorm1d(3))
    with pytest.warns(UserWarning, match=r"left net\.1 alone: Own is a subclass"):
        tiny.trainer(GhostBatchNormSwap(4)).fit(module, tiny.loader())


def test_a_data_set_smaller_than_the_batch_makes_the_batch():
    with pytest.raises(ValueError, match="ghost_batch_size=32 is larger than the batch of 24 samples"):
        tiny.trainer(GhostBatchNormSwap(32)).fit(tiny.TinyClassifier(), tiny.loader(24, batch_size=64))


def test_sync_batch_norm_is_refused_with_what_to_do():
    trainer = tiny.trainer(GhostBatchNormSwap(4), sync_batchnorm=True, strategy="ddp", devices=1)
    try:
        with mock.patch.dict("os.environ"), pytest.raises(ValueError, match=r"use Trainer\(sync_batchnorm=False\)"):
            trainer.fit(tiny.TinyClassifier(), tiny.loader())
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (2.5, TypeError)])
def test_a_size_that_cannot_be_is_refused_at_construction(size, error):
    with pytest.raises(error, match="ghost_batch_size must be"):
        GhostBatchNormSwap(size)
