import sys

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_gap.logging import log_figure, sharpness_figure


def draw():
    return sharpness_figure([1.0, 0.1], {"full_eps1e-3": [2.0, 20.0]}, steps=[10, 20])


def test_tensorboard_gets_the_figure_at_its_step(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="", version="")
    log_figure([logger], "sharpness/against_loss", draw, step=7)
    logger.experiment.flush()
    (event,) = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload().Images("sharpness/against_loss")
    assert event.step == 7
    assert event.width > 300


def test_a_logger_with_a_folder_gets_a_file(tmp_path):
    logger = CSVLogger(tmp_path)
    log_figure([logger], "sharpness/against_loss", draw, step=7)
    (file,) = tmp_path.rglob("sharpness-against_loss.png")
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.bad_input(61)
@pytest.mark.parametrize(
    "name", ["Übung 実験 №1", "a" * 200, "two words/and a folder"], ids=["letters", "long", "nested"]
)
def test_a_folder_of_any_name_gets_the_file(name, tmp_path):
    logger = CSVLogger(tmp_path / name)
    log_figure([logger], "sharpness/against_loss", draw, step=7)
    (file,) = (tmp_path / name).rglob("sharpness-against_loss.png")
    assert file.read_bytes().startswith(b"\x89PNG")


def test_a_logger_of_images_gets_the_figure():
    class Images:
        experiment = object()

        def log_image(self, key, images, step):
            self.seen = key, images[0], step

    logger = Images()
    log_figure([logger], "a/b", draw, step=3)
    key, image, step = logger.seen
    assert (key, step) == ("a/b", 3)
    assert type(image).__name__ == "Figure"


@pytest.mark.bad_input(61)
def test_a_logger_that_fails_ends_no_run(tmp_path):
    class Fails:
        experiment = object()

        def log_image(self, **_):
            raise OSError("disk full")

    with pytest.warns(UserWarning, match="Fails did not take the figure a/b: disk full"):
        log_figure([Fails(), CSVLogger(tmp_path)], "a/b", draw, step=3)
    assert list(tmp_path.rglob("a-b.png"))


def test_mlflow_gets_the_figure_for_its_run():
    class Client:
        def log_figure(self, run_id, figure, file):
            self.seen = run_id, type(figure).__name__, file

    class MLflow:
        experiment, run_id = Client(), "run-1"

    log_figure([MLflow()], "a/b", draw, step=3)
    assert MLflow.experiment.seen == ("run-1", "Figure", "a/b.png")


def test_without_loggers_or_without_matplotlib_nothing_is_drawn(tmp_path, monkeypatch):
    def fails():
        raise AssertionError("drawn for nobody")

    log_figure([], "a/b", fails, step=1)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    log_figure([CSVLogger(tmp_path)], "a/b", draw, step=1)
    assert not list(tmp_path.rglob("*.png"))


def test_points_that_no_logarithm_has_are_left_out():
    figure = sharpness_figure(
        [1.0, float("nan"), 0.5, 0.2], {"a": [2.0, 3.0, 0.0, 5.0], "b": [float("nan")] * 4}, steps=[1, 2, 3, 4]
    )
    (line,) = figure.axes[0].lines
    assert list(line.get_xdata()) == [1.0, 0.2]
    assert list(line.get_ydata()) == [2.0, 5.0]
    assert [text.get_text() for text in figure.axes[0].texts] == ["step 1", "step 4"]


def test_without_matplotlib_the_figure_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"install lightning-gap\[recipes\]"):
        draw()
