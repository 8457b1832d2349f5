"""What experiments ask for, and what they make of what was found; trained in earnest by test_reproduce.py."""

import ast
import dataclasses
import inspect
import math
import random
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_gap import GhostBatchNormSwap
from lightning_gap.recipes.experiments import basin_shape, experiments, published
from lightning_gap.recipes.experiments.published_curves import CURVES
from lightning_gap.recipes.experiments.scales import SCALES, Choice
from lightning_gap.recipes.reports.agreement import counted, marks
from lightning_gap.recipes.reports.parts import Chart, Numbers, Remark, Table
from lightning_gap.recipes.runner.measurement import Measurement
from lightning_gap.recipes.runner.run_result import RunResult
from lightning_gap.recipes.runner.run_store import RunSpec

NAMES = sorted(experiments())


def experiment(name):
    return import_module(f"lightning_gap.recipes.experiments.{name.replace('-', '_')}").EXPERIMENT


def choices(name, scale):
    found = experiment(name)
    return found, Choice(scale, found.networks)


class Found:
    """Results by a rule of the regime and seed; measurements by name."""

    def __init__(self, accuracy=None, measured=None, **fields):
        self.accuracy = accuracy or (lambda spec: 0.5)
        self.measured = measured or {}
        self.fields = fields

    def __getitem__(self, asked):
        if isinstance(asked, Measurement):
            made = self.measured[asked.name]
            return made(asked) if callable(made) else made
        values = {
            "batch_size": 1,
            "last_batch_size": 1,
            "epochs": 2,
            "steps": 10,
            "learning_rate": 0.1,
            "train_loss": 0.1,
            "train_accuracy": 0.9,
            "test_loss": 0.2,
            "test_accuracy": self.accuracy(asked),
            "sharpness": {"1e-3": 10.0, "5e-4": 5.0},
            "sharpness_batch": {"1e-3": 20.0, "5e-4": 8.0},
            "distance": 3.0,
            "seconds": 1.0,
        }
        made = {name: value(asked) if callable(value) else value for name, value in self.fields.items()}
        return RunResult(**{**values, **made})


def shown(name, found, *networks, scale="small", seeds=None):
    made = experiment(name)
    return list(made.show(Choice(scale, networks or made.networks, seeds), found))


def column(table, title):
    return [row[list(table.head).index(title)] for row in table.rows]


# All experiments


def test_there_is_an_experiment_for_each_table_and_figure():
    keskar = {f"keskar-table-{n}" for n in (2, 3, 4, 6, 7)} | {f"keskar-figure-{n}" for n in range(2, 8)}
    assert keskar | {"keskar-distance", "closes-the-gap"} <= set(NAMES)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_asked_for_can_be_made(name, scale):
    """Each run's recipe can be built as asked; each measurement's function takes its runs and options."""
    found, choice = choices(name, scale)
    built = set()
    for asked in found.needs(choice):
        specs = (asked,)
        if isinstance(asked, Measurement):
            specs = asked.of
            of = specs or ("data_dir",)
            inspect.signature(asked.by).bind(*of, **asked.options)
            assert getattr(import_module(asked.by.__module__), asked.by.__qualname__) is asked.by
        for spec in specs:
            assert isinstance(spec, RunSpec)
            if (key := spec.with_seed(0).name) not in built:
                built.add(key)
                with torch.device("meta"):
                    recipe = spec.recipe(spec.regime, **spec.hyperparameters)
                assert max(spec.kept_epochs, default=0) <= recipe.epochs


def test_the_papers_settings_are_those_of_the_paper_scale():
    for name in published.TEST_ACCURACY:
        values = Choice("paper", (name,)).run(name, "small", 0).hyperparameters
        assert (values["epochs"], values["small_batch_size"], values["optimizer"]) == (100, 256, "adam")


def test_the_small_scale_differs_only_where_it_says():
    """10,000 CIFAR images, 64 against 1,000, narrower; the optimizer and its learning rate are the paper's."""
    for name in ("c1", "c2", "c3", "c4"):
        small, paper = (Choice(scale, (name,)).run(name, "small", 0).hyperparameters for scale in ("small", "paper"))
        differing = {key for key in small if small[key] != paper[key]}
        width = "channels" if name in ("c1", "c3") else "width"
        sizes = {"epochs", "small_batch_size", "large_batch_size", "validation_size", "sharpness_samples"}
        assert differing == sizes | {width}  # both by the statistics of a batch


# The paper's numbers


def test_published_gaps_are_those_that_the_paper_prints():
    printed = {"f1": 0.22, "f2": 4.57, "c1": 2.78, "c2": 1.98, "c3": 3.13, "c4": 5.27}
    for name, row in published.TEST_ACCURACY.items():
        assert row.small.mean - row.large.mean == pytest.approx(printed[name], abs=5e-3)


