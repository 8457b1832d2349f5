"""What cannot stand beside a regime is refused before anything is written."""

import pytest
from lightning.pytorch.callbacks import EarlyStopping

from lightning_gap import BatchSizeScheduler, PiggybackWarmStart
from lightning_gap.recipes import F1
from lightning_gap.recipes.evaluation import monitors
from lightning_gap.recipes.recipe_check import check_callbacks
from lightning_gap.recipes.runner.cli import main

SCHEDULE = "{class_path: lightning_gap.BatchSizeScheduler, init_args: {schedule: {0: 320, 1: 640}}}"
SWITCH = (
    "{class_path: lightning_gap.PiggybackWarmStart, "
    "init_args: {switch_epoch: 1, large_batch_size: 640, optimizer_state: keep}}"
)
TINY = ["--width", "8", "--depth", "1", "--epochs", "2", "--small_batch_size", "320", "--epsilon", "[1e-3]"]


def check(regime, *users, every_n_epochs=1, **changed):
    recipe = F1.on("digits", regime, width=8, depth=1, **changed)
    check_callbacks(recipe, monitors(recipe, (1e-3,), every_n_epochs), users)


def test_one_callback_may_set_the_batch_size():
    schedule, switch = BatchSizeScheduler({0: 32, 1: 64}), PiggybackWarmStart(1, 640, optimizer_state="keep")
    check("small", schedule)
    check("ghost-lr", switch)
    for regime, users in (("piggyback", [schedule]), ("growing", [switch]), ("small", [schedule, switch])):
        with pytest.raises(ValueError, match="set the batch size; keep one") as error:
            check(regime, *users)
        assert all(name in str(error.value) for name in ("BatchSizeScheduler", "PiggybackWarmStart", repr(regime)))


@pytest.mark.parametrize(
    ("regime", "callbacks", "named"),
    [
        ("piggyback", SCHEDULE, ["PiggybackWarmStart", "BatchSizeScheduler", "'piggyback'"]),
        ("growing", SCHEDULE, ["BatchSizeScheduler", "'growing'", "leave yours out"]),
        ("small", f"{SCHEDULE}, {SWITCH}", ["PiggybackWarmStart", "BatchSizeScheduler", "'small'"]),
    ],
)
def test_a_second_claim_on_the_batch_size_is_one_line_and_writes_nothing(
    regime, callbacks, named, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "f1", "--regime", regime, *TINY, "--trainer.callbacks", f"[{callbacks}]"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert all(name in line for name in ["trainer.callbacks", *named])
    assert not list(tmp_path.iterdir())


def test_a_callback_of_lightnings_may_wait_for_what_every_epoch_has():
    for key in (
        "train/loss",
        "validation/accuracy",
        "gap/loss",
        "sharpness/full_eps1e-3",
        "weights/distance_from_init",
    ):
        check("small", EarlyStopping(key))
    check("linear-lr", EarlyStopping("lr/effective"))
    for options in ({"every_n_epochs": 2}, {"validation_size": 0}):
        with pytest.raises(
            ValueError, match="on 'gap/loss', which is not logged in every epoch; these are: train/loss"
        ):
            check("small", EarlyStopping("gap/loss"), **options)
    with pytest.raises(ValueError, match="on 'lr/effective', which is not logged in every epoch"):
        check("small", EarlyStopping("lr/effective"))
