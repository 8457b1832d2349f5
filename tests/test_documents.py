"""What the documents show runs as it is written, and what they link to is there."""

import re
import runpy
from pathlib import Path

import pytest
import tiny
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def names_of_the_reader():
    """What a page may take for granted: your own module and loaders."""
    return {
        "module": tiny.Validated(),
        "train_loader": tiny.loader(256, batch_size=128),
        "val_loader": tiny.loader(48, seed=2),
    }


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
@pytest.mark.filterwarnings("ignore:.*GPU available")
def test_the_python_blocks_of_a_page_run_as_written(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = names_of_the_reader()
    for number, block in enumerate(blocks(page), start=1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


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