def test_table_7_repeats_table_2s_small_batch():
    for name, remedy in published.CONSERVATIVE.items():
        assert remedy.small.mean == published.TEST_ACCURACY[name].small.mean


def test_sharpness_falls_with_epsilon_in_all_cells():
    for table in (published.SHARPNESS, published.SUBSPACE_SHARPNESS):
        for name, row in table[1e-3].items():
            assert row.small.mean > table[5e-4][name].small.mean
            assert row.large.mean > table[5e-4][name].large.mean > table[5e-4][name].small.mean


def test_the_curves_have_25_points_and_their_ends():
    for curves in CURVES.values():
        assert {len(values) for values in curves.values()} == {25}
        assert min(curves["train_loss"]) == curves["train_loss"][16]  # at alpha 1: the large batch fits best
    assert [CURVES["c1"]["test_accuracy"][i] for i in (8, 16)] == [80.5, 77.3]


def test_no_number_of_the_paper_is_typed_twice():
    """So that none can be corrected in one place alone."""
    folder = Path(inspect.getfile(published)).parent
    numbers = {
        node.value
        for node in ast.walk(ast.parse((folder / "published.py").read_text()))
        if isinstance(node, ast.Constant)
    }
    distinct = {number for number in numbers if isinstance(number, float) and number > 20 and number % 1 != 0}
    for file in folder.glob("keskar_*.py"):
        typed = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        assert not typed & distinct, file


# Tables


def test_table_2_has_the_gap_paired_by_seed_beside_the_papers():
    accuracies = {("small", 0): 0.80, ("small", 1): 0.82, ("large", 0): 0.78, ("large", 1): 0.81}
    (table,) = shown("keskar-table-2", Found(lambda spec: accuracies[spec.regime, spec.seed]), "c1", seeds=(0, 1))
    (gap,) = column(table, "gap, points")
    assert gap.values == pytest.approx((2.0, 1.0))
    assert gap.paper.mean == 2.78
    low, high = stats.t.interval(0.95, 1, loc=1.5, scale=stats.sem([2.0, 1.0]))
    assert (gap.found.low, gap.found.high) == pytest.approx((low, high))
    (small,) = column(table, "test accuracy %, small")
    assert (small.values, small.paper.mean, small.paper.deviation) == (pytest.approx((80.0, 82.0)), 80.04, 0.12)


@pytest.mark.parametrize("name", ["keskar-table-3", "keskar-table-4"])
def test_tables_3_and_4_compare_the_logarithm_of_the_ratio(name):
    def measured(asked):
        value = {"small": 2.0, "large": 200.0}[asked.of[0].regime] * (1 + asked.of[0].seed)
        return {mode: {"1e-3": value, "5e-4": value / 4} for mode in ("batch", "running")}

    kind = "sharpness" if name.endswith("3") else "subspace"
    found = Found(measured={f"{kind}-{method}": measured for method in ("lbfgsb", "best")})
    tables = shown(name, found, "c1", "c3", seeds=(0, 1))
    assert len(tables) == 4  # two maximisers, two BatchNorm modes
    for table in tables:
        logs = column(table, "log10 large / small, 1e-3")
        assert [cell.values for cell in logs] == [pytest.approx((2.0, 2.0))] * 2
        assert all(cell.same_direction for cell in logs)
        paper = (published.SHARPNESS if kind == "sharpness" else published.SUBSPACE_SHARPNESS)[1e-3]["c1"]
        assert logs[0].paper.mean == pytest.approx(math.log10(paper.large.mean / paper.small.mean))
        assert column(table, "large, 5e-4")[1].values == (50.0, 100.0)


@pytest.mark.parametrize(
    ("scale", "network", "marked"), [("small", "f1", True), ("tiny", "f1", False), ("small", "f2", False)]
)
def test_no_mark_is_set_beside_numbers_of_other_data(scale, network, marked):
    """At the tiny scale F1 reads digits, at the small one F2 what stands in for TIMIT."""
    found = Found(lambda spec: 0.9 - 0.02 * (spec.regime == "large") + 0.001 * spec.seed)
    (table,) = shown("keskar-table-2", found, network, scale=scale)
    beside = [cell for cell in table.rows[0] if isinstance(cell, Numbers)]
    assert all(cell.paper is not None for cell in beside)
    assert any(marks(cell) for cell in beside) == marked
    assert ("without a mark are of other data" in counted(table)) != marked


