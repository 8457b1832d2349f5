"""Runs that are found again by what their numbers depend on, and what is measured of them."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from lightning_gap.functional import batch_statistics, weight_distance
from lightning_gap.recipes import C1, F1
from lightning_gap.recipes.experiments import measures, mode_connectivity
from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.measurement import Measurement
from lightning_gap.recipes.runner.quiet import spoken_plainly
from lightning_gap.recipes.runner.records import read_record, record
from lightning_gap.recipes.runner.run_store import RunSpec, RunStore

SMALL = {"width": 8, "depth": 1, "epochs": 2, "small_batch_size": 256, "sharpness_samples": 64}
SPEC = RunSpec(F1, "small", "digits", 3, SMALL, kept_epochs=(0, 1, 2))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """With one finished run."""
    made = RunStore(tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("no-data"))
    make(made)
    return made


def make(store, spec=SPEC):
    """As the command makes it, which says nothing of a folder that is not empty."""
    with spoken_plainly():
        store.make(spec)


@pytest.fixture
def copied(store, tmp_path):
    """The same in a folder that may be spoilt, which is also to say: moved."""
    shutil.copytree(store.folder, tmp_path / "moved")
    return RunStore(tmp_path / "moved", tmp_path)


def result_file(store, spec=SPEC):
    return store.run_folder(spec) / "outcome.json"


def without_seconds(file):
    return read_record(file) | {"seconds": 0}


# Names


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, regime="large"),
        replace(SPEC, seed=4),
        replace(SPEC, data="mnist"),
        replace(SPEC, changed={**SMALL, "epochs": 3}),
        replace(SPEC, changed={**SMALL, "learning_rate": 0.1}),
        replace(SPEC, trainer={"precision": "64-true"}),
        RunSpec(C1, "small", "cifar10", 3),
    ],
)
def test_whatever_changes_the_numbers_changes_the_name(other):
    assert other.name != SPEC.name


def test_what_does_not_change_the_numbers_does_not_change_the_name():
    assert replace(SPEC, kept_epochs=()).name == SPEC.name
    assert replace(SPEC, changed={**SMALL, "learning_rate": 0.05}).name == SPEC.name  # the recipe's own, on digits
    assert replace(SPEC, changed=dict(reversed(SMALL.items()))).name == SPEC.name


# Runs


def test_a_run_is_the_one_that_compare_makes(store, tmp_path):
    words = [word for name, value in SMALL.items() for word in (f"--{name}", f"{value}")]
    assert main(["run", "f1", "--regime", "small", "--seed", "3", *words, "--output", str(tmp_path / "run")]) == 0
    assert without_seconds(tmp_path / "run/runs/small/trial-1/outcome.json") == without_seconds(result_file(store))


def test_kept_weights_are_those_of_their_epochs(store):
    run = store.trained(SPEC)
    torch.manual_seed(3)
    initial = F1("small", **SPEC.hyperparameters).network.state_dict()
    assert all(torch.equal(value, initial[name]) for name, value in run.state(0).items())
    assert all(torch.equal(value, run.state()[name]) for name, value in run.state(2).items())
    assert [run.step(epoch) for epoch in (0, 1, 2)] == [0, 5, 10]  # 1,280 training samples
    moved = weight_distance(run.recipe().parameters(), list(run.recipe(0).parameters()))
    assert run.result.distance == pytest.approx(moved, rel=1e-6)


def test_a_finished_run_is_not_made_again_unless_it_lacks_what_is_asked_for(copied):
    before = result_file(copied).stat().st_mtime_ns
    make(copied)
    assert result_file(copied).stat().st_mtime_ns == before
    numbers = without_seconds(result_file(copied))
    (copied.run_folder(SPEC) / "weights-1.pt").unlink()
    assert copied.is_finished(replace(SPEC, kept_epochs=(0, 2)))
    assert not copied.is_finished(SPEC)
    make(copied)
    assert (copied.run_folder(SPEC) / "weights-1.pt").exists()
    assert without_seconds(result_file(copied)) == numbers


@pytest.mark.bad_input(66)
def test_a_run_that_was_cut_off_is_made(copied):
    numbers = without_seconds(result_file(copied))
    result_file(copied).unlink()
    assert not copied.is_finished(SPEC)
    make(copied)
    assert without_seconds(result_file(copied)) == numbers


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("run.json", "", r"run\.json.*cannot be read.*delete"),
        ("run.json", '{"run": {"seed": 9}}', "another run than its name says"),
        ("outcome.json", '{"steps": 3}', r"outcome\.json.*by this version.*delete"),
    ],
)
def test_a_folder_of_something_else_is_refused_and_left(copied, file, text, message):
    path = copied.run_folder(SPEC) / file
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        make(copied)
    assert path.read_text() == text


def with_a_bit_flipped(whole, at=0.5):
    """The content of a file, with one bit of it another."""
    spoilt = bytearray(whole)
    spoilt[int(at * len(whole))] ^= 4
    return bytes(spoilt)


@pytest.mark.promise("flipped")
def test_a_bit_of_a_result_that_flipped_is_found(copied, record_property):
    """Whatever bit it is, nothing else is read than what was written."""
    whole, numbers = result_file(copied).read_bytes(), read_record(result_file(copied))
    refused = 0
    for at in torch.linspace(0, 0.999, 150).tolist():
        result_file(copied).write_bytes(with_a_bit_flipped(whole, at))
        try:
            assert numbers.items() <= read_record(result_file(copied)).items()
        except ValueError:
            refused += 1
    assert refused > 100
    record_property("cases", 150)
    result_file(copied).write_bytes(whole.replace(b'"steps": ', b'"steps": 1'))
    with pytest.raises(ValueError, match="altered since it was written"):
        copied.is_finished(SPEC)


@pytest.mark.promise("flipped")
@pytest.mark.parametrize(
    "spoil",
    [lambda whole: b"", lambda whole: b"torch", lambda whole: whole[:-200], with_a_bit_flipped],
    ids=["empty", "damaged", "cut off", "a flipped bit"],
)
@pytest.mark.parametrize("epoch", [None, 1])
def test_weights_that_cannot_be_read_are_named(spoil, epoch, copied):
    file = copied.run_folder(SPEC) / ("weights.pt" if epoch is None else f"weights-{epoch}.pt")
    file.write_bytes(spoil(file.read_bytes()))
    with pytest.raises(
        ValueError, match=rf"{file.name}' cannot be read \(.*\); delete it, and the same command trains"
    ):
        copied.trained(SPEC).state(epoch)
    file.unlink()
    make(copied)
    copied.trained(SPEC).state(epoch)


@pytest.mark.promise("disk")
def test_a_full_disk_loses_nothing_that_is_finished(copied, full_disk):
    kept = {file: file.read_bytes() for file in copied.run_folder(SPEC).glob("*.*")}
    other = replace(SPEC, seed=5)
    with full_disk(4000), pytest.raises((OSError, ValueError), match=r"weights-0\.pt.*cannot be written.*make room"):
        make(copied, other)
    assert {file: file.read_bytes() for file in copied.run_folder(SPEC).glob("*.*")} == kept
    assert not copied.is_finished(other)
    make(copied, other)
    assert copied.is_finished(other)


# Measurements

asked = []


def note(run, *, factor):
    """A measurement that tells when it is made."""
    asked.append(factor)
    return {"value": factor * run.result.steps}


def test_a_measurement_is_made_once_and_again_for_other_options(copied):
    asked.clear()
    twice, thrice = (Measurement("steps", (SPEC,), note, {"factor": factor}) for factor in (2, 3))
    for _ in range(2):
        twice.make(copied)
        thrice.make(copied)
    assert asked == [2, 3]
    assert (twice.load(copied), thrice.load(copied)) == ({"value": 20}, {"value": 30})
    twice.file(copied).write_text("{")
    with pytest.raises(ValueError, match=r"steps-.*cannot be read.*delete it"):
        twice.load(copied)
    assert not twice.is_made(copied)
    twice.make(copied)
    assert twice.load(copied) == {"value": 20}


def test_a_measurement_of_a_run_with_other_numbers_is_made_again(copied):
    """As where the run's folder was deleted, and the run made anew by another version."""
    asked.clear()
    twice = Measurement("steps", (SPEC,), note, {"factor": 2})
    twice.make(copied)
    held = read_record(result_file(copied))
    result_file(copied).write_text(record(held | {"seconds": 1e3}))
    assert twice.is_made(copied)  # the same run, made at another pace
    result_file(copied).write_text(record(held | {"steps": 11}))
    assert not twice.is_made(copied)
    twice.make(copied)
    assert (twice.load(copied), asked) == ({"value": 22}, [2, 2])


