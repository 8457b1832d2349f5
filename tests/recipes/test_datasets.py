import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.nn.functional import cross_entropy

from lightning_gap import BatchSizeScheduler
from lightning_gap.data import RandomAffine
from lightning_gap.recipes.datasets import DATASETS

Digits, StandIn = DATASETS["digits"], DATASETS["timit-stand-in"]


def digits(**settings):
    """The data module, set up."""
    data = Digits(**{"batch_size": 8, **settings})
    data.setup()
    return data


def a_recipe(**settings):
    known = {"batch_size": 32, "augmentation": "affine", "standardise": True, "validation_size": 57}
    return SimpleNamespace(**(known | settings))


def quiet(**arguments):
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )


# What a recipe says


def test_what_is_not_given_comes_from_the_recipe():
    data = Digits(a_recipe(), seed=3)
    data.setup()
    alone = digits(batch_size=32, augmentation="affine", standardise=True, validation_size=57, seed=3)
    assert (data.batch_size, len(data.validation)) == (32, 57)
    for first, second in zip(data.train_dataloader(), alone.train_dataloader(), strict=True):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])


def test_a_recipe_need_not_say_everything_and_nothing_is_done_by_default():
    data = Digits(SimpleNamespace(batch_size=16))
    data.setup()
    inputs, _ = data.train.whole()
    assert (data.batch_size, len(data.validation), len(data.train)) == (16, 0, 1437)
    assert (inputs.min(), inputs.max()) == (0, 1)
    assert data.augment is None


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", 64), ("augmentation", "none"), ("standardise", False), ("validation_size", 0)]
)
def test_a_value_that_contradicts_the_recipe_is_refused_and_one_that_agrees_is_not(name, value):
    recipe = a_recipe()
    asked = getattr(recipe, name)
    with pytest.raises(ValueError, match=f"{name}={value!r}.*{name}={asked!r}"):
        Digits(recipe, **{name: value})
    Digits(recipe, **{name: asked})


def test_a_batch_size_is_needed():
    for recipe in (None, SimpleNamespace()):
        with pytest.raises(ValueError, match="batch_size=None: pass batch_size="):
            Digits(recipe)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_size", 0),
        ("batch_size", True),
        ("batch_size", 32.0),
        ("augmentation", "flip"),
        ("standardise", "False"),
        ("validation_size", -1),
        ("validation_size", True),
        ("download", 1),
        ("num_workers", -1),
        ("seed", -1),
    ],
)
def test_an_argument_out_of_range_is_named_with_its_value(name, value):
    with pytest.raises(ValueError, match=f"{name}.* {value!r}"):
        Digits(**{"batch_size": 8, name: value})


@pytest.mark.parametrize("batch_size", [1438, 10**9])
def test_a_batch_larger_than_the_data_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be from 1 to the 1437 training samples, got {batch_size}"):
        digits(batch_size=batch_size)


def test_a_validation_split_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="validation_size must be from 0 to 1436, got 1437"):
        digits(validation_size=1437)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"augmentation": "affine"}, "augmentation='affine'.*'none'"), ({"standardise": True}, "standardise=True.*leave")],
)
def test_what_is_for_images_is_refused_for_speech(settings, words):
    with pytest.raises(ValueError, match=words):
        StandIn(batch_size=8, **settings).setup()


# The splits and the loaders


def test_validation_samples_are_held_out_alike_in_every_trial():
    held = [digits(validation_size=100, seed=seed) for seed in (0, 1)]
    first, second = ([part.whole()[0] for part in (data.train, data.validation)] for data in held)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    train, validation = ({tuple(image) for image in part.flatten(1).tolist()} for part in first)
    assert not train & validation
    assert (len(first[0]), len(first[1])) == (1337, 100)


def test_standardising_takes_mean_and_deviation_of_the_whole_training_split():
    data, plain = digits(standardise=True, validation_size=400), digits()
    pixels = plain.train.whole()[0].double()
    expected = (plain.test.whole()[0].double() - pixels.mean()) / pixels.std(correction=0)
    torch.testing.assert_close(data.test.whole()[0].double(), expected, rtol=0, atol=1e-6)


def test_the_training_order_differs_between_trials():
    first, second = (next(iter(digits(seed=seed).train_dataloader())) for seed in (0, 1))
    assert not torch.equal(first[0], second[0])


def test_only_training_samples_are_augmented_and_digits_are_not_mirrored():
    data = digits(batch_size=1437, augmentation="affine", validation_size=0)
    loader, plain = data.train_dataloader(), digits()
    order = loader.plan.order(0)
    numbers = loader.plan.sample_numbers(0, 3)
    expected = RandomAffine(degrees=10, shift=0.2)(plain.train.whole()[0], numbers)
    assert torch.equal(next(iter(loader))[0], expected[order])
    assert torch.equal(data.test.whole()[0], plain.test.whole()[0])
    assert torch.equal(next(data.evaluation("train", 1437))[0], plain.train.whole()[0])


