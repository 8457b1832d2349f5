"""A real TensorBoard on the logs of a real comparison, opened in Chromium. Skipped, saying so, where there is none.

With ``SCREENSHOTS=folder`` in the environment what was seen is kept there, with ``LOGS=folder`` of logs that are there:
so the pictures of the docs are made, from a comparison of the same three regimes.
"""

import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from lightning_gap.recipes.runner.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
MARGINS = "Mean over trials, and one standard deviation either way"
REGIMES = ("small", "large", "ghost-lr")


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    if "LOGS" in os.environ:
        return Path(os.environ["LOGS"])
    folder = tmp_path_factory.mktemp("results") / "run"
    size = ["--width", "16", "--depth", "1", "--epochs", "4", "--trials", "2"]
    assert main(["compare", "f1", *REGIMES, *size, "--output", str(folder)]) == 0
    return folder / "tensorboard"


@pytest.fixture(scope="module")
def address(logs):
    options = ["--logdir", str(logs), "--host", "127.0.0.1", "--port", "0"]
    command = [sys.executable, "-m", "tensorboard.main", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        found = next(filter(None, (re.search(r"http://127.0.0.1:\d+/", line) for line in server.stdout)))
        yield found[0]
        server.terminate()


@contextmanager
def opened(browser, address, tab, *, height=900, settings=""):
    """A tab of TensorBoard, with the text that it shows; kept as a picture when the block has seen what it wants."""
    page = browser.new_page(viewport={"width": 1240, "height": height})
    page.set_default_timeout(30_000)
    page.goto(f"{address}?darkMode=false{settings}#{tab}")
    yield page
    if "SCREENSHOTS" in os.environ:
        page.screenshot(path=Path(os.environ["SCREENSHOTS"]) / f"tensorboard-{tab}.png")
    page.close()


def test_the_layout_has_charts_with_curves_in_them(browser, address):
    with opened(browser, address, "custom_scalars", height=1000) as page:
        field = page.locator("tf-smoothing-input input").last
        field.fill("0")
        field.press("Enter")
        for title in (MARGINS, "Accuracy and loss", "Sharpness", "Learning rate, batch size and noise"):
            page.get_by_text(title, exact=True).first.wait_for()
        page.get_by_text("validation/accuracy", exact=True).first.wait_for()
        page.get_by_text("accuracy: training and validation").first.wait_for()
        page.get_by_text(re.compile(r"Matches \(3\)")).first.wait_for()  # three regimes in a chart of margins
        page.wait_for_function(
            """() => {
              const found = [];
              const walk = root => root.querySelectorAll("*").forEach(each => {
                if (each.tagName === "path" && (each.getAttribute("d") || "").length > 20) found.push(each);
                if (each.shadowRoot) walk(each.shadowRoot);
              });
              walk(document);
              return found.length > 20;
            }"""
        )


def test_the_scalars_are_there_in_groups(browser, address):
    with opened(browser, address, "timeseries", settings="&smoothing=0&tagFilter=final") as page:
        page.get_by_text("final/test_accuracy").first.wait_for()
        page.get_by_text("ghost-lr/trial-2").first.wait_for()
    with opened(browser, address, "scalars") as page:
        for group in ("final", "lr", "batch", "sharpness", "trials", "weights"):
            page.get_by_text(group, exact=True).first.wait_for()


def test_the_images_are_there(browser, address):
    with opened(browser, address, "images") as page:
        page.get_by_text("comparison/parametric").first.wait_for()
        page.wait_for_function(
            """() => {
              const found = [];
              const walk = root => root.querySelectorAll("*").forEach(each => {
                if (each.tagName === "IMG" && each.naturalWidth > 300) found.push(each);
                if (each.shadowRoot) walk(each.shadowRoot);
              });
              walk(document);
              return found.length > 0;
            }"""
        )


def test_the_table_can_be_read_word_by_word(browser, address):
    with opened(browser, address, "text", height=1400) as page:
        page.get_by_text("comparison/look_at_first").first.wait_for()
        row = page.locator("td", has_text=re.compile(r"^test accuracy %$")).first.locator("xpath=..")
        row.wait_for()
        boxes = [cell.bounding_box() for cell in row.locator("td").all()]
        assert len(boxes) == 1 + len(REGIMES)
        assert all(box["height"] < 45 for box in boxes), "a cell is broken into several lines"
        page.get_by_text("every regime of a trial from the same initial weights").first.wait_for()


def test_hparams_has_a_row_for_each_run_with_its_final_accuracy(browser, address):
    with opened(browser, address, "hparams") as page:
        for name in ("large/trial-1", "small/trial-2", "final/test_accuracy", "learning_rate"):
            page.get_by_text(name, exact=True).first.wait_for()
