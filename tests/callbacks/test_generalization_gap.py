import pytest
import tiny
import torch
from lightning.pytorch import Callback, LightningModule
from torch.nn.functional import cross_entropy, mse_loss
from torchmetrics.functional.classification import multiclass_accuracy

from lightning_gap import GeneralizationGapMonitor


class ByHand(Callback):
    """Both sides on all samples with torch and torchmetrics."""

    def __init__(self):
        self.expected = []

    def on_train_epoch_end(self, trainer, pl_module):
        modes = [layer.training for layer in pl_module.net]
        pl_module.net.eval()
        sides = []
        for data in (tiny.dataset(), tiny.dataset(48, seed=2)):
            x, y = data.tensors
            scores = pl_module.net(x).detach()
            accuracy = multiclass_accuracy(scores, y, num_classes=3, average="micro")
            sides.append((float(cross_entropy(scores, y)), float(accuracy)))
        for layer, mode in zip(pl_module.net, modes, strict=True):
            layer.train(mode)
        pl_module.net.training = True
        self.expected.append([a - b for a, b in zip(*sides, strict=True)])


class Watch(Callback):
    def __init__(self):
        self.logged = []

    def on_train_epoch_end(self, trainer, pl_module):
        keys = ("gap/loss", "gap/accuracy")
        self.logged.append([float(trainer.callback_metrics[key]) for key in keys if key in trainer.callback_metrics])


def run(monitor, *, module=None, **options):
    by_hand, watch = ByHand(), Watch()
    trainer = tiny.trainer(by_hand, monitor, watch, **options)
    trainer.fit(module or tiny.Validated(), tiny.loader(), tiny.loader(48, seed=2, batch_size=20))
    return by_hand, watch


def test_it_logs_training_minus_validation_measured_alike():
    by_hand, watch = run(GeneralizationGapMonitor(chunk_size=13), max_epochs=3)
    assert len(watch.logged) == 3
    for seen, expected in zip(watch.logged, by_hand.expected, strict=True):
        assert seen == pytest.approx(expected, abs=1e-5)


def test_both_sides_have_the_size_of_the_smaller():
    monitor = GeneralizationGapMonitor()
    sizes = []

    def loss(module, batch):
        sizes.append(len(batch[1]))
        return cross_entropy(module(batch[0]), batch[1])

    monitor.loss_fn = loss
    tiny.trainer(monitor, max_epochs=1).fit(tiny.Validated(), tiny.loader(48), tiny.loader(24, seed=2))
    assert set(sizes) == {24}


def test_without_classes_there_is_a_loss_gap_only():
    class Regression(tiny.Validated):
        def forward(self, inputs):
            return self.net(inputs)[:, 0]

        def training_step(self, batch, batch_idx):
            return mse_loss(self(batch[0]), batch[1].float())

        def validation_step(self, batch, batch_idx):
            pass

    _, watch = run(GeneralizationGapMonitor(), module=Regression(), max_epochs=1)
    assert len(watch.logged[0]) == 1


def test_an_accuracy_function_is_used():
    monitor = GeneralizationGapMonitor(accuracy_fn=lambda module, batch: (batch[1] == 0).float().mean())
    _, watch = run(monitor, max_epochs=1)
    assert watch.logged[0][1] == pytest.approx(0.0, abs=1e-6)  # a third of either set is of class 0


def test_it_waits_for_validation_data_that_is_loaded_late():
    _, watch = run(GeneralizationGapMonitor(), max_epochs=4, check_val_every_n_epoch=2, num_sanity_val_steps=0)
    assert [len(row) for row in watch.logged] == [0, 2, 2, 2]


def test_no_validation_data_is_refused():
    with pytest.raises(ValueError, match="GeneralizationGapMonitor needs validation data"):
        tiny.trainer(GeneralizationGapMonitor()).fit(tiny.TinyClassifier(), tiny.loader())


def test_a_run_that_never_loads_its_validation_data_is_refused():
    never = {"max_epochs": 2, "check_val_every_n_epoch": 3}
    with pytest.raises(ValueError, match=r"max_epochs=2 .*check_val_every_n_epoch=3 .*validation_data"):
        run(GeneralizationGapMonitor(), num_sanity_val_steps=0, **never)
    _, watch = run(GeneralizationGapMonitor(), num_sanity_val_steps=1, **never)
    assert [len(row) for row in watch.logged] == [2, 2], "the sanity check has loaded it"


