import pytest
import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_gap import BatchSizeScheduler, ExactAccumulation, ResumableLoader


class Plain(tiny.TinyClassifier):
    """Without BatchNorm and dropout, whose statistics and masks depend on the micro-batch."""

    def __init__(self):
        super().__init__(dropout=0.0)
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
        self.gradients = []

    def on_before_optimizer_step(self, optimizer):
        self.gradients.append(torch.cat([p.grad.flatten() for p in self.parameters()]))


def train(*callbacks, loader, module=None, **options):
    torch.manual_seed(0)
    module = module or Plain()
    if options.get("precision", "64-true") == "64-true":
        module.double()
    trainer = tiny.trainer(*callbacks, **({"max_epochs": 3, "precision": "64-true"} | options))
    trainer.fit(module, loader)
    return module


def by_hand(batches):
    """The mean over all samples of each batch, with SGD and momentum written out."""
    torch.manual_seed(0)
    module = Plain().double()
    weights, history = list(module.parameters()), [torch.zeros_like(p) for p in module.parameters()]
    inputs, targets = tiny.dataset(44).tensors
    for batch in batches:
        loss = cross_entropy(module(inputs[batch].double()), targets[batch])
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, past, gradient in zip(weights, history, gradients, strict=True):
                past.mul_(0.9).add_(gradient)
                weight.sub_(0.05 * past)
    return module


