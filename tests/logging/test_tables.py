import csv

import numpy as np
import pytest

from lightning_gap.logging import Column, mean_and_std, write_csv, write_markdown

COLUMNS = [Column("regime", "regime"), Column("accuracy", "accuracy %", 1)]
ROWS = [
    {"regime": "small", "accuracy": [97.0, 98.5, 99.0]},
    {"regime": "large", "accuracy": [90.0, 91.0, float("nan")]},
]


def test_the_deviation_is_the_sample_deviation():
    values = ROWS[0]["accuracy"]
    assert mean_and_std(values, 3) == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


@pytest.mark.parametrize(("values", "text"), [([1.25], "1.2"), ([], "-"), ([float("nan")], "-")])
def test_one_value_has_no_deviation_and_none_is_a_dash(values, text):
    assert mean_and_std(values, 1) == text


def test_csv_holds_full_precision_for_programs(tmp_path):
    write_csv(tmp_path / "table.csv", COLUMNS, ROWS)
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["regime", "accuracy", "accuracy_std"]
    assert float(rows[0]["accuracy"]) == pytest.approx(np.mean(ROWS[0]["accuracy"]), rel=1e-15)
    assert float(rows[0]["accuracy_std"]) == pytest.approx(np.std(ROWS[0]["accuracy"], ddof=1), rel=1e-15)
    assert rows[1]["accuracy"] == "nan"


def test_markdown_has_title_table_and_terms(tmp_path):
    write_markdown(tmp_path / "table.md", COLUMNS, ROWS, title="Title", terms="Terms.")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "# Title"
    assert lines[2:6] == ["| regime | accuracy % |", "| --- | --- |", "| small | 98.2 ± 1.0 |", "| large | - |"]
    assert lines[-1] == "Terms."
