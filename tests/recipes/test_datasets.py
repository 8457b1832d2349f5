from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from lightning_gap import BatchSizeScheduler
from lightning_gap.recipes.classifier import Classifier
from lightning_gap.recipes.datasets import DATASETS, InMemoryData
from lightning_gap.recipes.recipe import Numbers


def test_validation_samples_are_held_out_alike_in_every_trial():
    splits = DATASETS["digits"](Path("nowhere"))
    held = [InMemoryData(splits, batch_size=8, validation_size=100, seed=seed) for seed in (0, 1)]
    first, second = ([part.whole()[0] for part in (data.train, data.validation)] for data in held)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    train, validation = ({tuple(image) for image in part.flatten(1).tolist()} for part in first)
    assert not train & validation
    assert len(first[0]) + 100 == len(splits.train)


def test_the_training_order_differs_between_trials():
    splits = DATASETS["digits"](Path("nowhere"))
    first, second = (next(iter(InMemoryData(splits, batch_size=8, seed=s).train_dataloader())) for s in (0, 1))
    assert not torch.equal(first[0], second[0])


def test_random_numbers_of_training_follow_the_batch_and_validation_leaves_them_alone():
    data = InMemoryData(DATASETS["digits"](Path("nowhere")), batch_size=500, validation_size=100)
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append([float(torch.rand(())) for _ in data.train_dataloader()])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3
    before = torch.get_rng_state()
    assert len(list(data.val_dataloader())) == 1
    assert torch.equal(torch.get_rng_state(), before)


class SavesEveryStep(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def fit(*callbacks, ckpt_path=None):
    """Four epochs in which the batch grows, dropout on."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))
    data = InMemoryData(DATASETS["digits"](Path("nowhere")), batch_size=500, validation_size=157)
    growth = BatchSizeScheduler({0: 500, 2: 700, 3: 1280})
    numbers = Numbers(epochs=4, small_batch_size=500, large_batch_size=1280)
    trainer = Trainer(
        max_epochs=4,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if ckpt_path is not None:
        torch.manual_seed(1)  # what is drawn must not depend on what was drawn before
    trainer.fit(Classifier(network, numbers, [growth]), data, ckpt_path=ckpt_path)
    assert data.batch_size == 500
    return trainer.global_step, network.state_dict()


def test_a_run_resumed_after_any_step_ends_with_the_same_weights(tmp_path):
    steps, weights = fit(SavesEveryStep(tmp_path))
    assert steps == 3 + 3 + 2 + 1
    for step in range(1, steps):
        again, found = fit(ckpt_path=tmp_path / f"{step}.ckpt")
        assert again == steps
        assert all(torch.equal(found[name], weights[name]) for name in weights), step


@pytest.mark.parametrize("batch_size", [0, 1438])
def test_a_batch_larger_than_the_data_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be from 1 to the 1437 training samples, got {batch_size}"):
        InMemoryData(DATASETS["digits"](Path("nowhere")), batch_size=batch_size)


@pytest.mark.parametrize("size", [-1, 1437])
def test_a_validation_split_that_leaves_nothing_is_refused(size):
    with pytest.raises(ValueError, match=f"validation_size must be from 0 to 1436, got {size}"):
        InMemoryData(DATASETS["digits"](Path("nowhere")), batch_size=8, validation_size=size)
