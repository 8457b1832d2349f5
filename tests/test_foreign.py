"""`foreign/`: what is added to each project, what the page says of it, and that monitors leave no trace in it."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "foreign"
ENVIRONMENT = ROOT / "build" / "foreign" / "bin" / "python"  # what `make foreign` makes
PYTHON = str(ENVIRONMENT) if ENVIRONMENT.exists() else sys.executable
MONITORS = 6


@pytest.fixture(scope="module")
def table():
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("table", FOLDER / "table.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(FOLDER))


SCRIPTS = sorted(path.stem for path in FOLDER.glob("*_*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_project_without_the_marked_lines_knows_nothing_of_us(script, table):
    source = (FOLDER / f"{script}.py").read_text(encoding="utf-8")
    kept, added = table.without_ours(source)
    assert 0 < added <= 10
    names = {node.id for node in ast.walk(ast.parse(kept)) if isinstance(node, ast.Name)}
    assert "gap" not in names
    assert "lightning_gap" not in kept
    assert len(kept.splitlines()) + added + source.count("# lightning_gap: ") == len(source.splitlines())


def test_the_page_shows_the_results_that_are_kept(table):
    text = table.PAGE.read_text(encoding="utf-8")
    assert text == table.page(text)


def test_the_share_of_a_loss_is_paired_by_seed(table):
    def result(seed, score, batch_size, ours=False):
        terms = {"small": 8, "monitors": False, "better": "lower"}
        return {**terms, "seed": seed, "score": score, "batch_size": batch_size, "ours": ours}

    lost, noise = (1.0, 1.1, 0.9), (0.0, 5.0, -5.0)
    small = [result(seed, noise[seed], 8) for seed in range(3)]
    large = [result(seed, noise[seed] + lost[seed], 64) for seed in range(3)]
    ours = [result(seed, noise[seed] + lost[seed] / 4, 64, ours=True) for seed in range(3)]
    row = table.comparison([*large, *ours, *small])
    assert row["share"] == "75 % (75 to 75)"
    assert row["lost"].startswith("1 (0.752")  # 1 -+ 4.303 x 0.1 / sqrt(3)
    assert table.comparison([*small, *ours, *large[:1]])["share"] == "no loss shown"  # one seed tells nothing
    assert table.comparison([result(s, s, 8 + 56 * (k > 0), k > 1) for s in range(3) for k in range(3)])["share"] == (
        "no loss shown"
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("script", SCRIPTS)
def test_all_monitors_leave_the_weights_bit_identical(script):
    project = re.search(r'project="(.+)"', (FOLDER / f"{script}.py").read_text(encoding="utf-8"))[1]
    module = project.replace("-", "_").replace("scvi_tools", "scvi")
    if subprocess.run([PYTHON, "-c", f"import {module}"], capture_output=True).returncode:
        pytest.skip(f"{project} is not installed; `make foreign` makes an environment with it")
    words = [PYTHON, f"{script}.py", "--monitors", "--max_epochs", "1"]
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(words, cwd=FOLDER, env=quiet, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["steps"] > 0
    assert result["bit_identical"]
    assert len(result["logged"]) == MONITORS
