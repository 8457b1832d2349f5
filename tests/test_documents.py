"""What the documents show runs as it is written, and what they link to is there."""

import csv
import re
import runpy
import shlex
from pathlib import Path

import lightning
import pytest
import tiny
import torch
from packaging.version import Version
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gap.recipes.runner.cli import main as cli
from lightning_gap.recipes.runner.options import ask

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
GENERATED = ROOT / "docs" / "api"  # where the site was built
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *sorted(page for page in (ROOT / "docs").rglob("*.md") if GENERATED not in page.parents),
]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.md"))
RUN_ELSEWHERE = {README, ROOT / "docs" / "lightning-threads.md"}  # below, and in test_lightning_threads.py
SHOWN_ONLY = {"", "sh", "bash", "yaml", "text", "math", "{include}", "{toctree}"}  # languages that nothing runs


def fences(page):
    """The language and the text of every block."""
    return re.findall(r"^```(.*)\n((?:.*\n)*?)```$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)


def blocks(page):
    return [text for language, text in fences(page) if language in ("python", "{code-cell} python")]


def names_of_the_reader():
    """What a page may take for granted: your own module and loaders."""
    return {
        "module": tiny.Validated(),
        "train_loader": tiny.loader(256, batch_size=128),
        "val_loader": tiny.loader(48, seed=2),
    }


def run_blocks(page):
    namespace = names_of_the_reader()
    for number, block in enumerate(blocks(page), start=1):
        if "# since lightning 2.6" in block and Version(lightning.__version__) < Version("2.6"):
            continue
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)
    return namespace