def test_what_is_measured_by_epoch_ends_with_the_result(store):
    run = store.trained(SPEC)
    rows = measures.by_epoch(run, epochs=[1, 2])
    assert [row["step"] for row in rows] == [5, 10]
    assert rows[-1]["test_accuracy"] == pytest.approx(100 * run.result.test_accuracy, rel=1e-9)
    assert rows[-1]["train_loss"] == pytest.approx(run.result.train_loss, rel=1e-6)
    sharp = measures.sharpness_by_epoch(run, epochs=[2], batch_norm="running")
    assert sharp[0]["1e-3"] == pytest.approx(run.result.sharpness["1e-3"], rel=1e-9)
    distances = measures.distance_by_epoch(run, epochs=[0, 2])
    assert [row["distance"] for row in distances] == [0, pytest.approx(run.result.distance, rel=1e-6)]
    found = measures.full_sharpness(run, method="corner")
    assert found["batch"] == pytest.approx(run.result.sharpness_batch, rel=1e-9)


def test_a_paths_ends_are_the_solutions_by_batch_statistics(store):
    run = store.trained(SPEC)
    found = measures.along_a_path(run, run, path="linear", alphas=[0.0, 0.5, 1.0])
    recipe = run.recipe()
    with batch_statistics(recipe), torch.no_grad():
        ((inputs, targets),) = run.data(recipe).evaluation("test", 5000, 64)
        scores = recipe(inputs)
    assert found["test"]["accuracy"] == pytest.approx([float((scores.argmax(1) == targets).double().mean())] * 3)
    assert found["test"]["loss"] == pytest.approx([float(cross_entropy(scores, targets))] * 3, rel=1e-5)


