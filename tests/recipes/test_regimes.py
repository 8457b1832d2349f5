import math
from dataclasses import replace
from datetime import timedelta
from functools import cache

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from lightning_gap import (
    AdversarialTraining,
    BatchSizeScheduler,
    ConservativeTraining,
    GhostBatchNormSwap,
    GradientPenalty,
    LearningRateScaling,
    MultiplicativeNoise,
    PiggybackWarmStart,
    SharpnessAwareMinimization,
)
from lightning_gap.functional import epoch_batch_at
from lightning_gap.recipes import F1, Digits, Recipe
from lightning_gap.recipes.catalogue import bundled, load_recipe
from lightning_gap.recipes.lookup import lookup
from lightning_gap.recipes.runner import checkpoints
from lightning_gap.recipes.runner.plan import make_plan
from lightning_gap.recipes.runner.run_result import WEIGHTS, RunResult
from lightning_gap.recipes.runner.settings import Settings
from lightning_gap.recipes.runner.training import train
from lightning_gap.recipes.runner.watch import Watch, progress_bar


class Tiny(Recipe):
    """On digits, with dropout."""

    def __init__(
        self,
        regime="small",
        *,
        epochs=11,
        small_batch_size=8,
        large_batch_size=64,
        ghost_batch_size=16,
        warmup_epochs=2,
        optimizer="adam",
        learning_rate=0.1,
        learning_rate_steps=None,
        decay_all=True,
        gradient_clip=5.0,
        sam_rho=0.05,
        conservative_strength=1e-3,
        adversarial_epsilon=0.1,
        penalty_strength=0.1,
        augmentation="none",
        validation_size=0,
        batch_norm="running",
    ):
        hidden = [nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2)]
        super().__init__(nn.Sequential(*hidden, nn.Linear(32, 10)), regime)


# 1,280 of the digits are trained on: as many updates of 160 as of 640 in four times the epochs.
ON_DIGITS = {"epochs": 5, "small_batch_size": 160, "large_batch_size": 640, "learning_rate": 0.01}
ON_DIGITS |= {"validation_size": 157}


def sizes(recipe):
    """Batch sizes by the epoch in which they begin, as the regime's callback has them."""
    found = {0: recipe.batch_size}
    for callback in recipe.configure_callbacks():
        if isinstance(callback, BatchSizeScheduler):
            for epoch in range(recipe.epochs):
                size = epoch_batch_at(callback.schedule, epoch).batch_size
                if size != list(found.values())[-1]:
                    found[epoch] = size
        elif isinstance(callback, PiggybackWarmStart):
            found[callback.switch_epoch] = callback.large_batch_size
    return found


@pytest.mark.parametrize(
    ("name", "batch_sizes", "epochs", "kinds"),
    [
        ("small", {0: 8}, 11, []),
        ("large", {0: 64}, 11, []),
        ("linear-lr", {0: 64}, 11, [LearningRateScaling]),
        ("sqrt-lr", {0: 64}, 11, [LearningRateScaling]),
        ("ghost", {0: 64}, 11, [GhostBatchNormSwap]),
        ("ghost-lr", {0: 64}, 11, [GhostBatchNormSwap, LearningRateScaling]),
        ("augmented", {0: 64}, 11, []),
        ("goyal", {0: 64}, 11, [LearningRateScaling]),
        ("sam", {0: 64}, 11, [SharpnessAwareMinimization]),
        ("sam-late", {0: 64}, 11, [SharpnessAwareMinimization]),
        ("conservative", {0: 64}, 11, [ConservativeTraining]),
        ("adversarial", {0: 64}, 11, [AdversarialTraining]),
        ("penalty", {0: 64}, 11, [GradientPenalty]),
        ("noise", {0: 64}, 11, [MultiplicativeNoise]),
        ("growing", {0: 8, 2: 16, 5: 32, 8: 64}, 11, [BatchSizeScheduler]),
        ("piggyback", {0: 8, 3: 64}, 11, [PiggybackWarmStart]),
        ("longer", {0: 64}, 88, []),
    ],
)
def test_a_regime_is_batch_sizes_epochs_and_callbacks(name, batch_sizes, epochs, kinds):
    recipe = Tiny(name)
    assert (sizes(recipe), recipe.epochs) == (batch_sizes, epochs)
    assert [type(callback) for callback in recipe.configure_callbacks()] == kinds


