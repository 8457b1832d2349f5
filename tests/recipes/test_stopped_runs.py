"""Runs that are stopped, whose files are damaged, or that diverge: what is left, what is said, and how they go on."""

import os
import shlex
import shutil
import signal
import sys
from contextlib import redirect_stderr
from io import StringIO
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lightning_gap.recipes import Digits
from lightning_gap.recipes.runner.checkpoints import WholeFiles, newest_checkpoint
from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.records import read_record
from lightning_gap.recipes.runner.stopping import StoppedError, exit_status, kept, stoppable

QUICK = [
    "--epochs",
    "3",
    "--small_batch_size",
    "256",
    "--epsilon",
    "[1e-3]",
    "--width",
    "8",
    "--depth",
    "1",
]


DIVERGES = ["--optimizer", "sgd", "--learning_rate", "1e38"]


def run(folder, *options):
    return ["run", "f1", "--regime", "small", *QUICK, "--output", str(folder), *options]


def outcome(folder):
    return read_record(folder / "runs/small/trial-1/outcome.json") | {"seconds": 0}


def stopped_after(epochs, folder, how, *options):
    """A run that is told to stop in an epoch's first batch; its status."""
    from lightning_gap.recipes.runner.watch import Watch

    def on_train_batch_end(self, trainer, *rest):
        if trainer.current_epoch == epochs:
            how()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Watch, "on_train_batch_end", on_train_batch_end)
        return main(run(folder, *options))


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt():
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped, whose checkpoints were written beside where they go and renamed."""
    folder, written = tmp_path_factory.mktemp("whole") / "run", []
    save = WholeFiles.save_checkpoint

    def note(self, checkpoint, path, *rest, **options):
        written.append(path)
        save(self, checkpoint, path, *rest, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(WholeFiles, "save_checkpoint", note)
        patched.setattr(TorchCheckpointIO, "save_checkpoint", lambda *_, **__: pytest.fail("moved from elsewhere"))
        assert main(run(folder)) == 0
    assert len(written) == 3
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that SIGTERM stopped in its third epoch, where no other run has been, and what it said."""
    folder, before = tmp_path_factory.mktemp("stopped") / "run", signal.getsignal(signal.SIGTERM)
    with redirect_stderr(StringIO()) as said:
        assert stopped_after(2, folder, terminate) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    return folder, said.getvalue()


