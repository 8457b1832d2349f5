import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import nn

from lightning_gap.recipes.datasets import FolderImages, ImageNet

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
CLASSES = ["ant", "bee", "cow"]


def noise(width, height, seed=0):
    """Blocks of 4x4 pixels, which survive being scaled."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return blocks.repeat(4, 0).repeat(4, 1)[:height, :width]


@pytest.fixture
def folder(tmp_path):
    """Three classes in PNG and JPEG files of several sizes and colour spaces: 21 to train, 6 to test."""
    for part, count in (("train", 7), ("val", 2)):
        for number, name in enumerate(CLASSES):
            place = tmp_path / "imagenet" / part / name
            place.mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(noise(40 + 3 * i, 52 - 4 * i, seed=10 * number + i))
                mode, ending = [("RGB", "png"), ("RGB", "jpg"), ("L", "png"), ("CMYK", "jpg")][i % 4]
                image.convert(mode).save(place / f"{i}.{ending}")
    return tmp_path


class Small(ImageNet):
    """The same files as inputs of 24 pixels a side."""

    def read(self):
        return tuple(FolderImages(self.data_dir / "imagenet" / part, crop=24, resize=32) for part in ("train", "val"))


def small(folder, *, augmentation="scale-crop", **settings):
    """The data module, set up."""
    data = Small(augmentation=augmentation, data_dir=folder, **{"batch_size": 4, **settings})
    data.setup()
    return data


def served(loader):
    """Every batch of an epoch."""
    return [(inputs.clone(), targets.tolist()) for inputs, targets in loader]


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a[0], b[0]) and a[1] == b[1] for a, b in zip(first, second, strict=True)
    )


# One image


@pytest.mark.parametrize("size", [(32, 32), (32, 47), (60, 32), (100, 64), (20, 33)])
def test_an_image_is_scaled_cut_and_standardised_as_pillow_and_numpy_do_it(tmp_path, size):
    (tmp_path / "ant").mkdir()
    pixels = noise(*size)
    Image.fromarray(pixels).save(tmp_path / "ant" / "a.png")
    width, height = size
    shorter = min(size)
    scaled = Image.fromarray(pixels).resize((32 * width // shorter, 32 * height // shorter), Image.Resampling.BILINEAR)
    left, top = round((scaled.width - 24) / 2), round((scaled.height - 24) / 2)
    middle = np.asarray(scaled)[top : top + 24, left : left + 24]
    expected = np.moveaxis((middle / 255 - MEAN) / DEVIATION, 2, 0)
    found, target = FolderImages(tmp_path, crop=24, resize=32)[0]
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert target == 0


def test_every_colour_space_gives_three_colours_and_every_file_its_class(folder):
    images = small(folder).train
    assert len(images) == 21
    assert images.classes == CLASSES
    assert images.targets.tolist() == [0] * 7 + [1] * 7 + [2] * 7
    for index in range(21):
        inputs, target = images[index]
        assert inputs.shape == images.input_shape == (3, 24, 24)
        assert target == images.targets[index]
    grey = images[2][0] * torch.tensor(DEVIATION)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    torch.testing.assert_close(grey[0], grey[2], rtol=0, atol=1e-6)


def test_a_choice_of_a_choice_keeps_images_and_classes_together(folder):
    images = small(folder).train
    chosen = images.subset(torch.tensor([20, 8, 3])).subset(torch.tensor([2, 1]))
    assert len(chosen) == 2
    assert chosen.targets.tolist() == [0, 1]
    for ours, index in ((0, 3), (1, 8)):
        assert torch.equal(chosen[ours][0], images[index][0])
        assert chosen[ours][1] == images[index][1]
    assert len(images) == 21


def where_cut(tmp_path, draws):
    """Width and height as shares, and direction, of random cuts from an image that holds its own coordinates."""
    (tmp_path / "ant").mkdir()
    y, x = np.mgrid[:256, :256].astype(np.uint8)
    Image.fromarray(np.stack([x, y, x], axis=2)).save(tmp_path / "ant" / "a.png")
    images = FolderImages(tmp_path, crop=16, resize=16).augmented()
    scale, shift = torch.tensor(DEVIATION)[:, None, None], torch.tensor(MEAN)[:, None, None]
    torch.manual_seed(0)
    for _ in range(draws):
        across, down, _ = images[0][0] * scale + shift
        spans = across[8, 15] - across[8, 0], down[15, 8] - down[0, 8]
        yield [float(span) * 16 / 15 for span in spans]


def test_augmented_images_are_parts_of_random_area_and_aspect_half_of_them_mirrored(tmp_path):
    cuts = np.array(list(where_cut(tmp_path, 150)))
    width, height = np.abs(cuts).T
    area, aspect = width * height, width / height
    assert 0.08 * 0.9 < area.min() < 0.15
    assert 0.9 < area.max() < 1.02
    assert 0.75 * 0.95 < aspect.min() < 0.8
    assert 1.25 < aspect.max() < 4 / 3 * 1.05
    assert 0.4 < (cuts[:, 0] < 0).mean() < 0.6
    assert (cuts[:, 1] > 0).all()


def test_augmenting_leaves_the_images_it_is_asked_of_as_they_were(folder):
    images = small(folder).train
    before = images[4][0]
    varied = images.augmented()
    assert not torch.equal(varied[4][0], varied[4][0])
    assert torch.equal(images[4][0], before)
    assert varied[4][0].shape == (3, 24, 24)
    assert torch.equal(varied.targets, images.targets)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_a_file_that_is_no_whole_image_is_named_when_it_is_met(folder, content):
    broken = folder / "imagenet" / "train" / "bee" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:500] if content is None else content)
    images = small(folder).train
    with pytest.raises(ValueError, match="cannot be read as an image") as error:
        images[8]
    assert repr(str(broken)) in str(error.value)
    assert "\n" not in str(error.value)
    assert images[7][1] == 1


def test_a_file_that_is_no_image_is_named_from_a_worker_too(folder):
    broken = folder / "imagenet" / "train" / "bee" / "1.jpg"
    broken.write_bytes(b"no image")
    data = small(folder, batch_size=21, num_workers=1)
    with pytest.raises(ValueError, match="cannot be read as an image") as error:
        list(data.train_dataloader())
    assert str(broken) in str(error.value)


@pytest.mark.parametrize("crop", [0, 33])
def test_a_crop_that_does_not_fit_is_refused(folder, crop):
    with pytest.raises(ValueError, match=f"crop must be from 1 to the 32 pixels of resize, got {crop}"):
        FolderImages(folder / "imagenet" / "train", crop=crop, resize=32)


# The reader


def error_of(folder, kind=FileNotFoundError, **options):
    with pytest.raises(kind) as error:
        ImageNet(batch_size=1, data_dir=folder, **options).setup()
    message = str(error.value)
    assert "\n" not in message
    return message


def test_imagenet_is_read_from_its_two_folders_at_224_pixels(folder):
    splits = ImageNet(batch_size=1, data_dir=folder)
    splits.setup()
    assert splits.input_shape == (3, 224, 224)
    assert splits.num_classes == 3
    assert splits.mirrored
    assert (len(splits.train), len(splits.test)) == (21, 6)
    assert splits.test[5][0].shape == (3, 224, 224)
    assert splits.test[5][1] == 2


@pytest.mark.parametrize("download", [False, True])
def test_a_missing_imagenet_says_where_it_comes_from_and_goes_to(tmp_path, download):
    message = error_of(tmp_path, download=download)
    assert f"{tmp_path / 'imagenet' / 'train'} and {tmp_path / 'imagenet' / 'val'}" in message
    assert "https://image-net.org" in message
    assert "the data set digits needs no files" in message
    (tmp_path / "imagenet" / "train").mkdir(parents=True)
    assert f"make {tmp_path / 'imagenet' / 'val'}," in error_of(tmp_path)


def test_the_first_class_that_one_split_lacks_is_named(folder):
    (folder / "imagenet" / "val" / "bee").rename(folder / "imagenet" / "val" / "bear")
    message = error_of(folder, ValueError)
    train, val = (str(folder / "imagenet" / part) for part in ("train", "val"))
    assert f"class folder 'bear' is in {val!r} but not in {train!r}, 2 in one of the two only" in message


def test_a_class_without_an_image_is_named(folder):
    for file in (folder / "imagenet" / "val" / "cow").iterdir():
        file.rename(file.with_suffix(".txt"))
    assert f"{str(folder / 'imagenet' / 'val' / 'cow')!r} holds no image, 1 such folders" in error_of(folder)


def test_images_without_folders_of_classes_are_refused(folder):
    val = folder / "imagenet" / "val"
    for name in CLASSES:
        for file in (val / name).iterdir():
            file.rename(val / f"{name}-{file.name}")
        (val / name).rmdir()
    message = error_of(folder)
    assert f"{str(val)!r} has no folders of classes" in message
    assert "torchvision.datasets.ImageNet" in message


# The data module


def test_every_training_image_is_served_once_an_epoch_in_an_order_of_its_own(folder):
    splits = small(folder)
    data = small(folder, batch_size=6, augmentation="none", num_workers=0)
    orders = []
    for epoch in (0, 1):
        loader = data.train_dataloader()
        loader.set_epoch(epoch)
        batches = served(loader)
        assert [len(targets) for _, targets in batches] == [6, 6, 6, 3]
        rows = torch.cat([inputs for inputs, _ in batches]).flatten(1)
        plain = torch.stack([splits.train[i][0] for i in range(21)]).flatten(1)
        order = [int((plain == row).all(dim=1).nonzero()[0]) for row in rows]
        assert sorted(order) == list(range(21))
        assert [int(splits.train.targets[i]) for i in order] == [t for _, targets in batches for t in targets]
        orders.append(order)
    assert orders[0] != orders[1]


def test_the_order_and_the_look_differ_between_trials(folder):
    first, second = (
        served(small(folder, batch_size=6, seed=seed, num_workers=0).train_dataloader()) for seed in (0, 1)
    )
    assert first[0][1] != second[0][1] or not torch.equal(first[0][0], second[0][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_that_is_resumed_goes_on_with_the_same_images_in_the_same_look(folder, workers):
    def loader():
        made = small(folder, batch_size=4, seed=3, num_workers=workers).train_dataloader()
        made.set_epoch(1)
        return made

    whole = served(loader())
    assert len(whole) == 6
    stopped = loader()
    batches = iter(stopped)
    for _ in range(2):
        next(batches)
    state = stopped.state_dict()
    del batches
    resumed = loader()
    torch.manual_seed(99)
    resumed.load_state_dict(state)
    assert same(served(resumed), whole[2:])
    without_workers = small(folder, batch_size=4, seed=3, num_workers=0).train_dataloader()
    without_workers.set_epoch(1)
    assert same(served(without_workers), whole)


class Remembers(LightningModule):
    """Keeps what it is trained on."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 24 * 24, 3)
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch[0].clone(), batch[1].tolist()))
        return nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class SavesAt(Callback):
    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