def test_a_sharpness_of_zero_has_no_logarithm():
    def measured(asked):
        value = 0.0 if asked.of[0].regime == "small" else 5.0
        return {mode: {"1e-3": value, "5e-4": value} for mode in ("batch", "running")}

    found = Found(measured={f"sharpness-{method}": measured for method in ("lbfgsb", "best")})
    table = shown("keskar-table-3", found, "c1", seeds=(0, 1))[0]
    (cell,) = column(table, "log10 large / small, 1e-3")
    assert cell.text == "-"


@pytest.mark.parametrize(("name", "remedy"), [("keskar-table-6", "augmented"), ("keskar-table-7", "conservative")])
def test_tables_6_and_7_put_the_remedy_beside_the_small_batch(name, remedy):
    accuracy = {"small": 0.8, remedy: 0.79}
    (table,) = shown(name, Found(lambda spec: accuracy[spec.regime] + spec.seed / 1000), "c1", seeds=(0, 1, 2))
    assert column(table, "gap to small, points")[0].values == pytest.approx((1.0, 1.0, 1.0))
    assert column(table, "sharpness of the remedy, 1e-3")[0].values == (20.0,) * 3
    if remedy == "augmented":  # the small batch too
        runs = list(experiment(name).needs(Choice("small", ("c1",), (0,))))
        assert [run.hyperparameters["augmentation"] for run in runs] == ["affine", "none"]


def test_the_ratio_of_distances_has_fiellers_interval():
    distance = {"small": (12.0, 13.0, 12.5), "large": (3.0, 3.2, 3.3)}
    found = Found(distance=lambda spec: distance[spec.regime][spec.seed])
    (table,) = shown("keskar-distance", found, "f1", seeds=(0, 1, 2))
    (ratio,) = column(table, "ratio of the means")
    small, large = map(np.array, (distance["small"], distance["large"]))
    assert ratio.found.mean == pytest.approx(small.mean() / large.mean())
    for end in (ratio.found.low, ratio.found.high):  # where a t test of small = end large is just passed
        assert stats.ttest_1samp(small - end * large, 0).pvalue == pytest.approx(0.05, abs=1e-6)


# The gap


def test_the_share_brought_back_and_the_ranks():
    """Regimes whose sharpness by one measure follows the gap, by another goes the other way."""
    regimes = ("small", "large", "ghost-lr", "sam-late")
    gap = dict(zip(regimes, (0.0, 4.0, 1.0, 3.0), strict=True))
    noise = random.Random(0)
    jitter = {(regime, seed): noise.uniform(-0.1, 0.1) for regime in regimes for seed in range(3)}

    def accuracy(spec):
        return 0.6 - (gap[spec.regime] + jitter[spec.regime, spec.seed]) / 100

    found = Found(
        accuracy,
        {"other-sharpness": lambda asked: {"adaptive": 1.0 + gap[asked.of[0].regime], "eigenvalue": 7.0}},
        sharpness=lambda spec: {"1e-3": 10 - gap[spec.regime], "5e-4": 1.0},
        sharpness_batch=lambda spec: {"1e-3": 10 + gap[spec.regime], "5e-4": 1.0},
    )
    parts = shown("closes-the-gap", found, "c3")
    closing, sharp, ranks = (part for part in parts if isinstance(part, Table))
    share = dict(zip(column(closing, "regime"), column(closing, "of large's gap back, %"), strict=True))["ghost-lr"]
    own, small, large = (
        np.array([100 * accuracy(experiment_run(r, s)) for s in range(3)]) for r in ("ghost-lr", "small", "large")
    )
    assert share.found.mean == pytest.approx(100 * (own - large).mean() / (small - large).mean())
    for end in (share.found.low, share.found.high):
        assert stats.ttest_1samp((own - large) - end / 100 * (small - large), 0).pvalue == pytest.approx(0.05, abs=1e-6)
    taus = dict(zip(column(ranks, "measure"), column(ranks, "Kendall's tau of the means"), strict=True))
    assert taus == {
        "box, batch BN": "1.00",
        "box, running BN": "-1.00",
        "adaptive box": "1.00",
        "largest eigenvalue": "0.00",
    }
    assert column(sharp, "box, batch BN")[1].values == (14.0,) * 3
    by_seed = column(ranks, "tau seed by seed")[0].found
    assert by_seed.mean == pytest.approx(np.mean(column(ranks, "tau seed by seed")[0].values))
    assert all(-1 <= end <= 1 for numbers in column(ranks, "tau seed by seed") for end in numbers.found)


def experiment_run(regime, seed):
    return Choice("small", ("c3",)).run("c3", regime, seed)