def test_evaluation_gives_a_split_in_order_and_at_most_so_many():
    data = digits(validation_size=100)
    for split in ("train", "validation", "test"):
        chunks = list(data.evaluation(split, 64))
        for found, expected in zip(
            map(torch.cat, zip(*chunks, strict=True)), getattr(data, split).whole(), strict=True
        ):
            assert torch.equal(found, expected)
    few = torch.cat([inputs for inputs, _ in data.evaluation("test", 64, 150)])
    chosen = torch.randperm(360, generator=torch.Generator().manual_seed(0))[:150].sort().values
    assert torch.equal(few, data.test[chosen][0])


def test_random_numbers_of_training_follow_the_batch_and_validation_leaves_them_alone():
    data = digits(batch_size=500, validation_size=100)
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append([float(torch.rand(())) for _ in data.train_dataloader()])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 3
    before = torch.get_rng_state()
    assert [len(list(loader)) for loader in (data.val_dataloader(), data.test_dataloader())] == [1, 1]
    assert torch.equal(torch.get_rng_state(), before)


def test_no_file_is_read_and_nothing_imported_before_it_is_needed(tmp_path):
    for name, kind in DATASETS.items():
        data = kind(batch_size=8, data_dir=tmp_path / "nowhere")
        assert data.name == name
        assert data.input_shape
    script = (
        "import sys, types; package = types.ModuleType('package'); package.__path__ = [sys.argv[1]]; "
        "sys.modules['package'] = package; from package.datasets import DATASETS; "
        "print([DATASETS.summary(name) for name in DATASETS if name in DATASETS]); "
        "assert not {'torch', 'lightning', 'numpy'} & set(sys.modules)"
    )
    folder = DATASETS["digits"].__module__
    place = sys.modules[folder.rpartition(".")[0]].__path__[0]
    done = subprocess.run(
        [sys.executable, "-c", script, place.rpartition("/")[0]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "50,000 + 10,000 colour images" in done.stdout


# With a Trainer


class Module(LightningModule):
    """A small network with dropout, which writes down the batches that it gets."""

    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10))
        self.sizes = []

    def training_step(self, batch, batch_idx):
        self.sizes.append(len(batch[0]))
        return cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        assert not self.training

    def test_step(self, batch, batch_idx):
        self.log("tested", float(len(batch[0])), reduce_fx="sum")

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def test_an_optimizer_step_takes_the_batch_in_the_trainers_micro_batches():
    data, module = Digits(batch_size=100), Module()
    trainer = quiet(max_epochs=1, accumulate_grad_batches=4)
    trainer.fit(module, data)
    assert module.sizes[:-1] == [25] * 57
    assert trainer.global_step == 15
    again = Module()
    quiet(max_epochs=1).fit(again, data)
    assert again.sizes[:-1] == [100] * 14


def test_each_of_several_processes_serves_its_share_of_a_batch():
    data = Digits(batch_size=96)
    device = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(world_size=3, accumulate_grad_batches=2, strategy=device)
    data.setup("fit")
    assert data.train_dataloader().batch_size == data.batch_size == 16


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ValueError, match=r"batch_size=100 .*1 processes and accumulate_grad_batches=3; use a multiple"):
        quiet(max_epochs=1, accumulate_grad_batches=3).fit(Module(), Digits(batch_size=100))


def test_a_batch_size_set_before_the_fit_is_that_of_the_fit():
    data, module = Digits(batch_size=100), Module()
    data.batch_size = 200
    quiet(max_epochs=1, accumulate_grad_batches=2).fit(module, data)
    assert module.sizes[0] == 100


def test_a_scheduler_sets_the_batch_of_a_trainer_that_accumulates():
    data, module = Digits(batch_size=100), Module()
    growth = BatchSizeScheduler({0: 100, 1: 300})
    trainer = quiet(max_epochs=2, accumulate_grad_batches=4, callbacks=[growth])
    trainer.fit(module, data)
    assert trainer.global_step == 15 + 5
    again = Module()
    quiet(max_epochs=1).fit(again, data)
    assert again.sizes[0] == 100


def test_all_test_samples_are_served():
    assert quiet().test(Module(), Digits(batch_size=8), verbose=False) == [{"tested": 360.0}]


class SavesEveryStep(Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def fit(*callbacks, ckpt_path=None):
    """Four epochs in which the batch grows, dropout on."""
    torch.manual_seed(0)
    module, data = Module(), Digits(batch_size=500, validation_size=157)
    trainer = quiet(max_epochs=4, callbacks=[BatchSizeScheduler({0: 500, 2: 700, 3: 1280}), *callbacks])
    if ckpt_path is not None:
        torch.manual_seed(1)  # what is drawn must not depend on what was drawn before
    trainer.fit(module, data, ckpt_path=ckpt_path)
    assert data.batch_size == 500
    return trainer.global_step, module.state_dict()


def test_a_run_resumed_after_any_step_ends_with_the_same_weights(tmp_path):
    steps, weights = fit(SavesEveryStep(tmp_path))
    assert steps == 3 + 3 + 2 + 1
    for step in range(1, steps):
        again, found = fit(ckpt_path=tmp_path / f"{step}.ckpt")
        assert again == steps
        assert all(torch.equal(found[name], weights[name]) for name in weights), step
