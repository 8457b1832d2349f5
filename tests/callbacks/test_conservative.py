"""Conservative training in a user's own fit, against inner steps by hand in float64."""

import pytest
import tiny
import torch
from lightning.pytorch import Callback
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap import ConservativeTraining, LearningRateScaling, SharpnessAwareMinimization


class Adam(tiny.TinyClassifier):
    def __init__(self):
        super().__init__(dropout=0.3)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


def fit(*callbacks, module=None, **options):
    module = module or Adam()
    trainer = tiny.trainer(*callbacks, **({"precision": "64-true"} | options))
    torch.manual_seed(5)
    trainer.fit(module, tiny.loader(48, batch_size=16))
    return trainer, tiny.state_of(module)


def by_hand(strength, inner_steps, keep_moments, clip, rate=1.0):
    module = Adam().double()
    optimizer = module.configure_optimizers()
    optimizer.param_groups[0]["lr"] *= rate
    torch.manual_seed(5)
    for _ in range(2):
        for inputs, targets in tiny.loader(48, batch_size=16):
            if not keep_moments:
                optimizer.state.clear()
            anchor = [weight.detach().clone() for weight in module.parameters()]
            random, after_first = torch.get_rng_state(), None
            for step in range(inner_steps):
                torch.set_rng_state(random)
                optimizer.zero_grad()
                cross_entropy(module(inputs.double()), targets).backward()
                if step == 0:
                    after_first = torch.get_rng_state()
                    buffers = [buffer.clone() for buffer in module.buffers()]
                for weight, held in zip(module.parameters(), anchor, strict=True):
                    weight.grad += strength * (weight.detach() - held)
                if clip is not None:
                    nn.utils.clip_grad_norm_(module.parameters(), clip)
                optimizer.step()
            torch.set_rng_state(after_first)
            with torch.no_grad():
                for buffer, value in zip(module.buffers(), buffers, strict=True):
                    buffer.copy_(value)
    return tiny.state_of(module)


@pytest.mark.parametrize("keep_moments", [True, False])
@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize(("strength", "inner_steps"), [(0.5, 3), (0.0, 2), (1.0, 1)])
def test_a_fit_is_the_loop_by_hand(strength, inner_steps, keep_moments, clip):
    plugin = ConservativeTraining(strength, inner_steps=inner_steps, keep_moments=keep_moments)
    trainer, found = fit(plugin, gradient_clip_val=clip)
    torch.testing.assert_close(found, by_hand(strength, inner_steps, keep_moments, clip), rtol=1e-12, atol=1e-13)
    assert trainer.global_step == 6


def test_a_scaled_learning_rate_reaches_every_inner_step():
    scaling = LearningRateScaling(8, warmup_epochs=0)  # a batch of 16: the rate is doubled
    _, found = fit(ConservativeTraining(0.5), scaling)
    torch.testing.assert_close(found, by_hand(0.5, 3, True, None, rate=2.0), rtol=1e-12, atol=1e-13)


def failing(hook, call, error):
    """A module that fails in so many calls of `training_step` or `on_before_optimizer_step`: a batch has three each."""
    calls = []

    def count(name):
        calls.append(name)
        if name == hook and calls.count(hook) == call:
            raise error

    class Fails(Adam):
        def training_step(self, batch, batch_idx):
            count("training_step")
            return super().training_step(batch, batch_idx)

        def on_before_optimizer_step(self, optimizer):
            count("on_before_optimizer_step")

    return Fails()


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize(
    ("hook", "call"),
    [("training_step", 8), ("training_step", 9), ("on_before_optimizer_step", 7), ("on_before_optimizer_step", 9)],
)
def test_what_fails_inside_a_batch_leaves_the_weights_as_they_were_before_it(hook, call, error, tmp_path):
    """In the third batch: as a run of two steps ends."""

    class Saves(Callback):
        """As Lightning's OnExceptionCheckpoint, which stands last, too."""

        def on_exception(self, trainer, pl_module, exception):
            trainer.save_checkpoint(tmp_path / "on_exception.ckpt")

    trainer, expected = fit(ConservativeTraining(0.5), max_steps=2, max_epochs=-1)
    moments = trainer.optimizers[0].state_dict()
    module = failing(hook, call, error)
    with pytest.raises((RuntimeError, KeyboardInterrupt, SystemExit)):
        fit(ConservativeTraining(0.5), Saves(), module=module)
    saved = torch.load(tmp_path / "on_exception.ckpt")
    assert saved["global_step"] == 2
    for name, weight in module.named_parameters():
        assert torch.equal(weight, expected[name])
        assert torch.equal(saved["state_dict"][name], expected[name])
    assert tiny.same(saved["optimizer_states"][0], moments)


def test_every_inner_gradient_goes_through_the_modules_own_hook():
    class Halves(Adam):
        def on_before_optimizer_step(self, optimizer):
            for weight in self.net[0].parameters():
                weight.grad.zero_()
            seen.append(float(self.net[4].bias.grad.norm()))
            self.log("norm", seen[-1], on_step=False, on_epoch=True)

    seen, module = [], Halves()
    before = tiny.state_of(module.double())
    trainer, after = fit(ConservativeTraining(0.5), module=module, max_epochs=1)
    assert len(seen) == 3 * 3
    assert torch.equal(after["net.0.weight"], before["net.0.weight"])
    assert not torch.equal(after["net.4.weight"], before["net.4.weight"])
    assert float(trainer.callback_metrics["norm"]) == pytest.approx(sum(seen[2::3]) / 3)  # of the steps that count


def test_what_would_not_see_its_steps_is_refused():
    class Skips(Adam):
        def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
            if batch_idx % 2:
                super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    class Sparse(tiny.TinyClassifier):
        def __init__(self):
            super().__init__()
            self.net = nn.EmbeddingBag(3, 3, sparse=True)

        def training_step(self, batch, batch_idx):
            return cross_entropy(self.net(batch[1][:, None]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    for module, told in ((Skips(), "optimizer_step of Skips"), (Sparse(), "sparse=False")):
        before = tiny.state_of(module)
        with pytest.raises(ValueError, match=told):
            fit(ConservativeTraining(), module=module, precision="32-true")
        assert all(torch.equal(weight, before[name]) for name, weight in module.named_parameters())


def test_it_stands_alone():
    with pytest.raises(ValueError, match=r"ConservativeTraining.*SharpnessAwareMinimization"):
        fit(SharpnessAwareMinimization(), ConservativeTraining())


@pytest.mark.parametrize("arguments", [{"strength": -1}, {"inner_steps": 0}, {"keep_moments": 1}], ids=str)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=rf"^{next(iter(arguments))} must"):
        ConservativeTraining(**arguments)