def test_a_regime_that_diverged_is_left_out_of_the_ranks_and_said():
    gap = {"small": 0.0, "large": 4.0, "ghost-lr": 1.0, "sam-late": 3.0}
    found = Found(
        lambda spec: 0.6 - gap[spec.regime] / 100 - spec.seed / 1000,
        {"other-sharpness": {"adaptive": 1.0, "eigenvalue": 7.0}},
        sharpness_batch=lambda spec: {"1e-3": math.nan if spec.regime == "large" else gap[spec.regime], "5e-4": 1.0},
    )
    parts = shown("closes-the-gap", found, "c3")
    assert any(isinstance(part, Remark) and part.text.endswith("diverged: large.") for part in parts)


def test_a_regime_with_fewer_seeds_is_paired_by_those_it_has():
    found = Found(
        lambda spec: {"small": 0.6, "large": 0.55}.get(spec.regime, 0.58) + spec.seed / 100,
        {"other-sharpness": {"adaptive": 1.0, "eigenvalue": 7.0}},
    )
    closing = next(part for part in shown("closes-the-gap", found, "c1") if isinstance(part, Table))
    by_regime = dict(zip(column(closing, "regime"), column(closing, "gap to small, points"), strict=True))
    assert len(by_regime["longer"].values) == 2
    assert by_regime["longer"].values == pytest.approx((2.0, 2.0))
    assert len(by_regime["ghost-lr"].values) == 5


# Figures


@pytest.mark.parametrize(("seeds", "twice"), [((0, 1, 2), 3), ((4, 7), 1), ((5,), 0)])
def test_solutions_are_connected_once_and_the_barrier_is_above_the_line_between_the_ends(seeds, twice):
    def losses(asked):
        assert asked.of[0] != asked.of[1]
        middle = {"line": 2.0, "bezier": 0.4, "chain": 0.5}[asked.options["path"]]
        curve = [0.2] * 10 + [middle] + [0.4] * 10
        return {"train": {"loss": curve}, "test": {"accuracy": [1 - value / 10 for value in curve]}}

    paths = ("line", "bezier", "chain")
    found = Found(measured={f"mode-connectivity-{path}": losses for path in paths})
    needs = list(experiment("mode-connectivity").needs(Choice("small", ("f1",), seeds)))
    assert len({frozenset(spec.name for spec in asked.of) for asked in needs}) == len(seeds) + twice
    *_, table = shown("mode-connectivity", found, "f1", seeds=seeds)
    by_path = dict(zip([row[0] for row in table.rows], column(table, table.head[1]), strict=True))
    assert by_path["F1, small and large, line"].values == pytest.approx([2.0 - 0.3] * len(seeds))
    assert by_path["F1, small and large, bezier"].values == pytest.approx([0.1] * len(seeds))
    assert len(by_path) == 3 * (1 + (twice > 0))


def test_figure_2_compares_the_ends_and_the_best_epochs():
    def curve(asked):
        spec = asked.of[0]
        rise = {"small": [50, 62, 60], "large": [40, 55, 58]}[spec.regime]
        return [
            {"epoch": e, "step": e, "train_accuracy": 90.0, "test_accuracy": a + spec.seed} for e, a in enumerate(rise)
        ]

    parts = shown("keskar-figure-2", Found(measured={"by-epoch": curve}), "c1")
    (table,) = (part for part in parts if isinstance(part, Table))
    assert column(table, "gap at the end, points")[0].values == (2.0,) * 3
    assert column(table, "gap with each run at its best epoch")[0].values == (4.0,) * 3
    assert [part.title for part in parts if isinstance(part, Chart)] == ["C1: accuracy against epochs"]


def test_figure_4_reads_off_the_batch_from_which_accuracy_falls():
    lost = {64: 0.0, 125: 0.0, 250: 0.4, 500: 0.0, 1000: 1.0, 2000: 3.0, 4000: 8.0}

    def accuracy(spec):
        size = spec.hyperparameters["small_batch_size"]
        return 0.6 - lost[size] / 100 + 0.0001 * ((spec.seed * 7 + size) % 3)

    parts = shown("keskar-figure-4", Found(accuracy), "c1")
    (remark,) = (part for part in parts if isinstance(part, Remark))
    assert "from batch 1,000 on" in remark.text  # 250 is lower too, but 500 is not
    none = shown("keskar-figure-4", Found(lambda spec: 0.6 + 0.001 * spec.seed), "c1")
    assert "at no size" in next(part for part in none if isinstance(part, Remark)).text


