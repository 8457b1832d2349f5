"""Lightning's other name: every callback in `pytorch_lightning`'s Trainer, with its module and beside its callbacks."""

import pytest
import pytorch_lightning as pl
import tiny
import torch
from contract.registry import REGISTRY
from packaging.version import Version
from pytorch_lightning.callbacks import BatchSizeFinder, GradientAccumulationScheduler
from torch.nn.functional import cross_entropy

from lightning_gap import AdaptiveBatchSize, BatchSizeScheduler, PiggybackWarmStart

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*pkg_resources"),
    pytest.mark.skipif(
        Version(pl.__version__) < Version("2.6"), reason="refuses every callback of lightning.pytorch by itself"
    ),
]


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = tiny.TinyClassifier(dropout=0.0).net

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, batch_idx):
        loss = cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class WithLoaders(Classifier):
    """`BatchSizeFinder` takes no loader that is passed to `fit`."""

    batch_size = 16

    def train_dataloader(self):
        return tiny.loader(batch_size=self.batch_size)

    val_dataloader = train_dataloader


def fit(*callbacks, ckpt_path=None, **options):
    quiet = {
        "accelerator": "cpu",
        "max_epochs": 2,
        "logger": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
    }
    quiet |= {"enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(**(quiet | options), callbacks=list(callbacks))
    module = Classifier()
    trainer.fit(module, tiny.loader(), tiny.loader(24, seed=2), ckpt_path=ckpt_path)
    return trainer, module


@pytest.mark.parametrize("name", REGISTRY)
def test_every_callback_logs_the_same_under_either_name_and_trains_the_same(name):
    callback = REGISTRY[name]
    trainer, module = fit(callback.make())
    assert isinstance(trainer.lightning_module, pl.LightningModule)
    stock = tiny.trainer(callback.make())
    of_lightning = tiny.Validated(dropout=0.0)
    stock.fit(of_lightning, tiny.loader(), tiny.loader(24, seed=2))
    assert trainer.current_epoch == 2
    for key in callback.keys & set(stock.callback_metrics):
        assert torch.equal(trainer.callback_metrics[key], stock.callback_metrics[key]), key
    states = tiny.state_of(of_lightning)
    assert all(torch.equal(value, states[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    "make",
    [
        lambda: BatchSizeScheduler({0: 16}),
        lambda: AdaptiveBatchSize(16, 32, micro_batches=2),
        lambda: PiggybackWarmStart(1, 32, optimizer_state="keep"),
    ],
)
def test_what_cannot_stand_beside_lightnings_own_is_refused_under_either_name(make):
    class Own(GradientAccumulationScheduler):
        """A subclass is one too."""

    for other, name in (
        (GradientAccumulationScheduler({0: 1, 1: 2}), "GradientAccumulationScheduler"),
        (Own({0: 1, 1: 2}), "GradientAccumulationScheduler"),
        (BatchSizeFinder(), "BatchSizeFinder"),
    ):
        trainer = pl.Trainer(accelerator="cpu", max_epochs=2, logger=False, callbacks=[make(), other])
        with pytest.raises(ValueError, match=f"and {name} both set"):
            trainer.fit(WithLoaders())