def test_validation_batches_that_training_step_cannot_take_are_refused_by_their_argument():
    class TwoViews(tiny.Validated):
        def training_step(self, batch, batch_idx):
            (x, other), _ = batch
            return mse_loss(self(x), self(other))

    def views(n, **options):
        return [((x, x + 1), y) for x, y in tiny.loader(n, **options)]

    train = [tiny.dataset(), tiny.dataset(seed=1)]
    pairs = [((x, other), y) for (x, y), (other, _) in zip(*train, strict=True)]
    loader = torch.utils.data.DataLoader(pairs, batch_size=24)
    with pytest.raises(ValueError, match=r"unpack.*loss_fn.*validation_data"):
        tiny.trainer(GeneralizationGapMonitor()).fit(TwoViews(), loader, tiny.loader(48, seed=2))
    given = GeneralizationGapMonitor(validation_data=views(48, seed=2), count=lambda batch: len(batch[1]))
    trainer = tiny.trainer(given)
    trainer.fit(TwoViews(), loader, tiny.loader(48, seed=2))
    assert "gap/loss" in trainer.callback_metrics


def test_given_batches_need_no_validation_loader():
    x, y = tiny.dataset(24, seed=2).tensors
    trainer = tiny.trainer(GeneralizationGapMonitor(validation_data=[(x, y)]), max_epochs=1)
    trainer.fit(tiny.TinyClassifier(), tiny.loader())
    assert {"gap/loss", "gap/accuracy"} <= set(trainer.callback_metrics)


def test_several_validation_loaders_are_refused_until_one_is_chosen():
    class Several(tiny.Validated):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            pass

    loaders = [tiny.loader(24, seed=2), tiny.loader(24, seed=3)]
    with pytest.raises(ValueError, match=r"cannot draw a fixed subset from list.*pass validation_data"):
        tiny.trainer(GeneralizationGapMonitor()).fit(Several(), tiny.loader(), loaders)


@pytest.mark.parametrize("argument", ["every_n_epochs", "samples", "chunk_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
def test_counts_that_are_no_counts_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be a whole number, at least 1, got {value!r}"):
        GeneralizationGapMonitor(**{argument: value})


def test_a_step_that_needs_gradients_can_be_measured():
    class Penalty(tiny.Validated):
        def training_step(self, batch, batch_idx):
            x = batch[0].clone().requires_grad_()
            loss = cross_entropy(self(x), batch[1])
            return loss + torch.autograd.grad(loss, x, create_graph=True)[0].square().sum()

    _, watch = run(GeneralizationGapMonitor(), module=Penalty(), max_epochs=1)
    assert len(watch.logged[0]) == 1, "the loss is more than the cross-entropy, so that no accuracy is proven"


class NoForward(tiny.Validated):
    forward = LightningModule.forward

    def training_step(self, batch, batch_idx):
        return cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        pass


class TwoInputs(NoForward):
    def forward(self, inputs, mask):
        return self.net(inputs * mask)


class OneColumn(NoForward):
    def forward(self, inputs):
        return self.net(inputs)[:, :1]


@pytest.mark.parametrize("kind", [NoForward, TwoInputs, OneColumn])
def test_an_accuracy_that_cannot_be_known_is_not_invented(kind):
    _, watch = run(GeneralizationGapMonitor(), module=kind(), max_epochs=1)
    assert len(watch.logged[0]) == 1


def test_two_loaders_of_one_data_set_are_measured_on_their_own_samples():
    def loader(indices):
        sampler = torch.utils.data.SubsetRandomSampler(indices)
        return torch.utils.data.DataLoader(tiny.dataset(), batch_size=8, sampler=sampler)

    trainer = tiny.trainer(GeneralizationGapMonitor(), max_epochs=10)
    trainer.fit(tiny.Validated(dropout=0.0), loader(range(32)), loader(range(32, 48)))
    assert float(trainer.callback_metrics["gap/loss"]) < 0