def test_figure_5s_warm_starts_train_the_small_batch_then_the_large_one_afresh():
    made, choice = experiment("keskar-figure-5"), Choice("small", ("c1",), (0,))
    warm = [asked for asked in made.needs(choice) if isinstance(asked, RunSpec) and asked.regime.startswith("after")]
    assert [spec.regime for spec in warm] == ["after-1", "after-2", "after-4", "after-7", "after-12", "after-20"]
    with torch.device("meta"):
        recipe = warm[2].recipe(warm[2].regime, **warm[2].hyperparameters)
    (callback,) = recipe.configure_callbacks()
    assert (recipe.epochs, recipe.batch_size) == (24, 64)
    assert (callback.switch_epoch, callback.large_batch_size, callback.optimizer_state) == (4, 1000, "reset")


def test_figure_6_compares_at_the_same_loss():
    """Along curves sharpness = c / loss, in which the logarithm of the ratio is that of the constants."""

    def trace(asked):
        constant = {"small": 3.0, "large": 30.0}[asked.of[0].regime]
        return [
            {"epoch": i, "step": i, "loss": x, "1e-3": constant / x} for i, x in enumerate((2.3, 1.5, 0.7, 0.3, 0.04))
        ]

    parts = shown("keskar-figure-6", Found(measured={"sharpness-trace": trace}), "c1")
    (table,) = (part for part in parts if isinstance(part, Table))
    assert [row[0] for row in table.rows] == ["C1, 2.0", "C1, 1.0", "C1, 0.5", "C1, 0.2", "C1, 0.1"]
    assert column(table, "log10 large / small")[2].values == pytest.approx((1.0,) * 3)
    assert column(table, "sharpness %, small")[2].values == pytest.approx((6.0,) * 3)


def test_the_shape_of_the_papers_curve():
    """C1 of the paper: a wide basin at 0, a narrow one at 1, a hump between, a collapse beyond."""
    alphas = [-1 + i / 8 for i in range(25)]
    shape = basin_shape.basin_shape(alphas, CURVES["c1"]["train_accuracy"])
    assert shape.outward_small == pytest.approx(0.625 + 0.125 * (93.4 - 90) / (93.4 - 87.8))
    assert shape.outward_large < 0.1 < shape.outward_small
    assert (shape.lowest, shape.lowest_at, shape.beyond) == (81.5, 0.75, 21.5)


def test_a_basin_is_measured_between_the_grids_points():
    alphas = [-1.0, -0.5, 0.0, 0.5, 1.0, 1.25]
    shape = basin_shape.basin_shape(alphas, [50, 100, 100, 80, 100, 60])
    assert shape.outward_small == pytest.approx(0.6)  # from 100 at -0.5 to 50 at -1: 90 is passed at -0.6
    assert shape.inward_small == pytest.approx(0.25)
    assert shape.outward_large == pytest.approx(0.25 * 10 / 40)


def test_figure_3_measures_the_paths_of_all_seeds():
    accuracy = [0.5, *[1.0] * 15, 1.0, *[0.1] * 8]  # falls at once beyond alpha 1, late to the left of 0

    def line(asked):
        assert [spec.regime for spec in asked.of] == ["small", "large"]
        assert len(asked.options["alphas"]) == 25
        return {split: {"loss": [0.1] * 25, "accuracy": accuracy} for split in ("train", "test")}

    parts = shown("keskar-figure-3", Found(measured={"line": line}), "c1")
    chart, table = parts
    assert "the wider in 5 of 5 seeds" in chart.note
    assert column(table, "outward from small, alpha")[0].values == pytest.approx((1 - 0.125 * 0.8,) * 5)
    assert column(table, "outward from small, alpha")[0].paper is not None
    assert column(table, "at alpha 1.25, %")[0].values == pytest.approx((10.0,) * 5)


# Hoffer et al. and Smith et al.


def test_a_distance_that_follows_the_logarithm_is_fitted():
    def trace(asked):
        slope = 2.0 if "ghost-lr" in asked.of[0].regime else 1.0
        return [{"epoch": e, "step": 10 * e, "distance": slope * math.log(10 * e) + 3} for e in range(1, 21)]

    parts = shown("hoffer-distance", Found(measured={"distance": trace}))
    (table,) = (part for part in parts if isinstance(part, Table))
    slopes = [round(cell.found.mean, 6) for cell in column(table, "slope per e-fold of steps")]
    assert slopes == [1.0, 1.0, 2.0, 1.0, 2.0]
    assert all(cell.found.mean == pytest.approx(1) for cell in column(table, "R squared"))