def test_each_recipe_has_callbacks_that_no_other_has():
    first, second = (Tiny("ghost-lr").configure_callbacks() for _ in range(2))
    assert not {id(callback) for callback in first} & {id(callback) for callback in second}


@pytest.mark.parametrize(
    ("name", "rule", "warmup", "clip"),
    [
        ("linear-lr", "linear", 2, None),
        ("goyal", "linear", 2, None),
        ("sqrt-lr", "sqrt", 0, 4.0),
        ("ghost-lr", "sqrt", 0, 4.0),
    ],
)
def test_the_learning_rate_is_scaled_as_the_paper_of_the_regime_does(name, rule, warmup, clip):
    recipe = Tiny(name, gradient_clip=4.0)
    (scaling,) = (found for found in recipe.configure_callbacks() if isinstance(found, LearningRateScaling))
    assert (scaling.base_batch_size, scaling.rule, scaling.warmup_epochs) == (8, rule, warmup)
    assert recipe.gradient_clip == clip


@pytest.mark.parametrize("users", [None, 0.5])
@pytest.mark.parametrize("regime", ["large", "sqrt-lr"])
def test_gradients_are_clipped_as_the_trainer_says_else_as_the_regime_does(regime, users):
    norms = []

    class Norms(Callback):
        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            found = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
            norms.extend([float(nn.utils.get_total_norm(found))] if found else [])

    recipe = Tiny(regime, **ON_DIGITS | {"epochs": 1}, gradient_clip=1e-3)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[Norms()],
        gradient_clip_val=users,
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(recipe, Digits(recipe))
    limit = users if users is not None else 1e-3 if regime == "sqrt-lr" else None
    assert norms
    assert all(norm <= limit * 1.001 for norm in norms) if limit else max(norms) > 0.5


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("small", {}),
        ("ghost-lr", {"gradient_clip": 5.0}),
        ("sam", {}),
        ("noise", {"gradient_clip": 5.0}),
        ("augmented", {"augmentation": "affine"}),
        ("goyal", {"decay_all": False, "batch_norm": "recomputed"}),  # no residual block to start at zero
        ("longer", {"epochs": 88, "learning_rate_steps": {40: 0.1, 72: 0.02}}),
        ("growing", {"learning_rate_steps": {}}),
    ],
)
def test_a_regime_changes_the_hyperparameters_that_it_is_about(name, changed):
    recipe = Tiny(name, learning_rate_steps={5: 0.1, 9: 0.02})
    given = {"gradient_clip": None} | {
        key: recipe.hparams[key] for key in recipe.hparams if key not in ("regime", "gradient_clip")
    }
    assert {key: getattr(recipe, key) for key in given} == given | changed


def test_a_batch_grows_where_the_rate_would_decay_and_the_rate_takes_over_at_the_limit():
    # Smith et al. (2018), section 5.1: 128, 640, 3200, and 5120 in place of 16000, which leaves 0.32 of the rate.
    steps = {60: 0.2, 120: 0.04, 160: 0.008}
    given = {"epochs": 200, "small_batch_size": 128, "large_batch_size": 5120, "learning_rate_steps": steps}
    recipe, decaying = Tiny("growing", **given), Tiny(**given)
    assert sizes(recipe) == {0: 128, 60: 640, 120: 3200, 160: 5120}
    (growth,) = recipe.configure_callbacks()
    factors = [growth.schedule(epoch).learning_rate_factor for epoch in (0, 60, 120, 160)]
    assert factors == pytest.approx([1, 1, 1, 0.32])
    for epoch in range(200):  # rate / batch, the noise scale, is that of the decaying schedule
        stage = growth.schedule(epoch)
        decayed = decaying.learning_rate_factor(epoch) / 128
        assert stage.learning_rate_factor / stage.batch_size == pytest.approx(decayed)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"epochs": 7, "learning_rate_steps": {5: 0.5, 9: 0.1}}, {0: 8, 5: 16}),  # a step after the run
        ({"learning_rate_steps": {11: 0.5, 5: 0.25}}, {0: 8, 5: 32}),  # a rise after the run
        ({"learning_rate_steps": {9: 0.25, 5: 0.5}}, {0: 8, 5: 16, 9: 32}),  # in any order
        ({"large_batch_size": 40}, {0: 8, 2: 16, 5: 32, 8: 40}),  # a doubling stops at the large batch
    ],
)
def test_a_batch_grows_inside_the_run_and_up_to_the_large_one(changed, expected):
    assert sizes(Tiny("growing", **changed)) == expected


