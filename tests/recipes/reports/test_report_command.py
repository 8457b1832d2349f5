"""The command that shows results folders: what it reads, in which states, and what it refuses."""

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy import stats

from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.records import read_record, record
from lightning_gap.recipes.runner.run_result import RunResult

ACCURACY = {
    "small": [0.98, 0.99, 0.985],
    "large": [0.96, 0.975, 0.97],
    "ghost-lr": [0.975, 0.985, 0.985],
    "sam": [0.955, 0.967],  # a trial fewer
}


def result(accuracy, **changed):
    numbers = {"batch_size": 32, "last_batch_size": 64, "epochs": 3, "steps": 120, "learning_rate": 0.05}
    numbers |= {"train_loss": 0.1, "train_accuracy": 0.999, "test_loss": 0.2, "test_accuracy": accuracy}
    numbers |= {"sharpness": {"1e-3": 100 * accuracy}, "sharpness_batch": {"1e-3": 7.5}}
    return RunResult(**(numbers | {"distance": 4.0, "seconds": 1.5} | changed))


def results_folder(folder, accuracy=ACCURACY, seed=7, **changed):
    """As `compare` leaves it."""
    config = {"recipe": "f1", "regimes": list(accuracy), "data": "digits", "data_dir": "data", "download": False}
    config |= {"num_workers": None, "trials": max(map(len, accuracy.values())), "seed": seed, "trainer": {}}
    config |= {"epsilon": [0.001], "measure_every_n_epochs": None, "workers": 1, "threads": 1}
    config |= {"output": "/elsewhere/by now", "resume": False, "epochs": 3, "sharpness_samples": 1280} | changed
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for regime, values in accuracy.items():
        for trial, value in enumerate(values, start=1):
            place = folder / "runs" / regime / f"trial-{trial}"
            place.mkdir(parents=True)
            result(value).save(place / "outcome.json")
    return folder


@pytest.fixture
def compared(tmp_path):
    return results_folder(tmp_path / "a comparison")