def test_all_of_hoffers_corrections_take_the_small_batchs_updates():
    specs = list(experiment("hoffer-table-1").needs(Choice("small", ("c1",), (0,))))
    by_regime = {spec.regime: spec for spec in specs}
    with torch.device("meta"):
        recipe = by_regime["ghost-lr-longer"].recipe("ghost-lr-longer", **specs[-1].hyperparameters)
    assert (recipe.epochs, recipe.batch_size) == (math.ceil(20 * 1000 / 64), 1000)
    swap, scaling = recipe.configure_callbacks()
    assert (swap.ghost_batch_size, scaling.base_batch_size, recipe.gradient_clip) == (64, 64, 5.0)


def test_smiths_schedules_are_alike_up_to_the_first_milestone():
    from lightning_gap.recipes.experiments import smith_curves

    rows = [{"epoch": e, "step": e, "test_accuracy": 90.0 + e, "test_loss": 1.0, "train_loss": 1.0} for e in range(4)]
    results = {name: {0: [dict(row) for row in rows]} for name in ("decay", "growth")}
    assert smith_curves.alike(results, 2)
    results["growth"][0][3]["test_loss"] = 2.0  # after it they may differ
    assert smith_curves.alike(results, 2)
    results["growth"][0][1]["test_loss"] += 1e-9
    assert not smith_curves.alike(results, 2)


@pytest.mark.parametrize("run", ["decay", "hybrid", "growth"])
def test_the_noise_scale_of_smiths_schedules_falls_alike(run):
    """Learning rate over batch size, which is what Smith et al. keep the same."""
    from lightning_gap.recipes.experiments import smith_curves

    recipe = smith_curves.SmithF1(run, **{**smith_curves.HYPERPARAMETERS, "width": 8, "depth": 1})
    growth = [callback for callback in recipe.configure_callbacks() if hasattr(callback, "schedule")]
    for epoch in (0, 4, 5, 10, 13, 15):
        stage = growth[0].schedule if growth else None
        stage = stage(epoch) if callable(stage) else stage
        if isinstance(stage, dict):
            size, factor = stage[max(first for first in stage if first <= epoch)], 1.0
        else:
            size, factor = (128, 1.0) if stage is None else (stage.batch_size, stage.learning_rate_factor)
        scale = 0.1 * recipe.learning_rate_factor(epoch) * factor / size
        passed = sum(epoch >= milestone for milestone in (5, 10, 13))
        assert scale == pytest.approx(0.1 / 128 / 5**passed, rel=1e-9)


def test_numbers_of_differences_tell_direction_and_coverage():
    row = dataclasses.replace(Numbers((1.0, 1.2, 1.4), paper=published.Published(2.0)), differences=True)
    assert row.same_direction is True
    assert row.paper_within is False
    assert Numbers((-1.0, 1.2, 0.3), paper=published.Published(2.0), differences=True).same_direction is None


# The random walk


def test_a_fractional_brownian_motions_differences_have_the_variance_that_is_asked_for():
    from lightning_gap.recipes.experiments.random_walk import fractional_brownian_motion

    generator = torch.Generator().manual_seed(0)
    paths = torch.stack([fractional_brownian_motion(128, 1.5, generator) for _ in range(4000)])
    for lag in (1, 8, 64):
        steps = paths[:, lag::lag] - paths[:, :-lag:lag]
        assert float(steps.square().mean()) == pytest.approx(lag**1.5, rel=0.07)


def test_the_mean_time_is_that_of_walking():
    """Against a linear system for the times, and against walks."""
    from lightning_gap.recipes.experiments.random_walk import log_mean_times

    potential = torch.tensor([0.0, 0.7, -0.3, 1.1, 0.2, 0.9], dtype=torch.float64)
    right = (1 / (1 + potential.diff().exp())).tolist()
    matrix, ones = np.eye(5), np.ones(5)  # t_i = 1 + p_i t_(i + 1) + q_i t_(i - 1), t_5 = 0
    for i, p in enumerate(right):
        if i + 1 < 5:
            matrix[i, i + 1] -= p if i else 1
        if i:
            matrix[i, i - 1] -= 1 - p
    exact = np.linalg.solve(matrix, ones)[0]
    assert float(log_mean_times(potential[None])[0, -1].exp()) == pytest.approx(exact, rel=1e-12)
    walker, steps = random.Random(0), 0
    for _ in range(3000):
        at = 0
        while at < 5:
            at += 1 if at == 0 or walker.random() < right[at] else -1
            steps += 1
    assert steps / 3000 == pytest.approx(exact, rel=0.1)


def test_in_a_flat_potential_time_is_the_distance_squared():
    from lightning_gap.recipes.experiments.random_walk import log_mean_times

    times = log_mean_times(torch.zeros(1, 101, dtype=torch.float64))[0].exp()
    assert times[[0, 9, 99]].tolist() == pytest.approx([1, 100, 10_000], rel=1e-12)


