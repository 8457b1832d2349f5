"""Where sharpness settles, trained in earnest: the theory's 2 and 38 over the learning rate are the oracle."""

import statistics

import pytest

from lightning_gap.recipes.experiments.plateaus import EDGE, EXPERIMENT, along
from lightning_gap.recipes.experiments.scales import Choice
from lightning_gap.recipes.reports.parts import Table


def late(rows, key, edge):
    return statistics.fmean(row[key] / edge for row in rows[2 * len(rows) // 3 :])


@pytest.mark.slow
def test_adams_preconditioned_eigenvalue_settles_at_38_over_the_learning_rate():
    rows = along(None, optimizer="adam", rate=0.003, steps=400, seed=0)
    assert rows[0]["preconditioned"] < 0.5 * 38 / 0.003
    assert late(rows, "preconditioned", 38 / 0.003) == pytest.approx(1.0, abs=0.05)
    assert all(row["threshold"] == pytest.approx(38 / 0.003) for row in rows)


@pytest.mark.slow
def test_sgds_batch_sharpness_settles_at_2_over_the_learning_rate_and_the_eigenvalue_below():
    rows = along(None, optimizer="sgd", rate=0.3, steps=24_000, seed=0)
    assert rows[0]["batch_sharpness"] < 0.5 * 2 / 0.3
    assert late(rows, "batch_sharpness", 2 / 0.3) == pytest.approx(1.0, abs=0.15)
    assert late(rows, "lambda_max", 2 / 0.3) < 0.7


def test_the_table_shows_the_last_third_over_the_edge():
    class Found:
        def __getitem__(self, asked):
            edge = EDGE[asked.options["optimizer"]] / asked.options["rate"]
            shares = [0.1, 0.5, 0.9, 1.0, 1.1, 0.9]
            return [
                {"step": i, "loss": 0.5, "lambda_max": edge / 4}
                | dict.fromkeys(("batch_sharpness", "preconditioned"), share * edge)
                for i, share in enumerate(shares, start=1)
            ]

    (table,) = (part for part in EXPERIMENT.show(Choice("small", ()), Found()) if isinstance(part, Table))
    assert [row[2] for row in table.rows] == ["10", "6.66667", "38000", "12666.7"]
    for row in table.rows:
        assert row[3].values == pytest.approx((1.0,) * 3)
        assert row[4].values == pytest.approx((0.25,) * 3)