def cells(folder, name):
    with (folder / name).open(newline="", encoding="utf-8") as file:
        return {(row["row"], row["column"]): row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A comparison that was moved, its report, and what was printed."""
    place = tmp_path_factory.mktemp("report")
    drawn = Figure(figsize=(3, 2))
    drawn.add_axes((0.2, 0.2, 0.7, 0.7)).plot([0, 1], [1, 0])
    before = results_folder(place / "before")
    drawn.savefig(before / "parametric.png", dpi=150)
    (before / "table.md").write_text("# title\n\n| regime |\n| --- |\n| small |\n\nAs it was then, torch 2.8.\n")
    folder, out, printed = before.rename(place / "a comparison"), place / "out", StringIO()
    with redirect_stdout(printed):
        assert main(["report", str(folder), "--output", str(out)]) == 0
    return folder, out, printed.getvalue()


def test_the_gap_and_the_share_brought_back_are_those_of_paired_seeds(shown):
    _, out, printed = shown
    found = cells(out, "a-comparison-accuracy-and-gap.csv")
    for regime in ("large", "ghost-lr", "sam"):
        n = len(ACCURACY[regime])
        low, high = stats.ttest_rel(ACCURACY["small"][:n], ACCURACY[regime]).confidence_interval(0.95)
        row = found[regime, "gap to small, points"]
        assert [float(row[end]) for end in ("low", "high")] == pytest.approx([100 * low, 100 * high])
        assert found[regime, "seeds"]["text"] == f"{n}"
    share = found["ghost-lr", "of large's gap back, %"]
    assert float(share["mean"]) == pytest.approx(100 * (1 - 1 / 5))  # of 5 / 3 points 1 / 3 is left
    large, ghost = (
        np.subtract(ACCURACY["large"], ACCURACY["small"]),
        np.subtract(ACCURACY["ghost-lr"], ACCURACY["large"]),
    )
    for end in ("low", "high"):  # Fieller's ends are where a paired test turns
        assert stats.ttest_1samp(ghost + float(share[end]) / 100 * large, 0).pvalue == pytest.approx(0.05)
    assert found["sam", "of large's gap back, %"]["text"] == "no gap"  # over two seeds there may be none
    assert found["large", "test accuracy, %"]["text"] == "96.83 ± 0.76"
    assert "1.67 points" in printed
    assert "ghost-lr brings back 80 % of it" in printed
    assert str(out) in printed


def test_what_is_not_finished_is_named_and_what_is_finished_is_shown(shown):
    folder, out, printed = shown
    text = (out / "report.md").read_text(encoding="utf-8")
    for told in (text, printed):
        assert "sam trial 3" in told
        assert "--resume" in told
        assert f"--output '{folder}'" in told
    assert cells(out, "a-comparison-accuracy-and-gap.csv")["sam", "seeds"]["text"] == "2"


def test_the_page_has_figures_terms_and_links_to_the_runs(shown):
    text = (shown[1] / "report.html").read_text(encoding="utf-8")
    assert text.count('<img src="data:image/') == 3
    for term in (
        "7, 8, 9",
        "f1 on digits",
        "epochs 3",
        "Fieller",
        "1,280 training samples",
        "As it was then, torch 2.8.",
    ):
        assert term in text
    links = [unquote(link) for link in re.findall(r'href="([^"]+runs/[^"]+)"', text)]
    assert len(links) == 3 + 3 + 3 + 2
    assert all((shown[1] / link / "outcome.json").is_file() for link in links)


def test_the_figure_that_compare_drew_is_shown_as_it_is(shown):
    (file,) = shown[1].glob("*line-through-two-solutions.png")
    assert (imread(file) == imread(shown[0] / "parametric.png")).all()


def test_several_folders_stand_beside_each_other(compared, tmp_path):
    accuracy = {"small": [0.9, 0.91], "large": [0.8, 0.82], "noise": [0.85, 0.88]}
    other = results_folder(tmp_path / "b", accuracy, recipe="c1")
    one = results_folder(tmp_path / "one" / "b", {"large": [0.9]})  # of `run`: nothing to compare
    out = tmp_path / "out"
    assert main(["report", str(compared), str(other), str(one), "--output", str(out)]) == 0
    found = cells(out, "all-gap-and-share-brought-back.csv")
    assert float(found["large", f"{other}: gap, points"]["mean"]) == pytest.approx(9.5)
    assert float(found["large", "a comparison: gap, points"]["mean"]) == pytest.approx(5 / 3)
    assert found["noise", "a comparison: gap, points"]["text"] == "-"
    assert found["large", f"{one}: gap, points"]["text"] == "-"  # two of the same name go by their paths
    assert ("large", "gap to small, points") in cells(out, "b-accuracy-and-gap.csv")
    assert ("large", "gap to small, points") not in cells(out, "b-2-accuracy-and-gap.csv")
    text = (out / "report.md").read_text(encoding="utf-8")
    assert text.count("/runs/large/trial-1>") == 3


def test_regimes_that_diverged_are_shown_without_a_number(tmp_path):
    folder = results_folder(tmp_path / "run", {"small": [0.9, 0.9], "large": [0.1, 0.1]})
    for file in folder.glob("runs/*/*/outcome.json"):
        found = read_record(file)
        file.write_text(record(found | {"sharpness": {"1e-3": float("nan")}, "test_loss": float("nan")}))
    assert main(["report", str(folder), "--output", str(tmp_path / "out")]) == 0
    assert cells(tmp_path / "out", "run-what-the-runs-did.csv")["large", "test loss"]["text"] == "-"


@pytest.mark.filterwarnings("error")
def test_by_default_the_report_has_a_folder_of_its_own_in_results(compared, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report", compared.name]) == 0
    (out,) = (tmp_path / "results").iterdir()
    assert out.name.startswith("report-")
    assert f"results/{out.name}" in capsys.readouterr().out


def refused(args, capsys):
    assert main(["report", *map(str, args)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lightning-gap report: error: ")
    assert len(error.strip().splitlines()) == 1
    return error


def test_a_folder_that_cannot_be_shown_is_refused_in_one_line(compared, tmp_path, capsys):
    empty, file = tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.touch()
    for folder, why in (
        (tmp_path / "nowhere", "does not exist"),
        (empty, "is no results folder"),
        (file, "is no folder"),
        (tmp_path, "did you mean '" + str(compared)),
        ("", "the name of no folder"),
    ):
        assert why in refused([folder, "--output", tmp_path / "out"], capsys)
    assert "is named twice" in refused([compared, f"{compared}/.", "--output", tmp_path / "out"], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"epsilon": None}, "epsilon is None"),
        ({"epsilon": ["x"]}, "epsilon is ['x']"),
        ({"regimes": []}, "regimes is []"),
        ({"regimes": [1]}, "regimes is [1]"),
        ({"trials": 0}, "trials is 0"),
        ({"trials": True}, "trials is True"),
        ({"trainer": []}, "trainer is []"),
    ],
)
def test_settings_of_another_version_are_refused(changed, why, tmp_path, capsys):
    folder = results_folder(tmp_path / "run", **changed)
    error = refused([folder, "--output", tmp_path / "out"], capsys)
    assert why in error
    assert repr(str(folder / "config.yaml")) in error


@pytest.mark.parametrize("text", ["", "a: [", "- 1\n", "recipe: f1\n"])
def test_settings_that_are_damaged_are_refused(text, compared, tmp_path, capsys):
    (compared / "config.yaml").write_text(text)
    assert repr(str(compared / "config.yaml")) in refused([compared, "--output", tmp_path / "out"], capsys)


def test_results_of_another_version_or_damaged_ones_are_named_and_nothing_is_left(compared, tmp_path, capsys):
    file = compared / "runs/large/trial-2/outcome.json"
    whole = json.loads(file.read_text())
    for text in (json.dumps(whole | {"top5_accuracy": 1.0}), "{", json.dumps({**whole, "steps": "many"})):
        file.write_text(text)
        assert repr(str(file)) in refused([compared, "--output", tmp_path / "new" / "out"], capsys)
    assert not (tmp_path / "new").exists()
    file.unlink()
    (compared / "parametric.png").write_bytes(b"\x89PNG and no more")
    assert "parametric.png' cannot be read" in refused([compared, "--output", tmp_path / "out"], capsys)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_finished_run_says_how_to_finish_one(tmp_path, capsys):
    folder = results_folder(tmp_path / "run", {"small": [], "large": []}, trials=2)
    error = refused([folder, "--output", tmp_path / "out"], capsys)
    assert "has no finished run to show" in error
    assert f"--output {folder} --resume" in error


def test_an_output_that_cannot_be_written_to_is_refused_before_any_work(compared, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(RunResult, "load", None)  # no result is read
    (tmp_path / "thesis.tex").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    for output, why in (
        (tmp_path / "thesis.tex", "is no folder"),
        (tmp_path / "link", "is a link"),
        (compared, "is not empty and nothing in it is overwritten"),
        (tmp_path / "thesis.tex" / "out", "cannot be written to"),
        ("/proc/out", "cannot be written to"),
        ("", "the name of no folder"),
    ):
        error = refused([compared, "--output", output], capsys)
        assert why in error
        assert "output" in error


@pytest.mark.promise("disk")
def test_a_disk_that_gets_full_is_told_in_one_line_and_nothing_is_left(compared, tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    error = refused([compared, "--output", tmp_path / "new" / "out"], capsys)
    assert repr(str(tmp_path / "new" / "out")) in error
    assert "No space left on device" in error
    assert not (tmp_path / "new").exists()


def test_a_folder_in_which_the_command_was_killed_is_taken_again(compared, tmp_path):
    left = tmp_path / "out" / ".report-ab12.partial"
    left.mkdir(parents=True)
    assert main(["report", str(compared), "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "report.html").exists()
    assert not left.exists()


def test_what_can_be_refused_is_refused_without_torch(compared, tmp_path):
    code = f"""
import sys
from lightning_gap.recipes.runner.cli import main
for words in (["nowhere"], [{str(compared)!r}, "--output", {str(tmp_path)!r}], [{str(compared)!r}, {str(compared)!r}]):
    assert main(["report", *words]) == 2
try:
    main(["report", "--help"])
except SystemExit as left:
    assert left.code == 0
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 3


def test_the_command_that_it_prints_finishes_the_runs_and_the_table_has_all_that_are_finished(tmp_path, capsys):
    folder = tmp_path / "a run"
    quick = ["--epochs", "1", "--small_batch_size", "320", "--width", "8", "--depth", "1", "--epsilon", "[1e-3]"]
    compare = ["compare", "f1", "small", "large", *quick, "--output", str(folder)]
    assert main([*compare, "--trials", "2"]) == 0
    shutil.rmtree(folder / "runs/large/trial-2")
    assert main(["compare", "f1", "small", *compare[4:], "--resume"]) == 0  # large has one trial of two
    table = (folder / "table.md").read_text()
    assert "| small | 2 |" in table
    assert "| large | 1 |" in table
    assert "large 1" in table.split("\n\n")[-1]
    assert main(["report", str(folder), "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "large trial 2" in printed
    (line,) = [line for line in printed.splitlines() if "--resume" in line]
    assert main(shlex.split(line)[1:]) == 0
    assert (folder / "runs/large/trial-2/outcome.json").exists()
    assert "| large | 2 |" in (folder / "table.md").read_text()