# Cyclical rates


@pytest.mark.parametrize("regime", ["fixed", "range", "triangular", "triangular2", "exp_range"])
def test_rates_follow_smiths_formulas_step_by_step(regime):
    from lightning.pytorch import Callback, Trainer

    from lightning_gap.recipes.experiments import smith_cyclical as made

    rates = []

    class Note(Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    images = torch.utils.data.TensorDataset(torch.rand(32, 3, 32, 32), torch.arange(32) % 10)
    loader = torch.utils.data.DataLoader(images, batch_size=4)
    recipe = made.CyclicC1(regime, channels=2, dense=(4, 4), optimizer="sgd", learning_rate=0.01, small_batch_size=4)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    Trainer(max_epochs=4, accelerator="cpu", logger=False, callbacks=[Note()], **quiet).fit(recipe, loader, loader)
    half = 32 // 8  # four cycles in 32 steps
    wanted = []
    for step in range(32):
        cycle = math.floor(1 + step / (2 * half))
        x = abs(step / half - 2 * cycle + 1)
        height = {"triangular2": 1 / 2 ** (cycle - 1), "exp_range": 0.25 ** (step / 32)}.get(regime, 1.0)
        triangle = made.BASE + (made.MAXIMUM - made.BASE) * max(0, 1 - x) * height
        wanted.append({"fixed": 0.01, "range": made.HIGHEST * (step + 1) / 32}.get(regime, triangle))
    assert rates == pytest.approx(wanted, rel=1e-9)


# Depth and skip connections


def test_a_network_without_skips_adds_nothing():
    """With branches that give zero, a block with its skip is its input's ReLU; without it, nothing is left."""
    from lightning_gap.recipes.experiments.li_skips import SkipNet

    inputs = torch.randn(2, 3, 8, 8)
    scores = {}
    for skips in (True, False):
        torch.manual_seed(0)
        network = SkipNet(width=4, blocks=2, skips=skips).network.eval()
        for block in [module for module in network.modules() if hasattr(module, "bn2")]:
            torch.nn.init.zeros_(block.bn2.weight)
        scores[skips] = network(inputs)
    assert torch.equal(scores[False][0], network.fc.bias)
    assert not torch.equal(scores[True][0], network.fc.bias)
    names = [
        {name for name, _ in SkipNet(width=4, blocks=2, skips=skips).named_parameters()} for skips in (True, False)
    ]
    assert names[1] < names[0]
    assert all("downsample" in name for name in names[0] - names[1])


def test_rise_and_minima_of_surfaces_on_paper():
    from lightning_gap.recipes.experiments.li_skips import minima, rise_at

    at = [i / 50 - 1 for i in range(101)]
    bowl = {"at": at, "losses": [[3 + x * x + y * y for y in at] for x in at]}
    assert [rise_at(bowl, radius) for radius in (0.25, 0.5, 1.0)] == pytest.approx([0.0625, 0.25, 1.0], rel=0.02)
    assert minima(bowl) == 1
    waves = {"at": at, "losses": [[math.cos(5 * math.pi * x) + math.cos(5 * math.pi * y) for y in at] for x in at]}
    assert minima(waves) == 16  # at +-0.2 and +-0.6 of each; +-1 lie on the edge


# Rules for the batch


def test_batch_rules_train_at_three_sizes_and_once_where_all_was_tuned():
    specs = list(experiment("batch-rules").needs(Choice("small", ("c1",), (0,))))
    trained = sorted((spec.hyperparameters["large_batch_size"], spec.regime) for spec in specs)
    rules = ["adaptive-root", "rate-alone", "root-half-life", "unscaled"]
    assert trained == [*((64, rule) for rule in rules), (256, "unscaled"), *((1024, rule) for rule in rules)]
    for spec in specs:
        with torch.device("meta"):
            recipe = spec.recipe(spec.regime, **spec.hyperparameters)
        assert recipe.batch_size == spec.hyperparameters["large_batch_size"]
        callbacks = recipe.configure_callbacks()
        ghosts = [callback.ghost_batch_size for callback in callbacks if isinstance(callback, GhostBatchNormSwap)]
        assert ghosts == ([] if recipe.batch_size == 64 else [64])
        bases = [callback.base_batch_size for callback in callbacks[len(ghosts) :]]
        assert bases == ([] if spec.regime == "unscaled" else [256])


def test_the_spread_over_batch_sizes_is_compared_with_that_of_the_learning_rate_alone():
    spread = {"unscaled": 0.5, "rate-alone": 0.2, "adaptive-root": 0.1, "root-half-life": 0.2}
    noise = random.Random(0)
    jitter = {(rule, seed): noise.uniform(-0.01, 0.01) for rule in spread for seed in range(5)}

    def loss(spec):
        if spec.hyperparameters["large_batch_size"] == 256:
            return 1.0 + spec.seed
        half = (spread[spec.regime] + jitter[spec.regime, spec.seed]) / 2
        return 1.0 + spec.seed + (half if spec.hyperparameters["large_batch_size"] == 64 else -half)

    train, verdict, test, _ = shown("batch-rules", Found(train_loss=loss, test_loss=lambda spec: 0.0), "c1")
    wanted = [[value + jitter[rule, seed] for seed in range(5)] for rule, value in spread.items()]
    assert np.allclose([cell.values for cell in column(train, "spread over batches")], wanted)
    unscaled, alone, adaptive, half_life = column(train, "more than the rate alone")
    assert alone == "-"
    assert np.allclose(adaptive.values, np.subtract(wanted[2], wanted[1]))
    assert [cell.found.sign for cell in (unscaled, adaptive, half_life)] == [1, -1, 0]
    assert "unscaled, more; adaptive-root, less; root-half-life, no difference shown" in verdict.text
    assert {cell.values for cell in column(test, "spread over batches")} == {(0.0,) * 5}


# Terms


def test_terms_are_those_of_the_runs():
    from lightning_gap.recipes.experiments.terms import terms_of

    goyal = terms_of(experiment("goyal-warmup"), Choice("small", ("c1",)))["sgdc1 on cifar10"]
    assert "optimizer sgd, learning_rate 0.01, momentum 0.9, weight_decay 0.0005" in goyal
    assert "seeds 0, 1, 2," in goyal
    figure = terms_of(experiment("keskar-figure-2"), Choice("small", ("c1",)))
    assert "seeds 0, 1, 2," in figure["c1 on cifar10"]
    assert "statistics of each evaluation chunk" in figure["accuracy"]
    smith = terms_of(experiment("smith-curves"), Choice("small", ()))
    assert "running statistics" in smith["accuracy"]
    assert "large_batch_size 6000" in smith["smithf1 on mnist"]


def test_where_the_large_batch_is_no_worse_nothing_is_brought_back():
    accuracy = {"small": 0.60, "large": 0.62, "ghost-lr": 0.61, "sam-late": 0.61}
    found = Found(
        lambda spec: accuracy[spec.regime] + spec.seed / 1000,
        {"other-sharpness": {"adaptive": 1.0, "eigenvalue": 7.0}},
    )
    closing = next(part for part in shown("closes-the-gap", found, "c3") if isinstance(part, Table))
    assert column(closing, "of large's gap back, %") == ["-", "-", "no gap", "no gap"]


def test_the_knee_is_where_a_run_takes_twice_the_fewest_steps():
    critical = import_module("lightning_gap.recipes.experiments.critical_batch")
    found = critical.knee({size: 300 * (1 + 500 / size) for size in (32, 64, 256, 1024, 4096)})
    assert found == pytest.approx((300, 500))
    noisy = critical.knee(
        {size: 300 * (1 + 500 / size) * (1.02 if size > 100 else 0.98) for size in (32, 64, 256, 1024)}
    )
    assert noisy.batch == pytest.approx(500, rel=0.15)


def test_steps_to_a_loss_are_told_between_epochs():
    steps_to = import_module("lightning_gap.recipes.experiments.critical_batch").steps_to
    rows = [{"step": 10, "train_loss": 1.0}, {"step": 20, "train_loss": 0.25}, {"step": 30, "train_loss": 0.1}]
    assert steps_to(rows, 0.5) == pytest.approx(15)  # half of the way in its logarithm
    assert steps_to(rows, 0.1) == pytest.approx(30)
    assert steps_to(rows, 1.5) == 10
    assert math.isnan(steps_to(rows, 0.05))


def test_the_arena_tells_which_schedules_save_steps_for_nothing():
    steps = {"small": 100, "smith": 60, "seesaw": 65, "early-ramp": 40, "late-switch": 90, "norm-test": 50, "large": 25}
    worse = {"seesaw": -0.001, "smith": 0.5, "early-ramp": 0.5, "norm-test": 0.5, "large": 1.0}
    found = Found(
        test_loss=lambda spec: 2.0 + spec.seed / 100 + worse.get(spec.regime, 0.0),
        steps=lambda spec: steps[spec.regime],
    )
    table, remark, _ = shown("arena", found)
    assert remark.text.endswith(": seesaw.")
    by_schedule = dict(zip([row[0] for row in table.rows], column(table, "above constant"), strict=True))
    assert by_schedule["smith: grown for all decay"].values == pytest.approx([0.5] * 8)