def test_the_rate_follows_its_steps():
    recipe = Tiny(learning_rate_steps={9: 0.01, 5: 0.1})
    assert [recipe.learning_rate_factor(epoch) for epoch in (0, 4, 5, 8, 9, 100)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


def test_hyperparameters_reach_the_other_callbacks():
    (swap,), (switch,) = (Tiny(name).configure_callbacks() for name in ("ghost", "piggyback"))
    assert swap.ghost_batch_size == 16
    assert (switch.switch_epoch, switch.large_batch_size, switch.optimizer_state) == (3, 64, "keep")
    given = {"sam_rho": 0.2, "conservative_strength": 0.3, "adversarial_epsilon": 0.4, "penalty_strength": 0.5}
    of_plugins = ("sam", "sam-late", "conservative", "adversarial", "penalty", "noise")
    (sam,), (late,), (conservative,), (adversarial,), (penalty,), (noise,) = (
        Tiny(name, **given).configure_callbacks() for name in of_plugins
    )
    assert (sam.rho, sam.start, late.rho, late.start) == (0.2, 0.0, 0.2, 0.875)
    assert (conservative.strength, conservative.inner_steps, adversarial.epsilon, penalty.strength) == (
        0.3,
        3,
        0.4,
        0.5,
    )
    assert noise.sigma**2 == pytest.approx(64 / 8 - 1)  # Hoffer et al. (2017): in proportion to the batch


@pytest.mark.parametrize("name", [name for name in bundled() if name != "gpt"])  # whose regimes are others
def test_every_regime_suits_every_recipe_on_each_of_its_data_sets(name):
    kind = load_recipe(name)
    for data in kind.data_sets:
        with torch.device("meta"):
            recipes = {regime: kind.on(data, regime) for regime in kind.regimes}
        small, growing, piggyback = (recipes[regime] for regime in ("small", "growing", "piggyback"))
        assert list(sizes(growing).values())[:: len(sizes(growing)) - 1] == [
            small.small_batch_size,
            small.large_batch_size,
        ]
        assert list(sizes(piggyback)) == [0, small.epochs / 5]
        assert recipes["longer"].epochs == math.ceil(small.epochs * small.large_batch_size / small.small_batch_size)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("growing", {"epochs": 3}, "growing needs an epoch for each of its batches, 8, 16, 32, 64, got epochs=3; use"),
        ("piggyback", {"epochs": 1}, "piggyback needs an epoch for each of its batches, got epochs=1; use at least 2"),
        ("growing", {"large_batch_size": 8}, "growing needs a large_batch_size above small_batch_size=8, got 8"),
        ("piggyback", {"large_batch_size": 4}, "piggyback needs a large_batch_size above small_batch_size=8, got 4"),
        ("noise", {"large_batch_size": 8}, "noise needs a large_batch_size above small_batch_size=8, got 8"),
        ("sam", {"sam_rho": 0.0}, "sam_rho must be positive, got 0.0"),
        ("conservative", {"conservative_strength": -1.0}, "conservative_strength must not be negative .*, got -1.0"),
        ("adversarial", {"adversarial_epsilon": math.inf}, "adversarial_epsilon must be positive, got inf"),
        ("penalty", {"penalty_strength": "1"}, "penalty_strength must be a number, got '1'"),
        ("longer", {"large_batch_size": 8}, "longer needs a large_batch_size above small_batch_size=8, got 8"),
        (
            "growing",
            {"learning_rate_steps": {11: 0.1, 20: 0.01}},
            "growing needs a step .* inside the run at which its batch of 8 grows, got epochs=11 and "
            "learning_rate_steps={11: 0.1, 20: 0.01}; use more epochs, earlier steps or smaller factors",
        ),
        ("growing", {"learning_rate_steps": {5: 0.95}}, "its batch of 8 grows, .* earlier steps or smaller factors"),
        (
            "growing",
            {"learning_rate_steps": {9: 0.5, 5: 0.1}},
            "growing needs factors of the rate that fall from 1, got 0.5 after 0.1 .* a factor of at most 0.1",
        ),
        ("growing", {"learning_rate_steps": {5: 2.0}}, "got 2 after 1 .*; give epoch 5 a factor of at most 1"),
        ("ghost", {"ghost_batch_size": 65}, "ghost_batch_size=65 is larger than the batch, large_batch_size=64; use"),
    ],
)
def test_hyperparameters_that_a_regime_cannot_work_with_are_refused(name, changed, message):
    with pytest.raises(ValueError, match=message):
        Tiny(name, **changed)


