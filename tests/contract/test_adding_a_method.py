"""The monitor and the plugin that "adding a method" builds keep the promises of those that are built in."""

import inspect
import re
from pathlib import Path

import pytest
import tiny
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from test_documents import blocks, names_of_the_reader
from torch.nn.functional import cross_entropy

from lightning_gap import (
    ExactAccumulation,
    GhostBatchNormSwap,
    LearningRateScaling,
    ResumableLoader,
    ResumeExactly,
    functional,
)

PAGE = Path(__file__).parents[2] / "docs" / "contributing" / "adding-a-method.md"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What the page defines, without its runs."""
    namespace = names_of_the_reader()
    for block in blocks(PAGE):
        exec(re.sub(r"^(?:monitor|trainer|Trainer|assert)\b.*\n", "", block, flags=re.MULTILINE), namespace)
    return namespace


def fit(*callbacks, epochs=3, ckpt_path=None, module=None, **options):
    torch.manual_seed(0)
    module = module or tiny.Validated()
    trainer = tiny.trainer(*callbacks, max_epochs=epochs, **options)
    loader = ResumableLoader(tiny.dataset(), batch_size=16, shuffle=True)
    trainer.fit(module, loader, tiny.loader(24, seed=2), ckpt_path=ckpt_path)
    return trainer, tiny.state_of(module)


def test_each_takes_at_most_forty_lines():
    for name in ("AverageSharpnessMonitor", "ExtraGradient"):
        (source,) = (block for block in blocks(PAGE) if f"class {name}" in block)
        definition = source[source.index("class ") :].split("\n\n\n")[0]
        assert len([line for line in definition.splitlines() if line.strip()]) <= 40


def test_the_monitor_measures_what_the_function_does_and_changes_no_bit_of_the_run(page):
    monitor = page["AverageSharpnessMonitor"](samples=20, chunk_size=8, every_n_epochs="log")
    (trainer, seen), (_, plain) = fit(monitor), fit()
    assert tiny.same(seen, plain)
    module = tiny.Validated()
    module.load_state_dict(seen)
    batches = functional.FixedSubset(tiny.dataset(), samples=20, chunk_size=8)
    loss = functional.DatasetLoss(module, lambda m, b: cross_entropy(m(b[0]), b[1]), batches)
    expected = functional.average_sharpness(loss, module.parameters(), generator=torch.Generator().manual_seed(0))
    assert float(trainer.callback_metrics["average_sharpness/rise"]) == pytest.approx(expected.rise, rel=1e-4)
    assert {"every_n_epochs", "samples", "seed", "suffix"} <= set(inspect.signature(type(monitor)).parameters)


def test_an_argument_that_is_set_before_fit_counts_and_is_checked(page):
    monitor = page["AverageSharpnessMonitor"](samples=20, directions=1)
    monitor.samples, monitor.directions = 8, 3
    trainer, _ = fit(monitor)
    assert float(trainer.callback_metrics["average_sharpness/standard_error"]) >= 0  # NaN for one direction
    monitor.directions = 0
    with pytest.raises(ValueError, match="directions"):
        fit(monitor)


class ByHand(tiny.Validated):
    """The same method in a loop of its own."""

    automatic_optimization = True

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        def both():
            loss = optimizer_closure()
            weights = list(self.parameters())
            before = [w.detach().clone() for w in weights]
            with torch.no_grad():
                for w in weights:
                    w.sub_(0.05 * w.grad)
            optimizer_closure()
            with torch.no_grad():
                for w, value in zip(weights, before, strict=True):
                    w.copy_(value)
            return loss

        optimizer.step(closure=both)


def test_the_plugin_steps_by_the_gradient_of_the_second_pass(page):
    _, found = fit(page["ExtraGradient"](), module=tiny.Validated(dropout=0.0))
    _, expected = fit(module=ByHand(dropout=0.0))
    statistics = [name for name in found if "running" in name or "tracked" in name]
    assert statistics
    assert all(torch.equal(found[name], expected[name]) for name in found if name not in statistics)


def test_only_the_first_pass_counts(page):
    (trainer, state), (plain, before) = fit(page["ExtraGradient"](1e-12)), fit()
    assert int(state["net.1.num_batches_tracked"]) == int(before["net.1.num_batches_tracked"]) == 9
    for name, value in state.items():
        torch.testing.assert_close(value, before[name])
    assert float(trainer.callback_metrics["loss_epoch"]) == pytest.approx(float(plain.callback_metrics["loss_epoch"]))
    assert trainer.global_step == plain.global_step


def test_dropout_masks_are_the_same_in_both_passes(page):
    seen = []

    class Sees(tiny.Validated):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            seen.append(float(loss.detach()))
            return loss

    fit(page["ExtraGradient"](1e-12), module=Sees(dropout=0.5), epochs=1)
    assert seen[::2] == pytest.approx(seen[1::2])


def test_the_plugin_composes_in_any_order_and_resumes(page, tmp_path):
    def callbacks():
        plugin, rate = page["ExtraGradient"](), LearningRateScaling(8, warmup_epochs=1)
        return [plugin, rate, GhostBatchNormSwap(4), ResumeExactly()]

    saves = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=4)
    _, whole = fit(*callbacks(), ExactAccumulation(), saves, enable_checkpointing=True)
    _, reversed_order = fit(ExactAccumulation(), *reversed(callbacks()))
    assert tiny.same(whole, reversed_order)
    with pytest.warns(UserWarning, match="ModelCheckpoint"):
        _, resumed = fit(ExactAccumulation(), *callbacks(), ckpt_path=tmp_path / "step=4.ckpt")
    assert tiny.same(whole, resumed)


def test_the_plugin_leaves_out_weights_that_the_loss_does_not_depend_on(page):
    class Unused(tiny.Validated):
        def __init__(self):
            super().__init__()
            self.extra = torch.nn.Linear(2, 2)

    (_, found), (_, expected) = (fit(page["ExtraGradient"](), module=each, epochs=1) for each in (Unused(), None))
    assert torch.equal(found["net.0.weight"], expected["net.0.weight"])
    assert len(found) == len(expected) + 2
