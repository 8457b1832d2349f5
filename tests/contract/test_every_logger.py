"""Every monitor under every kind of logger: the same keys and values arrive in each, and in none nothing breaks."""

import csv
import math
import re
from functools import cache

import pytest
import tiny
import torch
from contract.registry import REGISTRY
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger, rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

MONITORS = sorted(name for name, entry in REGISTRY.items() if entry.is_monitor)


class Recording(Logger):
    """What loggers of Lightning have in common. Keeps each value as its service would."""

    version = "0"

    def __init__(self):
        self.found = {}
        self.figures = []

    @property
    def name(self):
        return type(self).__name__

    def log_hyperparams(self, params, *_):
        pass

    def keep(self, key, value, step):
        self.found.setdefault(key, []).append((step, value))


class WandbStyle(Recording):
    """Weights & Biases: a dict for each call, whose step is one of its values, and pictures by `log_image`."""

    class Run:
        def __init__(self, logger):
            self.logger = logger

        def log(self, values):
            step = values.pop("trainer/global_step")
            for key, value in values.items():
                assert isinstance(key, str)
                self.logger.keep(key, float(value), step)

    @property
    @rank_zero_experiment
    def experiment(self):
        return self.Run(self)

    @rank_zero_only
    def log_metrics(self, metrics, step=None):
        self.experiment.log({**metrics, "trainer/global_step": step})

    def log_image(self, key, images, step=None):
        self.figures.append((key, [type(image).__name__ for image in images]))


class MLflowStyle(Recording):
    """MLflow: a client that is told the run, takes some letters in keys and finite numbers or NaN, and figures."""

    run_id = "run-1"

    class Client:
        def __init__(self, logger):
            self.logger = logger

        def log_metric(self, run_id, key, value, step):
            assert run_id == "run-1"
            assert re.fullmatch(r"[\w\-. /:]+", key), key
            self.logger.keep(key, float(value), step)

        def log_figure(self, run_id, figure, file):
            assert run_id == "run-1"
            self.logger.figures.append((file.removesuffix(".png"), [type(figure).__name__]))

    @property
    @rank_zero_experiment
    def experiment(self):
        return self.Client(self)

    @rank_zero_only
    def log_metrics(self, metrics, step=None):
        for key, value in metrics.items():
            self.experiment.log_metric(self.run_id, key, value, step)


KINDS = ("none", "csv", "wandb", "mlflow", "several")


@cache
def fitted(kind, folder):
    """One fit with all monitors: what arrived in each logger, and what callbacks can see."""
    loggers = {"wandb": [WandbStyle()], "mlflow": [MLflowStyle()], "csv": [CSVLogger(folder, name="", version=kind)]}
    loggers["several"] = [WandbStyle(), CSVLogger(folder, name="", version=kind), MLflowStyle()]
    torch.manual_seed(0)
    trainer = tiny.trainer(*(REGISTRY[name].make() for name in MONITORS), logger=loggers.get(kind, False), max_epochs=3)
    trainer.fit(tiny.Validated(), tiny.loader(), tiny.loader(24, seed=2))
    return [read(logger) for logger in trainer.loggers], trainer.callback_metrics


def read(logger):
    if isinstance(logger, Recording):
        return logger.found
    with open(f"{logger.log_dir}/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {key: [(int(row["step"]), float(row[key])) for row in rows if row[key]] for key in rows[0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("logs")


@pytest.mark.promise("loggers")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MONITORS)
def test_every_key_of_a_monitor_arrives_with_its_values(name, kind, folder):
    arrived, seen = fitted(kind, folder)
    (reference, *_), _ = fitted("wandb", folder)
    assert len(arrived) == {"none": 0, "several": 3}.get(kind, 1)
    for key in REGISTRY[name].keys:
        assert key in seen
        for found in arrived:
            steps, values = zip(*found[key], strict=True)
            assert list(steps) == sorted(set(steps)), "a step is written once, none before an earlier one"
            expected = [value for _, value in reference[key]]
            assert values == pytest.approx(expected, rel=1e-6, nan_ok=True)
            assert values[-1] == pytest.approx(float(seen[key]), rel=1e-6, nan_ok=True)
            assert not all(map(math.isnan, values)), key


@pytest.mark.parametrize("kind", ["wandb", "mlflow"])
def test_a_figure_arrives_too(kind):
    logger = {"wandb": WandbStyle, "mlflow": MLflowStyle}[kind]()
    trainer = tiny.trainer(REGISTRY["SharpnessMonitor"].make(), logger=logger)
    trainer.fit(tiny.Validated(), tiny.loader(), tiny.loader(24, seed=2))
    assert logger.figures == [("sharpness/against_loss", ["Figure"])]


@pytest.mark.slow
def test_every_key_arrives_in_the_services_own_loggers(tmp_path, monkeypatch):
    for package in ("wandb", "mlflow"):
        pytest.importorskip(package, reason="needs pip install wandb mlflow-skinny")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = MLFlowLogger(tracking_uri=f"file:{tmp_path}/mlruns")
    wandb = WandbLogger(save_dir=tmp_path, offline=True)
    torch.manual_seed(0)
    monitors = (REGISTRY[name].make() for name in MONITORS)
    tiny.trainer(*monitors, logger=[wandb, mlflow], max_epochs=3).fit(
        tiny.Validated(), tiny.loader(), tiny.loader(24, seed=2)
    )
    (reference, *_), _ = fitted("wandb", tmp_path)
    for key in set().union(*(REGISTRY[name].keys for name in MONITORS)):
        steps, values = zip(*reference[key], strict=True)
        found = mlflow.experiment.get_metric_history(mlflow.run_id, key)
        assert [each.step for each in found] == list(steps)
        assert [each.value for each in found] == pytest.approx(values, rel=1e-6, nan_ok=True)
        assert float(wandb.experiment.summary[key]) == pytest.approx(values[-1], rel=1e-6, nan_ok=True)
    wandb.experiment.finish()
    assert len(list(tmp_path.glob("wandb/offline-run-*/files/media/images/sharpness/against_loss*.png"))) == 1
    assert len(list(tmp_path.glob("mlruns/*/*/artifacts/sharpness/against_loss.png"))) == 1


class Full(WandbStyle):
    def log_image(self, **_):
        raise OSError("disk full")


def test_what_does_not_arrive_is_said_once_with_the_reason():
    logger = Full()
    trainer = tiny.trainer(REGISTRY["SharpnessMonitor"].make(), logger=logger, max_epochs=3)
    with pytest.warns(UserWarning, match=r"Full .* sharpness/against_loss: disk full") as told:
        trainer.fit(tiny.Validated(), tiny.loader(), tiny.loader(24, seed=2))
    assert sum("Full" in str(warning.message) for warning in told) == 1
    assert REGISTRY["SharpnessMonitor"].keys <= set(logger.found)