def apart(first, second):
    return max(
        float((a - b).detach().abs().max()) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


@pytest.mark.promise("accumulation")
@pytest.mark.parametrize(("micro", "accumulate"), [(4, 4), (2, 8), (16, 1), (5, 3), (44, 1), (3, 20)])
def test_it_trains_as_the_large_batch_also_where_the_last_window_is_short(micro, accumulate):
    """44 samples: the last window has fewer micro-batches, and the last of them fewer samples."""
    size = micro * accumulate
    whole = by_hand([list(range(start, min(start + size, 44))) for start in range(0, 44, size)] * 3)
    loader = DataLoader(tiny.dataset(44), batch_size=micro)
    exact = train(ExactAccumulation(), loader=loader, accumulate_grad_batches=accumulate)
    assert apart(exact, whole) < 1e-12
    if (44 // micro) % accumulate:
        plain = train(loader=loader, accumulate_grad_batches=accumulate)
        assert apart(plain, whole) > 1e-4


@pytest.mark.parametrize("limit", [4, 5, 8])
def test_the_scheduler_accumulates_exactly_by_itself(limit):
    sizes = {0: 8, 1: 16, 2: 40}
    batches = [list(range(start, min(start + size, 44))) for size in sizes.values() for start in range(0, 44, size)]
    loader = ResumableLoader(tiny.dataset(44), batch_size=4)
    module = train(BatchSizeScheduler(sizes, max_micro_batch=limit), loader=loader)
    assert apart(module, by_hand(batches)) < 1e-12


@pytest.mark.promise("accumulation")
def test_gradients_are_right_before_clipping_and_before_other_callbacks():
    class Sees(Callback):
        def __init__(self):
            self.norms = []

        def on_after_backward(self, trainer, pl_module):
            if trainer.fit_loop.batch_idx == 10:
                self.norms.append(float(torch.cat([p.grad.flatten() for p in pl_module.parameters()]).norm()))

    sees = Sees()
    loader = DataLoader(tiny.dataset(44), batch_size=4)
    module = train(sees, ExactAccumulation(), loader=loader, accumulate_grad_batches=4, max_epochs=1)
    assert [float(module.gradients[-1].norm())] == sees.norms


def test_it_counts_what_it_is_told_to_count():
    """The loss is a mean over kept positions: as with padding, another number in each micro-batch."""
    kept = (torch.rand(24, generator=torch.Generator().manual_seed(3)) < 0.5).double()
    inputs, targets = tiny.dataset(24).tensors

    class Masked(Plain):
        def training_step(self, batch, batch_idx):
            losses = cross_entropy(self(batch[0].double()), batch[1], reduction="none")
            return (losses * batch[2]).sum() / batch[2].sum()

    loader = DataLoader(torch.utils.data.TensorDataset(inputs, targets, kept), batch_size=6)
    once = {"loader": loader, "accumulate_grad_batches": 4, "max_epochs": 1}
    right = train(ExactAccumulation(count=lambda batch: float(batch[2].sum())), module=Masked(), **once)
    whole = DataLoader(loader.dataset, batch_size=24)
    assert apart(right, train(module=Masked(), loader=whole, max_epochs=1)) < 1e-12
    assert apart(right, train(ExactAccumulation(), module=Masked(), **once)) > 1e-5


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize("silent", [0, 3, 5, 7, 10])
def test_a_micro_batch_without_a_loss_counts_for_nothing_wherever_it_stands(silent):
    class Skips(Plain):
        def training_step(self, batch, batch_idx):
            return None if batch_idx == silent else super().training_step(batch, batch_idx)

    windows = [[i for b in range(first, min(first + 4, 11)) if b != silent for i in range(4 * b, 4 * b + 4)]
               for first in (0, 4, 8)]  # fmt: skip
    loader = DataLoader(tiny.dataset(44), batch_size=4)
    terms = {"loader": loader, "accumulate_grad_batches": 4, "max_epochs": 1}
    assert apart(train(ExactAccumulation(), module=Skips(), **terms), by_hand(windows)) < 1e-12


class Changes(Callback):
    def __init__(self, batch, factor):
        self.batch, self.factor = batch, factor

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx == self.batch:
            trainer.accumulate_grad_batches = self.factor


@pytest.mark.parametrize(("first", "after", "then"), [(1, 3, 4), (1, 4, 4), (1, 3, 3), (2, 7, 4), (4, 3, 2), (4, 7, 1)])
def test_a_change_between_windows_gives_the_mean_of_each_window_wherever_it_comes(first, after, then):
    """Lightning alone gives 1.75 times the gradient for 1 -> 4 after batch 4: it does not clear the last one."""
    windows, start = [], 0
    for index in range(11):
        factor = first if index <= after else then
        if (index + 1) % factor == 0 or index == 10:
            windows.append(list(range(4 * start, 4 * index + 4)))
            start = index + 1
    loader = DataLoader(tiny.dataset(44), batch_size=4)
    callbacks = Changes(after, then), ExactAccumulation()
    module = train(*callbacks, loader=loader, accumulate_grad_batches=first, max_epochs=1)
    assert apart(module, by_hand(windows)) < 1e-12


def test_a_change_that_loses_gradients_is_refused():
    loader = DataLoader(tiny.dataset(44), batch_size=4)
    with pytest.raises(ValueError, match=r"became 2 inside a window, at batch 6: the gradients of 2 micro-batches"):
        train(Changes(5, 2), ExactAccumulation(), loader=loader, accumulate_grad_batches=4, max_epochs=1)


def test_where_all_is_equal_no_bit_changes_and_logged_losses_never_do():
    loader = DataLoader(tiny.dataset(48), batch_size=4)
    plain, exact = (train(*c, loader=loader, accumulate_grad_batches=4) for c in ((), (ExactAccumulation(),)))
    assert apart(plain, exact) == 0.0
    ragged = DataLoader(tiny.dataset(42), batch_size=4)
    logged = []
    for callbacks in ((), (ExactAccumulation(),)):
        module = train(*callbacks, loader=ragged, accumulate_grad_batches=11, max_epochs=1)
        logged.append(float(module.trainer.callback_metrics["loss_epoch"]))
    assert logged[0] == logged[1]


def test_a_gradient_scaler_sees_the_same_weights():
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    loader = DataLoader(tiny.dataset(44), batch_size=4)
    terms = {"accumulate_grad_batches": 4, "max_epochs": 1, "precision": None}
    scaled = train(ExactAccumulation(), loader=loader, plugins=plugin, **terms)
    plain = train(ExactAccumulation(), loader=loader, **terms)
    assert len(scaled.gradients) == 3
    assert float((scaled.gradients[-1] - plain.gradients[-1]).norm() / plain.gradients[-1].norm()) < 1e-2


def test_batches_that_do_not_say_their_size_are_refused_until_counted():
    class Ready:
        def __init__(self, batches):
            self.batches = batches

        def __len__(self):
            return len(self.batches)

        def __iter__(self):
            return iter(self.batches)

    class Opaque:
        def __init__(self, tensors):
            self.tensors = tensors

    class Reads(Plain):
        def training_step(self, batch, batch_idx):
            return super().training_step(
                [part.double() if part.is_floating_point() else part for part in batch.tensors], 0
            )

        def transfer_batch_to_device(self, batch, *rest):
            return batch

        def log(self, *args, **kwargs):
            pass

    inputs, targets = tiny.dataset(10).tensors
    batches = Ready([Opaque((inputs[:4], targets[:4])), Opaque((inputs[4:10], targets[4:10]))])
    once = {"loader": batches, "accumulate_grad_batches": 2, "max_epochs": 1}
    with pytest.raises(ValueError, match="cannot tell how many samples a Opaque holds"):
        train(ExactAccumulation(), module=Reads(), **once)
    counted = train(ExactAccumulation(lambda batch: len(batch.tensors[1])), module=Reads(), **once)
    whole = train(module=Reads(), loader=Ready([Opaque((inputs, targets))]), max_epochs=1)
    assert apart(counted, whole) < 1e-12


@pytest.mark.bad_input(54, 60)
def test_manual_optimization_and_a_second_one_are_refused():
    class Manual(tiny.TinyClassifier):
        automatic_optimization = False

    with pytest.raises(ValueError, match="ExactAccumulation works where Lightning accumulates gradients and steps"):
        tiny.trainer(ExactAccumulation()).fit(Manual(), tiny.loader())
    with pytest.raises(ValueError, match="ExactAccumulation and ExactAccumulation both weigh"):
        tiny.trainer(ExactAccumulation(), ExactAccumulation()).fit(tiny.TinyClassifier(), tiny.loader())
