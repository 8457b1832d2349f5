"""A report with all there is to one: numbers beside a paper's, figures, remarks, terms, runs, names that clash."""

from pathlib import Path

import pytest

from lightning_gap.recipes.reports import write_report
from lightning_gap.recipes.reports.drawing import blank, label, legend_below, line_with_band, look
from lightning_gap.recipes.reports.parts import Chapter, Chart, Numbers, Published, Remark, Report, Table

SMALL, LARGE = (80.1, 79.2, 79.9), (77.0, 76.1, 77.3)
GAP = tuple(small - large for small, large in zip(SMALL, LARGE, strict=True))


def chart(title):
    figure, (axes,) = blank()
    epochs = [1, 2, 3]
    for regime, curves in {"small": [[60, 70, 80], [61, 72, 79]], "large": [[50, 60, 77], [52, 61, 76]]}.items():
        line_with_band(axes, epochs, curves, name=regime, like=look(regime))
    label(axes, "epoch", "test accuracy (%)")
    legend_below(figure, axes)
    curves = {"epoch": epochs, "small": [60.5, 71.0, 1 / 3], "large": [51.0]}
    return Chart(title, figure, 'Two curves; "small" ends <highest>.', "Mean & interval.", curves)


def table(title="Accuracy and gap"):
    head = ["network", "data | split", "test accuracy %, small", "test accuracy %, large", "gap, points", "steps"]
    rows = [
        [
            "C1",
            "<cifar10>",
            Numbers(SMALL, paper=Published(80.04, 0.12)),
            Numbers(LARGE, paper=Published(77.26, 0.42)),
            Numbers(GAP, paper=Published(2.78), differences=True),
            "3,140",
        ],
        [
            "F1",
            "mnist",
            Numbers((98.0,)),
            Numbers((97.9,)),
            Numbers((0.1, -0.2), paper=Published(0.22), differences=True),
            "-",
        ],
        ["C2", "cifar10", "-", "-", Numbers((-0.5, -0.6, -0.4), paper=Published(1.98), differences=True), "none"],
    ]
    return Table(title, head, rows, "The gap is small minus large.")


@pytest.fixture(scope="session")
def report():
    parts = [Remark("Read `this` first: a < b, a_b_c."), table(), chart("Accuracy over time"), table(), table("!?")]
    terms = {"network": "C1 on cifar10", "a_name_that_is_one_long_word_without_any_place_to_break": "x" * 300}
    chapters = [
        Chapter("keskar-table-2", "Table 2: accuracy", parts, terms),
        Chapter("Keskar Table 2", "The same once more", [chart("accuracy OVER time")], {}),
    ]
    runs = {"c1, small, seed 0": Path("runs") / "c1 small #0"}
    return Report("Reproduced & shown", chapters, {"scale": "tiny"}, runs)


@pytest.fixture(scope="session")
def written(report, tmp_path_factory):
    """The folder of the report, and the files that it told."""
    folder = tmp_path_factory.mktemp("out") / "the report"
    return folder, write_report(report, folder)