@pytest.fixture
def interrupts():
    """Lightning ignores Ctrl-C from the first one on."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def told_to_resume(folder):
    return (
        "lightning-gap run: stopped; kept: small up to epoch=1.ckpt; resume with the same command and "
        f"--output {folder} --resume\n"
    )


def test_a_run_that_is_told_to_stop_says_what_is_kept_and_does_not_look_finished(stopped):
    folder, said = stopped
    assert said == told_to_resume(folder)
    assert not (folder / "runs/small/trial-1/outcome.json").exists()


@pytest.mark.usefixtures("interrupts")
def test_a_run_that_has_diverged_and_is_interrupted_goes_on_with_nan_in_its_row(tmp_path, capsys):
    folder = tmp_path / "run"
    assert stopped_after(2, folder, interrupt, *DIVERGES) == 130
    assert capsys.readouterr().err.splitlines()[-1] == told_to_resume(folder).rstrip()
    assert main(run(folder, *DIVERGES, "--resume")) == 0
    assert str(outcome(folder)["sharpness"]["1e-3"]) == str(outcome(folder)["train_loss"]) == "nan"


def test_a_folder_with_a_space_can_be_resumed_by_the_line_as_it_stands(tmp_path):
    folder = tmp_path / "it's my run"
    folder.mkdir()
    options = kept(SimpleNamespace(output=folder, runs=list)).rpartition("the same command and ")[2]
    assert shlex.split(options) == ["--output", str(folder), "--resume"]


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("how", [terminate, interrupt])
def test_stopped_before_it_trains_it_leaves_nothing(how, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Digits, "read", lambda self: how())
    assert main(run(tmp_path / "run")) in (130, 143)
    assert capsys.readouterr().err == "lightning-gap run: stopped before anything was trained\n"
    assert not (tmp_path / "run").exists()


def test_after_an_exit_of_the_users_own_the_status_is_the_users(tmp_path):
    with pytest.raises(SystemExit) as left:
        stopped_after(0, tmp_path / "run", lambda: sys.exit(7))
    assert left.value.code == 7
    assert exit_status(left.value) is None


def test_a_forked_worker_dies_of_the_signal_itself():
    with stoppable():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        with pytest.raises(StoppedError):
            terminate()


def torn(path, file, length=0.5):
    content = file.read_bytes()
    path.write_bytes(content[: int(len(content) * length)])


@pytest.mark.promise("damaged")
def test_a_torn_checkpoint_is_passed_over_with_a_warning_for_the_whole_one_before_it(whole, stopped, tmp_path, capsys):
    folder = shutil.copytree(stopped[0], tmp_path / "run")
    saved = folder / "runs/small/trial-1"
    torn(saved / "epoch=2.ckpt", saved / "epoch=1.ckpt")
    (saved / "epoch=3.ckpt").write_bytes(b"")
    torch.save({"global_step": 99}, saved / "epoch=4.ckpt")  # of something else
    torn(saved / "epoch=5.ckpt.partial", saved / "epoch=1.ckpt", 0.9)  # as a kill leaves it
    assert main(run(folder, "--resume")) == 0
    (warning,) = capsys.readouterr().err.strip().splitlines()
    assert warning.startswith("warning: the checkpoint ")
    assert all(f"epoch={epoch}.ckpt' cannot be read" in warning for epoch in (2, 3, 4))
    assert "passed over; the run goes on from epoch=1.ckpt" in warning
    assert outcome(folder) == outcome(whole)
    assert not [path for path in saved.iterdir() if "ckpt" in path.name]


@pytest.mark.promise("damaged")
@pytest.mark.parametrize("length", [0.01, 0.3, 0.7, 0.999])
def test_where_all_are_torn_the_error_is_one_line_that_names_them(length, tmp_path):
    checkpoint = {"global_step": 3, "state_dict": {}, "loops": {}, "optimizer_states": [], "callbacks": {}}
    torch.save(checkpoint | {"weights": torch.zeros(5000)}, tmp_path / "epoch=1.ckpt")
    assert newest_checkpoint(tmp_path) == tmp_path / "epoch=1.ckpt"
    torn(tmp_path / "epoch=1.ckpt", tmp_path / "epoch=1.ckpt", length)
    with pytest.raises(ValueError, match=r"epoch=1.ckpt' cannot be read .* there is no other; delete it") as error:
        newest_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.promise("damaged")
def test_a_checkpoint_of_another_network_is_named(stopped, tmp_path, capsys):
    folder = shutil.copytree(stopped[0], tmp_path / "run")
    file = folder / "runs/small/trial-1/epoch=1.ckpt"
    checkpoint = torch.load(file)
    wider = {name: torch.cat([weight, weight]) for name, weight in checkpoint["state_dict"].items() if weight.ndim}
    torch.save(checkpoint | {"state_dict": checkpoint["state_dict"] | wider}, file)
    assert main(run(folder, "--resume")) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "size mismatch for network." in line
    assert f"resumed from {str(file)!r}" in line
    assert "delete it" in line
    assert file.exists()


@pytest.mark.promise("killed saving")
def test_a_checkpoint_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    writer, file = WholeFiles(), tmp_path / "new" / "epoch=1.ckpt"
    writer.save_checkpoint({"value": torch.ones(3)}, file)
    assert writer.load_checkpoint(file)["value"].tolist() == [1, 1, 1]

    def full(_, path):
        path.write_bytes(b"half of it")
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"epoch=1.ckpt' cannot be written .*; make room, and resume with --resume"):
        writer.save_checkpoint({"value": torch.zeros(3)}, file)
    monkeypatch.undo()
    assert [path.name for path in file.parent.iterdir()] == ["epoch=1.ckpt"]
    assert writer.load_checkpoint(file)["value"].tolist() == [1, 1, 1]
