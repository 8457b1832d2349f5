import os
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer
from sklearn.datasets import load_digits
from torch import nn

from lightning_gap import BatchSizeScheduler
from lightning_gap.recipes.classifier import Classifier
from lightning_gap.recipes.datasets import DATASETS, InMemoryData

REAL = Path(os.environ.get("LIGHTNING_GAP_DATA", "data"))


def test_digits_are_scikit_learns_split_once():
    splits = DATASETS["digits"](Path("nowhere"))
    images, labels = load_digits(return_X_y=True)
    ours = torch.cat([splits.train[0], splits.test[0]]).numpy() * 16
    assert len(splits.test[1]) == 360
    assert sorted(map(tuple, ours)) == sorted(map(tuple, images.astype(np.float32)))
    assert np.bincount(torch.cat([splits.train[1], splits.test[1]])).tolist() == np.bincount(labels).tolist()
    assert min(np.bincount(splits.test[1])) >= 34  # stratified: each class has about 36


def test_digits_are_the_same_every_time_whatever_the_global_seed():
    torch.manual_seed(1)
    first = DATASETS["digits"](Path("nowhere"))
    torch.manual_seed(2)
    assert torch.equal(first.test[0], DATASETS["digits"](Path("nowhere")).test[0])


@pytest.mark.parametrize("found", [False, True])
def test_a_missing_mnist_says_which_file_goes_where(tmp_path, found):
    if found:
        (tmp_path / "MNIST" / "raw").mkdir(parents=True)
        (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").touch()
    with pytest.raises(FileNotFoundError) as error:
        DATASETS["mnist"](tmp_path)
    message = str(error.value)
    assert ("train-images-idx3-ubyte" in message) is not found
    assert "t10k-labels-idx1-ubyte" in message
    assert str(tmp_path / "MNIST" / "raw") in message
    assert "nothing is downloaded" in message
    assert len(list(tmp_path.rglob("*ubyte"))) == int(found)


def idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_mnist_files_are_read_as_they_are_written(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    generator = np.random.default_rng(0)
    arrays = {}
    for name, count in (("train", 12), ("t10k", 5)):
        arrays[name] = generator.integers(0, 256, (count, 28, 28)), generator.integers(0, 10, count)
        idx(raw / f"{name}-images-idx3-ubyte", arrays[name][0])
        idx(raw / f"{name}-labels-idx1-ubyte", arrays[name][1])
    splits = DATASETS["mnist"](tmp_path)
    for samples, (images, labels) in zip((splits.train, splits.test), arrays.values(), strict=True):
        np.testing.assert_allclose(samples[0].numpy() * 255, images.reshape(len(images), 784), atol=1e-4)
        assert samples[1].tolist() == labels.tolist()


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "MNIST").exists(), reason="no real MNIST in ./data or $LIGHTNING_GAP_DATA")
def test_real_mnist_has_its_known_statistics():
    splits = DATASETS["mnist"](REAL)
    assert [len(part[1]) for part in (splits.train, splits.test)] == [60_000, 10_000]
    assert float(splits.train[0].mean()) == pytest.approx(0.1307, abs=1e-4)
    assert float(splits.train[0].std()) == pytest.approx(0.3081, abs=1e-4)


def test_validation_samples_are_held_out_alike_in_every_trial():
    splits = DATASETS["digits"](Path("nowhere"))
    held = [InMemoryData(splits, batch_size=8, validation_size=100, seed=seed) for seed in (0, 1)]
    assert torch.equal(held[0].validation[0], held[1].validation[0])
    assert torch.equal(held[0].train[0], held[1].train[0])
    rows = {tuple(row) for row in held[0].train[0].tolist()} & {tuple(row) for row in held[0].validation[0].tolist()}
    assert not rows
    assert len(held[0].train[1]) + 100 == len(splits.train[1])


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
    network = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))
    data = InMemoryData(DATASETS["digits"](Path("nowhere")), batch_size=500, validation_size=157)
    growth = BatchSizeScheduler({0: 500, 2: 700, 3: 1280})
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
    trainer.fit(Classifier(network, callbacks=[growth]), data, ckpt_path=ckpt_path)
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
