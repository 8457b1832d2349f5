"""A run that is stopped anywhere and resumed ends, and logs on its way, bit for bit as if it had not been stopped."""

import random
import signal
import subprocess
import sys
import time

import exact_resume as training
import pytest
import tiny
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint

# Resumed runs save nothing, so the callback that saved is missing in them.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


def assert_goes_on(whole, resumed, step):
    for part in ("weights", "optimizer", "scheduler"):
        assert tiny.same(whole[part], resumed[part]), (part, step)
    assert list(resumed["steps"]) == list(range(step + 1, training.STEPS + 1))
    for later, seen in resumed["steps"].items():
        assert seen == whole["steps"][later], (step, later)


# With workers at a step of each epoch, the last of one among them.
STEPS = [(0, step) for step in range(1, training.STEPS)] + [
    pytest.param(2, step, marks=() if step in (4, 9, 16) else pytest.mark.slow) for step in range(1, training.STEPS)
]


@pytest.fixture(scope="module")
def whole():
    return training.train(None)


@pytest.fixture(scope="module")
def run(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return folder, training.train(folder, workers=request.param), request.param


@pytest.mark.promise("killed")
@pytest.mark.parametrize(("run", "step"), STEPS, indirect=["run"])
def test_it_resumes_from_every_step(run, step):
    folder, whole, workers = run
    resumed = training.train(None, workers=workers, ckpt_path=folder / f"step={step}.ckpt")
    assert_goes_on(whole, resumed, step)


@pytest.mark.parametrize("run", [0, 2], indirect=True)
def test_it_went_through_all_sizes_and_every_sample_once_an_epoch(run):
    steps = run[1]["steps"]
    assert [steps[step]["batch/size"] for step in range(1, 18)] == [32.0] * 9 + [64.0] * 5 + [128.0] * 3
    assert len({steps[step]["lr/scale"] for step in range(1, 18)}) > 10  # the warmup passes two sizes
    for first, last in ((1, 9), (10, 14), (15, 17)):
        seen = [index for step in range(first, last + 1) for order in steps[step]["orders"] for index in order]
        assert sorted(seen) == list(range(training.SAMPLES))


def test_it_resumes_where_lightning_alone_would_start_the_epoch_anew(tmp_path):
    whole = training.train(tmp_path, module=training.WatchesLength())
    for step in (4, 12, 16):
        resumed = training.train(None, module=training.WatchesLength(), ckpt_path=tmp_path / f"step={step}.ckpt")
        assert_goes_on(whole, resumed, step)


def test_a_resumed_run_can_be_resumed_in_its_turn(tmp_path):
    """Lightning alone repeats batches of an epoch whose beginning was a checkpoint after the last batch before it."""
    whole = training.train(tmp_path / "0")
    for turn, step in enumerate((9, 11, 14, 15)):
        resumed = training.train(tmp_path / str(turn + 1), ckpt_path=tmp_path / str(turn) / f"step={step}.ckpt")
        assert_goes_on(whole, resumed, step)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_resumed_run_does_not_replace_its_checkpoint_inside_the_next_step(whole, tmp_path):
    """Lightning alone saves the step again after the first of several micro-batches, whose gradients are lost then."""

    class Ends(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if batch_idx == 1:
                raise RuntimeError("killed")

    training.train(tmp_path, length={"max_epochs": 3, "max_steps": 14})  # the next step is of two micro-batches
    saved = tmp_path / "step=14.ckpt"
    before = saved.read_bytes()
    with pytest.raises(RuntimeError, match="killed"):
        training.train(tmp_path, ckpt_path=saved, others=(Ends(),))
    assert saved.read_bytes() == before
    assert_goes_on(whole, training.train(None, ckpt_path=saved), 14)


def test_it_resumes_into_an_epoch_that_is_longer_than_the_last(tmp_path):
    terms = {"sizes": {0: 96, 1: 32, 2: 64}, "limit": None}
    whole = training.train(tmp_path, **terms)
    for step in (2, 3, 4, 12):
        assert_goes_on(whole, training.train(None, ckpt_path=tmp_path / f"step={step}.ckpt", **terms), step)


@pytest.mark.parametrize("length", [{"max_epochs": -1, "max_steps": 17}, {"max_epochs": 3, "max_steps": 1000}])
@pytest.mark.parametrize("when", [{}, {"every_n_epochs": 1, "save_on_train_epoch_end": True}])
def test_it_resumes_a_run_with_a_limit_of_steps(tmp_path, length, when):
    whole = training.train(tmp_path, length=length, **when)
    for step in (9, 14) if when else (5, 9, 12, 14, 16):
        assert_goes_on(whole, training.train(None, ckpt_path=tmp_path / f"step={step}.ckpt", length=length), step)


@pytest.mark.parametrize("steps", [4, 9, 12])
def test_a_run_that_a_limit_of_steps_has_stopped_goes_on(whole, tmp_path, steps):
    training.train(tmp_path, length={"max_epochs": 3, "max_steps": steps})
    assert_goes_on(whole, training.train(None, ckpt_path=tmp_path / f"step={steps}.ckpt"), steps)


@pytest.mark.parametrize("step", [4, 9, 15])
def test_a_checkpoint_that_an_exception_leaves_behind_goes_on(whole, tmp_path, step):
    """Between two steps, where the run's state is whole."""

    class Fails(Callback):
        def on_train_batch_end(self, trainer, *rest):
            if trainer.global_step == step and not trainer.fit_loop._should_accumulate():
                raise RuntimeError("user's own")

    class Leaves(Checkpoint):  # as Lightning's OnExceptionCheckpoint: after all others
        def on_exception(self, trainer, *rest):
            trainer.save_checkpoint(tmp_path / "left.ckpt")

    with pytest.raises(RuntimeError, match="user's own"):
        training.train(None, others=(Fails(), Leaves()))
    assert_goes_on(whole, training.train(None, ckpt_path=tmp_path / "left.ckpt"), step)


@pytest.mark.parametrize("at_the_end_of", ["training", "validation"])
def test_it_resumes_from_the_ends_of_epochs(tmp_path, at_the_end_of):
    whole = training.train(tmp_path, every_n_epochs=1, save_on_train_epoch_end=at_the_end_of == "training")
    for step in (9, 14):
        assert_goes_on(whole, training.train(None, ckpt_path=tmp_path / f"step={step}.ckpt"), step)


@pytest.mark.promise("killed")
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_process_resumes_to_the_same_end(whole, tmp_path, workers, record_property):
    chance, kills = random.Random(workers), 0
    for _ in range(60):
        process = subprocess.Popen([sys.executable, training.__file__, tmp_path, str(workers)])
        begun = len(list(tmp_path.glob("*.ckpt")))
        while process.poll() is None and len(list(tmp_path.glob("*.ckpt"))) <= begun:
            time.sleep(0.002)
        time.sleep(chance.uniform(0.0, 0.06))  # anywhere in a step, or while a checkpoint is written
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        if (tmp_path / "end.pt").exists():
            break
        for path in list(tmp_path.glob("*.ckpt"))[:-1]:
            assert path.stat().st_size > 0
    end = torch.load(tmp_path / "end.pt")
    assert kills >= 10
    record_property("cases", kills)
    for part in ("weights", "optimizer", "scheduler"):
        assert tiny.same(whole[part], end[part])
