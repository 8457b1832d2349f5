import torch
from functional.batch_norm_subclasses import NormAct
from torch import nn

from lightning_gap.functional import swap_batch_norm


def test_a_trial_leaves_layer_hooks_and_random_numbers_alone():
    layer = NormAct(4, drop=0.5)
    calls = []
    layer.register_forward_hook(lambda *_: calls.append("layer"))
    layer.act.register_forward_pre_hook(lambda *_: calls.append("inside"))
    state = {name: value.clone() for name, value in layer.state_dict().items()}
    generator = torch.random.get_rng_state()
    modes = [part.training for part in layer.modules()]
    assert swap_batch_norm(layer, 4).converted == ("",)
    assert calls == []
    assert torch.equal(generator, torch.random.get_rng_state())
    assert modes == [part.training for part in layer.modules()]
    torch.testing.assert_close(layer.state_dict(), state, rtol=0, atol=0)


def test_a_layer_in_evaluation_is_tried_in_training_and_stays_as_it_is():
    layer = NormAct(4).eval()
    assert swap_batch_norm(layer, 4).converted == ("",)
    assert not layer.training


def test_a_layer_is_judged_by_the_statistics_that_it_leaves_too():
    class CountsTwice(nn.BatchNorm2d):
        """Ends in super().forward, but moves its running mean by itself."""

        def forward(self, x):
            if self.training:
                self.running_mean.data.mul_(0.5)
            return super().forward(x)

    layer, plain = CountsTwice(4), CountsTwice(4)
    swap_batch_norm(layer, 4)
    x = torch.randn(8, 4, 3, 3) + 1
    layer(x)
    for part in x.split(4):
        plain(part)
    torch.testing.assert_close(layer.running_mean, plain.running_mean)


def test_an_error_of_a_foreign_class_is_one_short_line():
    class Fails(nn.BatchNorm2d):
        def forward(self, x):
            raise RuntimeError("no kernel\n" + "for this\n" * 100)

    reason = swap_batch_norm(Fails(4), 4).skipped[""]
    assert reason == "Fails overrides forward and could not be tried: RuntimeError: no kernel"


def test_an_output_that_is_no_tensor_of_the_samples_is_not_cut():
    class Pooled(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).mean(0)

    class Pair(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x), x

    for kind in (Pooled, Pair):
        assert "does not return one tensor with the samples of its input" in swap_batch_norm(kind(4), 4).skipped[""]


def test_a_trial_is_on_the_cpu_whatever_the_default_device_and_the_number_of_threads_stays():
    threads = torch.get_num_threads()
    layer = NormAct(4)
    with torch.device("meta"):
        assert swap_batch_norm(layer, 4).converted == ("",)
    assert torch.get_num_threads() == threads
