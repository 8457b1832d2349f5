"""A penalty on the gradient's norm in a user's own fit, against double backward by hand in float64."""

import pytest
import tiny
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch.nn.functional import cross_entropy

from lightning_gap import ExactAccumulation, GradientPenalty


class Smooth(tiny.TinyClassifier):
    """Without kinks, so that a difference of gradients over a short step is a product with the Hessian."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.net[2] = torch.nn.Tanh()


def fit(plugin, *callbacks, module=None, **options):
    module = module or Smooth()
    trainer = tiny.trainer(plugin, *callbacks, **({"precision": "64-true", "max_epochs": 1} | options))
    trainer.fit(module, tiny.loader(46, batch_size=8))
    return tiny.state_of(module)


def by_hand(strength, *, blocks, clip=None):
    """Steps over three batches each, of at most 8 samples, weighed by them; one penalty for each of ``blocks``."""
    module = Smooth().double()
    optimizer, weights = module.configure_optimizers(), list(module.parameters())
    batches = [(x.double(), y) for x, y in tiny.loader(46, batch_size=8)]
    for window in (batches[:3], batches[3:]):
        samples = sum(len(y) for _, y in window)
        groups = [window] if blocks == 1 else [[batch] for batch in window]
        summed = [torch.zeros_like(weight) for weight in weights]
        for group in groups:
            size = sum(len(y) for _, y in group)
            loss = sum(cross_entropy(module(x), y) * len(y) / size for x, y in group)
            slopes = torch.autograd.grad(loss, weights, create_graph=True)
            product = torch.autograd.grad(slopes, weights, [slope.detach() for slope in slopes])
            for total, slope, curved in zip(summed, slopes, product, strict=True):
                total += (slope.detach() + strength * curved) * size / samples
        for weight, total in zip(weights, summed, strict=True):
            weight.grad = total
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(weights, clip)
        optimizer.step()
    return tiny.state_of(module)


@pytest.mark.parametrize(("m", "blocks"), [(None, 1), (24, 1), (8, 3)])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_a_fit_is_the_loop_with_hessian_products(m, blocks, clip):
    options = {"accumulate_grad_batches": 3, "gradient_clip_val": clip}
    found = fit(GradientPenalty(0.3, m=m, length=1e-6), ExactAccumulation(), **options)
    torch.testing.assert_close(found, by_hand(0.3, blocks=blocks, clip=clip), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("m", "blocks"), [(None, 1), (8, 3)])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_an_exact_penalty_is_the_loop_to_the_last_digits(m, blocks, clip):
    options = {"accumulate_grad_batches": 3, "gradient_clip_val": clip}
    found = fit(GradientPenalty(0.3, m=m, exact=True), ExactAccumulation(), **options)
    torch.testing.assert_close(found, by_hand(0.3, blocks=blocks, clip=clip), rtol=1e-12, atol=1e-14)


class Once(torch.autograd.Function):
    """The identity, as a kernel without a double backward gives it."""

    @staticmethod
    def forward(context, values):
        return values.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context, slope):
        return slope.clone()


class OnceDifferentiable(Smooth):
    def forward(self, inputs):
        return Once.apply(super().forward(inputs))


class FusedAttention(tiny.TinyClassifier):
    def forward(self, inputs):
        found = super().forward(inputs)
        rows = found.unsqueeze(1)
        return torch.nn.functional.scaled_dot_product_attention(rows, rows, rows).squeeze(1)


@pytest.mark.parametrize("kind", [OnceDifferentiable, FusedAttention])
def test_an_exact_penalty_of_what_has_no_double_backward_is_refused(kind):
    module = kind()
    before = tiny.state_of(module)
    with pytest.raises(RuntimeError, match=r"exact=True: .* twice \(.*use exact=False"):
        fit(GradientPenalty(0.3, exact=True), module=module, precision="32-true")
    weights = dict(module.named_parameters())
    assert all(torch.equal(before[name], weight) for name, weight in weights.items())
    fit(GradientPenalty(0.3), module=kind(), precision="32-true")


def test_an_exact_penalty_in_float16_is_refused():
    scaled = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))
    with pytest.raises(ValueError, match=r"exact=True .*float16.*exact=False"):
        fit(GradientPenalty(0.3, exact=True), precision=None, plugins=[scaled])


def test_half_precision_weights_are_refused_which_a_short_step_would_not_move():
    before = tiny.state_of(module := Smooth())
    with pytest.raises(ValueError, match=r"GradientPenalty .*bfloat16.*net\.0\.weight.*bf16-mixed"):
        fit(GradientPenalty(0.3), module=module, precision="bf16-true")
    assert all(torch.equal(weight, before[name].bfloat16()) for name, weight in module.named_parameters())


def test_a_step_that_uses_none_of_the_trained_weights_is_plain():
    """The head alone is in the optimizer, and frozen in the second epoch."""

    class Head(Smooth):
        def configure_optimizers(self):
            return torch.optim.SGD(self.net[4].parameters(), lr=0.05)

        def training_step(self, batch, batch_idx):
            used = self.net[:4](batch[0])
            return cross_entropy(self.net[4](used), batch[1]) if self.current_epoch == 0 else used.square().mean()

    runs = [fit(GradientPenalty(0.3), module=Head(), max_epochs=epochs) for epochs in (1, 2)]
    assert torch.equal(runs[0]["net.4.weight"], runs[1]["net.4.weight"])


@pytest.mark.parametrize(
    "arguments", [{"strength": 0}, {"strength": "1"}, {"strength": 1, "m": 0}, {"strength": 1, "length": 0}], ids=str
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match=rf"^{list(arguments)[-1]} must"):
        GradientPenalty(**arguments)