def test_a_trainer_resumed_inside_an_epoch_with_two_workers_sees_the_same_batches(folder, tmp_path):
    def fit(callbacks, ckpt_path=None):
        module = Remembers()
        trainer = Trainer(
            max_epochs=2,
            accelerator="cpu",
            logger=False,
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(
            module,
            Small(batch_size=7, augmentation="scale-crop", validation_size=3, data_dir=folder, num_workers=2),
            ckpt_path=ckpt_path,
        )
        return module.seen

    seen = fit([SavesAt(4, tmp_path / "4.ckpt")])
    assert len(seen) == 6
    assert not same(seen[:3], seen[3:])
    assert same(fit([], ckpt_path=tmp_path / "4.ckpt"), seen[4:])


def test_a_batch_size_set_between_epochs_is_that_of_the_next_loader(folder):
    data = small(folder, batch_size=6, num_workers=0)
    data.batch_size = 10
    assert [len(targets) for _, targets in served(data.train_dataloader())] == [10, 10, 1]


def test_monitors_find_the_training_images_as_they_are(folder):
    splits = small(folder)
    loader = small(folder, batch_size=21, num_workers=0).train_dataloader()
    assert torch.equal(loader.dataset[4][0], splits.train[4][0])
    inputs, targets = next(iter(loader))
    first = targets.argsort(stable=True)
    plain = torch.stack([splits.train[i][0] for i in range(21)])
    assert not any((plain == row).all() for row in inputs[first])


def test_validation_images_are_held_out_alike_in_every_trial_by_the_rule_of_all_data_sets(folder):
    splits = small(folder)
    order = torch.randperm(21, generator=torch.Generator().manual_seed(0))
    held_out, kept = order[:5], order[5:].sort().values
    for seed in (0, 1):
        data = small(folder, batch_size=4, validation_size=5, seed=seed, num_workers=0)
        assert len(data.train) == 16
        for part, indices in ((data.validation, held_out), (data.train, kept)):
            for ours, index in enumerate(indices.tolist()):
                assert torch.equal(part[ours][0], splits.train[index][0])
        assert len(data.test) == 6


def test_validation_serves_the_held_out_images_as_they_are_and_draws_nothing(folder):
    data = small(folder, batch_size=4, validation_size=5, num_workers=0)
    torch.manual_seed(1234)
    before = torch.get_rng_state()
    batches = served(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.cat([i for i, _ in batches]), torch.stack([data.validation[i][0] for i in range(5)]))
    assert small(folder, batch_size=4, num_workers=0).val_dataloader() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_gives_a_split_in_order_as_often_as_asked_and_draws_nothing(folder, workers):
    data = small(folder, batch_size=4, num_workers=workers)
    torch.manual_seed(1234)
    before = torch.get_rng_state()
    batches = data.evaluation("test", 4)
    first, second = served(batches), served(batches)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(first, second)
    assert [targets for _, targets in first] == [[0, 0, 1, 1], [2, 2]]
    assert torch.equal(torch.cat([i for i, _ in first]), torch.stack([data.test[i][0] for i in range(6)]))


@pytest.mark.parametrize("samples", [None, 21, 100])
def test_evaluation_gives_all_training_images_without_augmentation(folder, samples):
    data = small(folder, batch_size=4, num_workers=0)
    inputs = torch.cat([inputs for inputs, _ in data.evaluation("train", 10, samples)])
    assert torch.equal(inputs, torch.stack([data.train[i][0] for i in range(21)]))


def test_evaluation_gives_a_drawn_part_in_order(folder):
    data = small(folder, batch_size=4, num_workers=0)
    chosen = torch.randperm(21, generator=torch.Generator().manual_seed(0))[:8].sort().values
    batches = served(data.evaluation("train", 5, 8))
    assert [len(targets) for _, targets in batches] == [5, 3]
    assert torch.equal(torch.cat([i for i, _ in batches]), torch.stack([data.train[int(i)][0] for i in chosen]))


def test_each_of_two_processes_trains_on_half_a_batch_and_evaluates_all(folder, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    data = small(folder, batch_size=4, num_workers=0)
    assert sum(len(targets) for _, targets in served(data.train_dataloader())) in (10, 11)
    assert sum(len(targets) for _, targets in served(data.evaluation("train", 4))) == 21


def test_the_number_of_workers_fits_the_machine_where_none_is_given(folder):
    data = small(folder, batch_size=4)  # torch warns of too many, and warnings are errors
    assert 1 <= data.workers <= 8
    assert len(served(data.evaluation("test", 6))) == 1


@pytest.mark.parametrize("augmentation", ["crop-flip", "affine"])
def test_an_augmentation_of_images_in_memory_is_refused_with_the_two_there_are(folder, augmentation):
    with pytest.raises(ValueError, match=f"must be 'scale-crop' or 'none', got {augmentation!r}"):
        small(folder, batch_size=4, augmentation=augmentation)


@pytest.mark.parametrize("batch_size", [22])
def test_a_batch_larger_than_the_data_is_refused(folder, batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be from 1 to the 21 training samples, got {batch_size}"):
        small(folder, batch_size=batch_size)


@pytest.mark.parametrize("size", [21])
def test_a_validation_split_that_leaves_nothing_is_refused(folder, size):
    with pytest.raises(ValueError, match=f"validation_size must be from 0 to 20, got {size}"):
        small(folder, batch_size=4, validation_size=size)