@pytest.mark.parametrize("path", mode_connectivity.PATHS)
def test_a_connection_begins_and_ends_at_the_solutions_and_a_curve_leaves_the_line(store, path):
    run = store.trained(SPEC)
    ends = measures.along_a_path(run, run, path="linear", alphas=[0.0, 1.0])
    found = mode_connectivity.between(run, run, path=path, epochs=1)
    for split in ("train", "test"):
        loss = found[split]["loss"]
        assert (loss[0], loss[-1]) == pytest.approx(tuple(ends[split]["loss"]))
        assert (loss[10] == pytest.approx(loss[0])) == (path == "line")  # from a solution to itself


def varied(run, *, draws=5):
    return draws


def test_a_measurements_defaults_are_part_of_its_name(copied, monkeypatch):
    before = Measurement("varied", (SPEC,), varied).described
    assert before["options"] == {"draws": 5}
    assert before == Measurement("varied", (SPEC,), varied, {"draws": 5}).described
    monkeypatch.setattr(varied, "__kwdefaults__", {"draws": 1})
    assert Measurement("varied", (SPEC,), varied).file(copied).name != "varied"
    assert Measurement("varied", (SPEC,), varied).described != before


def test_a_run_that_cannot_have_kept_what_is_asked_for_begins_anew(copied):
    """Its checkpoint lies behind epochs whose weights are missing."""
    numbers = without_seconds(result_file(copied))
    folder = copied.run_folder(SPEC)
    result_file(copied).unlink()
    (folder / "weights-1.pt").unlink()
    (folder / "epoch=1.ckpt").write_bytes(b"of an interrupted run")
    make(copied)
    assert (folder / "weights-1.pt").exists()
    assert not list(folder.glob("*.ckpt"))
    assert without_seconds(result_file(copied)) == numbers


def test_a_run_keeps_the_versions_and_threads_it_began_with(copied):
    file = copied.run_folder(SPEC) / "run.json"
    held = read_record(file)
    assert copied.threads(SPEC) == f"{torch.get_num_threads()}"
    file.write_text(record(held | {"versions": "0.0.9", "threads": 7}))
    result_file(copied).unlink()
    make(copied)
    assert json.loads(file.read_text())["versions"] == "0.0.9"
    assert copied.threads(SPEC) == "7"
