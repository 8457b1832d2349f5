"""What the page of answers shows is run as it stands, and does what the answer says; one check for each question."""

import re
from pathlib import Path

import lightning
import pytest
import tiny
import torch
from lightning.pytorch.utilities.types import STEP_OUTPUT
from packaging.version import Version
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap.functional import GhostBatchNorm1d, swap_batch_norm

PAGE = Path(__file__).parents[1] / "docs" / "lightning-threads.md"
PRELUDE, *SECTIONS = re.split(r"^### ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
QUESTIONS = {text.partition("\n")[0]: text for text in SECTIONS}


class Watched(tiny.Validated):
    """A reader's module that remembers what it was given, and with which learning rate it stepped."""

    def __init__(self, **settings):
        super().__init__(**({"dropout": 0.0} | settings))
        self.sizes, self.losses, self.rates, self.validations = [], [], [], 0

    def training_step(self, batch, batch_idx) -> STEP_OUTPUT:
        if self.trainer.training:
            self.sizes.append(len(batch[0]))
        loss = super().training_step(batch, batch_idx)
        self.losses.append(loss.item())
        return loss

    def on_validation_epoch_end(self):
        self.validations += not self.trainer.sanity_checking

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        # before a callback's own hook puts the learning rate back
        optimizer.register_step_post_hook(lambda opt, *_: self.rates.append(opt.param_groups[0]["lr"]))
        return optimizer


class Plain(Watched):
    """Without BatchNorm, so that the gradient of a batch is the mean of those of its parts."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 3)
        nn.init.zeros_(self.net.weight)
        nn.init.zeros_(self.net.bias)


class OfSomeClasses(Plain):
    """Whose loss is a mean over the samples that are not of class 0."""

    def training_step(self, batch, batch_idx):
        return cross_entropy(self(batch[0]), batch[1], ignore_index=0)


CHECKS = {}


def check(question, *, module=Watched, batch_size=128):
    """Register what must be true once the block of a question was run by a reader with this module and loader."""

    def register(function):
        CHECKS[question] = function, module, batch_size
        return function

    return register


def one_step_each(module, sizes):
    """Train on the samples in order by batches of these sizes, without Lightning, from the module's first weights."""
    samples, targets = tiny.dataset(256).tensors
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for inputs, classes in zip(samples.split(sizes), targets.split(sizes), strict=True):
        optimizer.zero_grad()
        ignored = {"ignore_index": 0} if isinstance(module, OfSomeClasses) else {}
        cross_entropy(module(inputs), classes, **ignored).backward()
        optimizer.step()
    return tiny.state_of(module)


@check("Change the batch size during fit")
def _(found):
    assert found["module"].sizes == [32] * 8 + [64] * 4 + [128] * 2


@check("Epochs with different numbers of batches, and validation is skipped")
def _(found):
    assert found["module"].sizes == [32] * 8 + [64] * 4 + [128] * 2
    assert found["module"].validations == 3


@check("A schedule by optimizer steps, samples or tokens")
def _(found):
    assert found["module"].sizes == [32] * 4 + [64] * 2


@check("The same global batch on any number of devices")
def _(found):
    assert found["module"].sizes == [64] * 4
    assert found["trainer"].global_step == 1


@check("What is my effective batch size?")
def _(found):
    assert found["trainer"].callback_metrics["batch/size"] == 256
    assert found["module"].rates == [0.05]


@check("Which learning rate for this batch, these devices, this accumulation?")
def _(found):
    assert found["module"].rates == pytest.approx([8 * 0.05])


@check("A warmup that does not fight the scheduler")
def _(found):
    cosine = [0.05 * (1 + torch.cos(torch.tensor(torch.pi * epoch / 4)).item()) / 2 for epoch in range(4)]
    factors = [0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1]
    expected = [factor * cosine[step // 2] for step, factor in enumerate(factors)]
    assert found["module"].rates == pytest.approx(expected)


@check("LearningRateMonitor shows another value than the step used")
def _(found):
    metrics = found["trainer"].callback_metrics
    assert metrics["lr-SGD"] == pytest.approx(0.05)
    assert metrics["lr/effective"] == pytest.approx(0.2)
    assert found["module"].rates == pytest.approx([0.2, 0.2])


@check("How many steps does the scheduler need when batches change?")
def _(found):
    assert found["steps"] == found["trainer"].global_step == 8 + 2 + 2
    assert found["module"].rates[-1] < 1e-5  # the cycle ends with the run


@check("Betas, epsilon and weight decay for another batch size")
def _(found):
    metrics = found["trainer"].callback_metrics
    assert metrics["lr/effective"] == pytest.approx(2e-3)
    assert metrics["optimizer/beta2"] == pytest.approx(0.999**4)


@check("The last window of an epoch is shorter, and weighs too little", module=Plain, batch_size=64)
def _(found):
    assert found["module"].sizes == [64] * 4  # three, and one
    expected = one_step_each(Plain(), [192, 64])
    for name, value in tiny.state_of(found["module"]).items():
        torch.testing.assert_close(value, expected[name])


@check("The mean over tokens is not the mean of means", module=OfSomeClasses, batch_size=100)
def _(found):
    expected = one_step_each(OfSomeClasses(), [200, 56])
    for name, value in tiny.state_of(found["module"]).items():
        torch.testing.assert_close(value, expected[name])


@check("The loss in my callback is divided by the accumulation")
def _(found):
    assert found["losses"].seen == pytest.approx(found["module"].losses)


@check("BatchNorm with gradient accumulation")
def _(found):
    module = Watched()
    trainer = tiny.trainer(max_epochs=1, accumulate_grad_batches=4)
    trainer.fit(module, tiny.loader(256, batch_size=32), tiny.loader(48, seed=2))
    assert (trainer.global_step, module.sizes) == (found["trainer"].global_step, [32] * 8)
    trained = dict(found["module"].named_parameters())
    for name, weight in module.named_parameters():
        torch.testing.assert_close(trained[name], weight, rtol=1e-4, atol=1e-5)


@check("Resume inside an epoch")
def _(found):
    assert len(found["whole"].sizes) == 8
    assert len(found["resumed"].sizes) == 3
    assert tiny.same(tiny.state_of(found["whole"]), tiny.state_of(found["resumed"]))


@check("The loader's state is dropped where I use estimated_stepping_batches")
def _(found):
    assert len(found["resumed"].sizes) == 3
    assert tiny.same(tiny.state_of(found["whole"]), tiny.state_of(found["resumed"]))


@check("Weights from a checkpoint, with a new optimizer")
def _(found):
    fresh, trainer = found["fresh"], found["trainer"]
    assert fresh.sizes == [256]
    assert trainer.global_step == 1
    by_hand = Watched()
    by_hand.load_state_dict(torch.load("small.ckpt", weights_only=True)["state_dict"])
    samples, targets = tiny.dataset(256).tensors
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05, momentum=0.9)
    cross_entropy(by_hand(samples), targets).backward()
    optimizer.step()
    for name, weight in by_hand.named_parameters():
        torch.testing.assert_close(dict(fresh.named_parameters())[name], weight)


@check("SAM under automatic optimization")
def _(found):
    assert found["trainer"].global_step == 1
    assert found["module"].net[1].num_batches_tracked == 2  # the two micro-batches, once each
    assert found["trainer"].callback_metrics["sam/rise"] > 0


@check("Several optimizer steps on one batch, and global_step doubles")
def _(found):
    assert found["trainer"].global_step == 4
    assert len(found["module"].rates) == 4 * 3


@check("BatchNorm statistics of averaged weights")
def _(found):
    module = found["module"]
    inputs = module.net[0](tiny.dataset(256).tensors[0]).detach()
    torch.testing.assert_close(module.net[1].running_mean, inputs.mean(dim=0), rtol=1e-4, atol=1e-5)


@check("Training and validation loss that can be compared")
def _(found):
    without = Watched()
    tiny.trainer(max_epochs=1).fit(without, tiny.loader(256, batch_size=128), tiny.loader(48, seed=2))
    assert tiny.same(tiny.state_of(found["module"]), tiny.state_of(without))
    losses = {
        name: cross_entropy(without.eval()(data.tensors[0]), data.tensors[1], reduction="none")
        for name, data in (("train", tiny.dataset(256)), ("val", tiny.dataset(48, seed=2)))
    }
    of_training = float(found["trainer"].callback_metrics["gap/loss"]) + losses["val"].mean().item()
    standard_error = losses["train"].std().item() / 48**0.5  # of 48 samples out of 256
    assert of_training == pytest.approx(losses["train"].mean().item(), abs=3 * standard_error)


@check("The sharpness of Keskar et al.")
def _(found):
    metrics = found["trainer"].callback_metrics
    assert metrics["sharpness/full_eps1e-3"] > metrics["sharpness/full_eps5e-4"] > 0


@check("Ghost batch norm with odd batches, and in evaluation")
def _(found):
    module = found["module"].eval()
    assert module.sizes == [50] * 5 + [6]
    by_hand = Watched()
    swap_batch_norm(by_hand, 16, leftover="balance")
    expected = one_step_each(by_hand, module.sizes)
    for name, value in tiny.state_of(module).items():
        torch.testing.assert_close(value, expected[name])
    samples = tiny.dataset(48, seed=2).tensors[0]
    torch.testing.assert_close(torch.cat([module(part) for part in samples.split(7)]), module(samples))


@check("Custom batches under DDP")
def _(found):
    assert len(set(torch.cat(found["first"]).tolist())) == 4 * 8
    everything = torch.cat([batch for plan in found["shares"] for batch in plan.batches(epoch=0)])
    assert sorted(everything.tolist()) == list(range(100))


@check("Parameters that were made too late are not in the optimizer")
def _(found):
    layer = found["module"].net[1]
    assert isinstance(layer, GhostBatchNorm1d)
    assert layer.weight is found["optimizer"].param_groups[0]["params"][0]


@check("Gradient norms by layer")
def _(found):
    metrics = found["trainer"].callback_metrics
    assert {f"grad_2.0_norm/{name}" for name, _ in found["module"].named_parameters()} <= set(metrics)


@check("My metrics in TensorBoard's HParams")
def _(found):
    events = EventAccumulator(found["logger"].log_dir).Reload()
    session = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    assert b"val_loss" in session
    assert events.Scalars("val_loss")[-1].value == pytest.approx(float(found["trainer"].callback_metrics["val_loss"]))


def blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("question", [question for question, text in QUESTIONS.items() if blocks(text)])
@pytest.mark.filterwarnings("ignore:.*GPU available", "ignore:Checkpoint directory")
def test_the_answer_does_what_it_says(question, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    verify, module, batch_size = CHECKS[question]
    reader = {
        "module": module(),
        "train_loader": tiny.loader(256, batch_size=batch_size),
        "val_loader": tiny.loader(48, seed=2),
    }
    if "# since lightning 2.6" in QUESTIONS[question] and Version(lightning.__version__) < Version("2.6"):
        pytest.skip("this Lightning does not average the weights of each step yet")
    for block in blocks(PRELUDE) + blocks(QUESTIONS[question]):
        exec(compile(block, f"{PAGE.name}: {question}", "exec"), reader)
    verify(reader)


def test_every_check_is_of_a_question_and_most_questions_are_of_lightning():
    assert set(CHECKS) == {question for question, text in QUESTIONS.items() if blocks(text)}
    assert len(CHECKS) >= 20
    assert all("https://github.com/" in text for text in QUESTIONS.values())