@pytest.mark.parametrize(
    "page", [p for p in PAGES if blocks(p) and p not in {*RUN_ELSEWHERE, *NOTEBOOKS}], ids=lambda p: p.name
)
@pytest.mark.filterwarnings("ignore:.*GPU available")
def test_the_python_blocks_of_a_page_run_as_written(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_blocks(page)


@pytest.mark.filterwarnings("ignore:.*GPU available")
def test_a_callback_of_the_page_puts_epochs_or_samples_on_the_axis(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run_blocks(ROOT / "docs" / "in-tensorboard.md")
    monitor = found["SharpnessMonitor"](samples=90)
    trainer = found["Trainer"](max_epochs=3, callbacks=[found["SamplesAsX"](), monitor], enable_checkpointing=False)
    trainer.fit(tiny.Validated(), found["train_loader"], found["val_loader"])
    for version, step in enumerate((1, 256)):
        events = EventAccumulator(str(tmp_path / f"lightning_logs/version_{version}")).Reload()
        for tag in ("sharpness/full_eps1e-3", "val_loss", "loss_epoch"):
            assert [event.step for event in events.Scalars(tag)] == [step, 2 * step, 3 * step], tag
    own = EventAccumulator(str(tmp_path / "lightning_logs/own/version_0")).Reload()
    assert "_hparams_/session_start_info" in own.summary_metadata
    assert {"final/val_loss", "final/gap/loss"} <= set(own.Tags()["scalars"])


COMMANDS = sorted(
    {
        shlex.join(shlex.split(line, comments=True)[1:])
        for page in PAGES
        for language, text in fences(page)
        if language in ("sh", "bash")
        for line in text.replace("\\\n", " ").splitlines()
        if line.startswith("lightning-gap ")
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_that_a_page_shows_is_understood(line, tmp_path, monkeypatch, capsys):
    """Its words are read as the program reads them; what needs neither data nor training is done."""
    monkeypatch.chdir(tmp_path)
    command, *words = shlex.split(line)
    if command in ("run", "compare", "advise", "critical-batch"):
        if "c1.py" in words:
            assert cli(["copy", "c1", "."]) == 0
        assert ask(command, "", [word for word in words if word != "mine"]).settings  # a regime of the reader's own
    elif command == "reproduce":
        assert cli(["reproduce", *words, *(["--dry_run", "--seeds", "0"] if words else [])]) == 0
    elif command in ("list", "copy"):
        assert cli([command, *words]) == 0
    else:  # of results, which are not here
        assert cli([command, *words]) == 2
        assert words[0] in capsys.readouterr().err


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_nothing_that_looks_like_python_is_left_out(page):
    for language, text in fences(page):
        assert language in ("python", "{code-cell} python") or language.split(" ")[0] in SHOWN_ONLY, language
        if language in ("", "text"):
            assert not re.search(r"^(import|from|def|class) \w+", text, flags=re.MULTILINE), text


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda p: p.name)
def test_no_numbered_list_was_filled_into_a_paragraph(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for paragraph in re.split(r"\n\s*\n", text):
        assert not re.search(r"^1\. .* 2\. [A-Z]", paragraph), paragraph


@pytest.mark.slow
@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda p: p.name)
@pytest.mark.filterwarnings("ignore:.*GPU available")
def test_a_notebook_runs_from_top_to_bottom(page, tmp_path, monkeypatch, capsys):
    """And prints as many lines as the page shows, with the same words; numbers depend on the machine."""
    monkeypatch.chdir(tmp_path)
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    run_blocks(page)
    plt.close("all")
    printed = [without_numbers(line) for line in capsys.readouterr().out.splitlines()]
    shown = [
        without_numbers(line) for language, text in fences(page) if language == "text" for line in text.splitlines()
    ]
    assert [line for line in printed if line] == shown


@pytest.fixture
def without_tensorboard(monkeypatch):
    """Lightning's choice of a logger where TensorBoard is not installed."""
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning.pytorch.trainer.connectors.logger_connector.logger_connector.{name}", False)


def without_numbers(text):
    return re.sub(r"-?[\d.]+", "#", text).split()


@pytest.mark.filterwarnings("ignore:.*GPU available")
def test_the_quickstart_shows_what_its_blocks_print(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs" / "quickstart.md"
    run_blocks(page)
    printed = [without_numbers(line) for line in capsys.readouterr().out.splitlines()]
    shown = [
        without_numbers(line) for language, text in fences(page) if language == "text" for line in text.splitlines()
    ]
    assert len(shown) == 14
    assert [line for line in printed if line in shown] == shown


def test_the_quickstart_without_lightning_prints_the_number_it_shows(capsys):
    """It draws from one seed and trains nothing, so that other machines find it too."""
    page = ROOT / "docs" / "quickstart.md"
    exec(compile(blocks(page)[1], page.name, "exec"), {})
    shown, printed = (re.findall(r"([\d.]+) % rise", text) for text in (page.read_text(), capsys.readouterr().out))
    assert float(shown[0]) == pytest.approx(float(printed[0]), rel=0.01)


@pytest.mark.filterwarnings("ignore:.*GPU available")
def test_the_page_on_n_devices_prints_what_its_comments_say_of_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_blocks(ROOT / "docs" / "n-gpus-batch-b.md")
    lines = capsys.readouterr().out.splitlines()
    assert [float(line) for line in lines if re.fullmatch(r"[\d.]+", line)] == [4, 256]


@pytest.mark.filterwarnings("ignore:.*GPU available")
def test_a_callback_gives_the_weights_of_the_code_by_hand_that_it_replaces(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = run_blocks(ROOT / "docs" / "from-your-own-code.md")
    untrained = dict(found["Plain"]().named_parameters())
    for name in ("warmup", "sam"):
        by_hand, by_callback = (dict(found[f"{name}_by_{way}"].named_parameters()) for way in ("hand", "callback"))
        torch.testing.assert_close(by_callback, by_hand)
        assert not any(torch.allclose(by_hand[key], untrained[key], atol=1e-3) for key in untrained)
    warmed_up, minimized = (found[f"{name}_by_hand"].net[0].weight for name in ("warmup", "sam"))
    assert not torch.allclose(warmed_up, minimized, atol=1e-3)


def curves_of_tensorboard(folder):
    read = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {tag: [event.value for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def curves_of_csv(folder):
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [float(row[key]) for row in rows if row[key]] for key in rows[0]}


@pytest.mark.parametrize("read", [curves_of_tensorboard, curves_of_csv])
@pytest.mark.filterwarnings("ignore:.*GPU available", "ignore:Starting from v1.9.0, `tensorboardX`")
def test_a_stranger_sees_the_curves_that_the_readme_promises(read, tmp_path, monkeypatch, request):
    """The snippet as it stands, on a module and loaders that know nothing of us: ten epochs of two steps."""
    if read is curves_of_csv:
        request.getfixturevalue("without_tensorboard")
    monkeypatch.chdir(tmp_path)
    trainer = run_blocks(README)["trainer"]
    section = README.read_text(encoding="utf-8").split("## Add callbacks to your Trainer")[1].split("\n## ")[0]
    promised = set(re.findall(r"`([a-z]+/[\w-]+)`", section))
    assert {key.split("/")[0] for key in promised} == {"lr", "batch", "ghost", "sharpness"}
    curves = read(tmp_path / "lightning_logs" / "version_0")
    assert promised <= set(curves)
    assert trainer.global_step == len(curves["lr/effective"]) == 20
    # batches of 128, tuned for 32, a learning rate of 0.05: four times as much after five epochs, in equal steps
    assert curves["lr/effective"] == pytest.approx([0.05 * (1 + 3 * min(step / 10, 1)) for step in range(20)])
    assert set(curves["batch/size"]) == {128}


def anchors(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target
            assert not anchor or anchor in anchors(page.parent / target if target else page), f"{target}#{anchor}"


def test_no_page_has_the_marks_of_a_merge_that_was_left():
    for page in PAGES:
        assert not re.search(r"^(<{7}|={7}|>{7})( |$)", page.read_text(encoding="utf-8"), flags=re.MULTILINE), page


def test_the_page_for_a_worse_run_shows_what_its_script_trains(capsys):
    script = runpy.run_path(str(ROOT / "docs" / "examples" / "what_now.py"))
    page = (ROOT / "docs" / "large-batch-run-is-worse.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (\d+) \| [\d.]+ \| [\d.]+ \| .*\|$", page, flags=re.MULTILINE)
    assert [name for name, _ in rows] == [*script["SGD"], *script["ADAM"]]
    steps = {32: 40, 64: 20, 128: 10, 320: 4}  # of 1,280 samples
    grown = 3 * steps[32] + 2 * steps[64] + 2 * steps[128] + 3 * steps[320]
    for name, shown in rows:
        fixed = 400 if name in ("batch 32", "batch 320 for 100 epochs") else 40
        assert int(shown) == (grown if "BatchSizeScheduler" in name or "the same" in name else fixed)
    name = "`GhostBatchNormSwap(32)`"
    run = script["Run"](epochs=2, callbacks=script["SGD"][name].callbacks)
    result = script["train"](run, optimizer="sgd", learning_rate=0.05, seed=0)
    assert result.steps == 2 * steps[320]
    script["table"]("sgd", 0.05, {name: run}, (0, 1))
    assert f"| {name} | 8 |" in capsys.readouterr().out


def test_the_example_runs_and_its_tags_are_in_the_event_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer = runpy.run_path(str(ROOT / "docs" / "examples" / "plain_module.py"))["main"]()
    events = EventAccumulator(str(tmp_path / "lightning_logs" / "version_0")).Reload()
    tags = set(events.Tags()["scalars"])
    for area in ("sharpness", "gap", "weights", "lr", "batch", "ghost"):
        assert any(tag.startswith(f"{area}/") for tag in tags), area
    steps = [event.step for event in events.Scalars("sharpness/full_eps1e-3")]
    assert steps == [11, 23, 35, 47, 59]  # the last step, from 0, of every second epoch of six
    rates = [event.value for event in events.Scalars("lr/effective")]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == pytest.approx(0.2, rel=0.15)
    assert trainer.global_step == 60
    figure = runpy.run_path(str(ROOT / "docs" / "examples" / "draw_it.py"))["draw"](trainer)
    sharpness, distance = figure.axes
    assert [len(line.get_xdata()) > 1 for line in sharpness.lines] == [True, True]
    assert distance.lines[0].get_xdata()[-1] == 60