# In a real Trainer, on digits


class Batches(Callback):
    """The sizes of the training batches, epoch by epoch."""

    def __init__(self):
        self.seen = {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.setdefault(trainer.current_epoch, []).append(len(batch[1]))


def fit(name):
    torch.manual_seed(0)
    recipe, batches, watch = Tiny(name, **ON_DIGITS), Batches(), Watch(progress_bar(shown=False), name)
    trainer = Trainer(
        max_epochs=recipe.epochs,
        accelerator="cpu",
        callbacks=[watch, batches],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(recipe, Digits(recipe))
    return trainer, batches.seen, watch


@pytest.mark.parametrize(
    ("name", "sizes", "factor"),
    [
        ("small", [160] * 5, 1),
        ("large", [640] * 5, 1),
        ("linear-lr", [640] * 5, 4),
        ("sqrt-lr", [640] * 5, 2),
        ("ghost", [640] * 5, 1),
        ("ghost-lr", [640] * 5, 2),
        ("augmented", [640] * 5, 1),
        ("goyal", [640] * 5, 4),
        ("sam-late", [640] * 5, 1),
        ("conservative", [640] * 5, 1),
        ("adversarial", [640] * 5, 1),
        ("noise", [640] * 5, 1),
        ("growing", [160, 320, 320, 640, 640], 1),
        ("piggyback", [160, 640, 640, 640, 640], 1),
        ("longer", [640] * 20, 1),
    ],
)
def test_every_epoch_has_the_planned_batches_and_the_rate_ends_scaled(name, sizes, factor):
    trainer, seen, watch = fit(name)
    assert seen == {epoch: [size] * (1280 // size) for epoch, size in enumerate(sizes)}
    assert trainer.global_step == sum(1280 // size for size in sizes)
    assert float(trainer.callback_metrics["validation/accuracy"]) > 0.6  # it learns; chance is 0.1
    assert watch.learning_rate == pytest.approx(0.01 * factor)
    assert watch.batch_sizes == dict(enumerate(sizes))


class StopsAt(Callback):
    """Fails inside an epoch, as a machine does."""

    def __init__(self, epoch, batch):
        self.place = epoch, batch

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.place:
            raise RuntimeError("power cut")


def run(name, folder, *callbacks):
    """A run of the command line's, with callbacks of the recipe's own beside the regime's."""

    class Own(Tiny):
        def configure_callbacks(self):
            return [*super().configure_callbacks(), *callbacks]

    settings = Settings(
        "f1",
        (name,),
        "digits",
        trainer={"accelerator": "cpu"},
        epsilon=(1e-3,),
        measure_every_n_epochs=2,
        output=folder,
        hyperparameters={key: value for key, value in F1.on("digits", **ON_DIGITS).hparams.items() if key != "regime"},
    )
    plan = replace(make_plan(settings), recipe_class=Own)
    plan = replace(plan, settings=replace(plan.settings, hyperparameters=ON_DIGITS))
    (one,) = plan.runs()
    train(plan, one, progress_bar())
    found = RunResult.load(one.result, (1e-3,))
    return replace(found, seconds=0.0), torch.load(one.folder / WEIGHTS, weights_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Result and weights of a regime's run that nothing stopped."""
    return cache(lambda name: run(name, tmp_path_factory.mktemp("whole")))


@pytest.mark.parametrize(
    ("name", "epoch", "batch"),
    [
        ("small", 2, 3),
        ("growing", 1, 0),  # resumes from the end of the epoch before the growth
        pytest.param("growing", 2, 1, marks=pytest.mark.slow),
        pytest.param("growing", 3, 1, marks=pytest.mark.slow),
        ("piggyback", 1, 0),  # and of the epoch before the switch
        pytest.param("piggyback", 3, 0, marks=pytest.mark.slow),
        pytest.param("sqrt-lr", 1, 1, marks=pytest.mark.slow),
        pytest.param("longer", 9, 1, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_cut_inside_an_epoch_resumes_to_the_same_weights_and_result(name, epoch, batch, whole, tmp_path):
    with pytest.raises(RuntimeError, match="power cut"):
        run(name, tmp_path / "cut", StopsAt(epoch, batch))
    assert list(tmp_path.glob("cut/runs/*/*/epoch=*.ckpt"))
    expected, weights = whole(name)
    found, resumed = run(name, tmp_path / "cut")
    assert found == expected
    planned = Tiny(name, **ON_DIGITS)
    assert (found.epochs, found.last_batch_size) == (planned.epochs, list(sizes(planned).values())[-1])
    assert weights.keys() == resumed.keys()
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)


@pytest.mark.parametrize(
    ("name", "epoch", "batch"),
    [
        pytest.param("small", 2, 5, marks=pytest.mark.slow),
        pytest.param("growing", 1, 2, marks=pytest.mark.slow),
        ("ghost-lr", 3, 1),
    ],
)
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_run_saved_by_the_clock_resumes_inside_its_epoch(name, epoch, batch, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SAVED_EVERY", timedelta(microseconds=1))
    monkeypatch.setattr(checkpoints, "ASKED_EVERY", 1)
    with pytest.raises(RuntimeError, match="power cut"):
        run(name, tmp_path / "cut", StopsAt(epoch, batch))
    saved = max(tmp_path.glob("cut/runs/*/*/epoch=*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    inside = torch.load(saved, weights_only=True)["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert inside["processed"] == batch  # the one that failed was not saved
    seen, planned = Batches(), sizes(Tiny(name, **ON_DIGITS))
    found, resumed = run(name, tmp_path / "cut", seen)
    size = planned[max(start for start in planned if start <= epoch)]
    assert len(seen.seen.get(epoch, [])) == 1280 // size - batch
    expected, weights = whole(name)
    assert found == expected
    assert all(torch.equal(resumed[key], weights[key]) for key in weights)


def test_the_papers_hyperparameters_for_f1_on_mnist():
    recipe = F1()  # Keskar et al.: 256 against 10 % of 60,000, 100 epochs, ADAM's default
    assert (recipe.small_batch_size, recipe.large_batch_size, recipe.epochs) == (256, 6000, 100)
    assert (recipe.optimizer, recipe.learning_rate, recipe.validation_size) == ("adam", 1e-3, 0)


@pytest.mark.parametrize("kind", ["recipe", "regime", "data set"])
@pytest.mark.bad_input(62)
def test_an_unknown_name_is_refused_with_the_nearest(kind):
    with pytest.raises(
        ValueError, match=f"unknown {kind} 'lineer-lr'; did you mean 'linear-lr'\\? known: small, linear-lr"
    ):
        lookup(kind, "lineer-lr", ["small", "linear-lr"])


def test_a_name_near_to_nothing_is_refused_with_all():
    with pytest.raises(ValueError, match="unknown recipe 'xyz'; known: f1, c1"):
        lookup("recipe", "xyz", ["f1", "c1"])
