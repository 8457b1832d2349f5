"""The critical batch by branching: branches against plain loops, and the command."""

import json
import re

import pytest
from torch.nn.functional import cross_entropy

from lightning_gap.recipes.critical_batch import branching
from lightning_gap.recipes.critical_batch.branching import EVALUATED, Fork, branch, train_up_to
from lightning_gap.recipes.critical_batch.search import Search, search
from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.options import ask
from lightning_gap.recipes.runner.plan import make_plan
from lightning_gap.recipes.runner.quiet import spoken_plainly

WORDS = ["f1", "--data", "digits", "--width", "8", "--depth", "1", "--epochs", "4", "--trainer.precision", "64-true"]


def plan(tmp_path, *words):
    return make_plan(ask("critical-batch", "", [*WORDS, *words, "--output", str(tmp_path)]).settings)


@pytest.mark.parametrize(("optimizer", "factor", "rate"), [("sgd", 1, 1.0), ("sgd", 4, 4.0), ("adam", 4, 2.0)])
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_a_branch_is_a_plain_loop_from_the_fork(optimizer, factor, rate, tmp_path):
    asked = plan(tmp_path, "--optimizer", optimizer, *(["--momentum", "0.9"] if optimizer == "sgd" else []))
    with spoken_plainly():
        train_up_to(asked, {20: tmp_path / "fork-20.pt"})
        fork = Fork.load(tmp_path / "fork-20.pt")
        found = branch(asked, fork, factor, 4 * 128, trial=0)
    recipe = asked.recipe("small", 0).double()
    recipe.network.load_state_dict(fork.state["network"])
    stepping = recipe.configure_optimizers()
    stepping.load_state_dict(fork.state["optimizers"][0])
    recipe.batch_size = 32 * factor
    data = asked.data(recipe, 1000)
    for position, (inputs, targets) in enumerate(data.train_dataloader()):
        if position == 4 * 128 // (32 * factor):
            break
        stepping.zero_grad()
        cross_entropy(recipe.train()(inputs.double()), targets).backward()
        for group in stepping.param_groups:
            group["lr"] = 0.05 * rate
        stepping.step()
    inputs, targets = data.train.whole()
    assert len(targets) < EVALUATED
    assert found == pytest.approx(cross_entropy(recipe.eval()(inputs.double()), targets).item(), rel=1e-10)
    assert fork.step == 20
    assert fork.samples == 640


def test_what_may_take_long_is_said_before_it_begins(tmp_path, monkeypatch):
    said, measured = [], branching.measured_noise
    monkeypatch.setattr(branching, "measured_noise", lambda *given: said.append("measured") or measured(*given))
    asked = plan(tmp_path)
    shape = Search.of(asked, at=[0.1, 0.2], factors=[1, 2], samples=None, tolerance=0.01)
    with spoken_plainly():
        list(search(asked, shape, said.append))
    way = "training the small batch"
    branches = [
        f"training the branch at step {step}, batch x {factor}, trial 1" for step in (16, 32) for factor in (1, 2)
    ]
    noise = [[f"measuring the noise scale after {step} steps", "measured", way] for step in (16, 32)]
    assert said == [way, *noise[0], *noise[1], *branches]


def test_the_command_goes_on_where_it_was_stopped_and_says_what_it_costs(tmp_path, capsys):
    words = ["critical-batch", *WORDS, "--factors", "[1,4]", "--at", "[0.25,0.5]", "--output", str(tmp_path / "out")]
    assert main(words) == 0
    told = " ".join(capsys.readouterr().out.split())
    samples = round(4 * 1280 / 10 / 128) * 128
    assert f"4 branches of {samples} samples" in told
    assert f"{100 * (0.5 + 4 * samples / (4 * 1280)):.0f} % of the samples of one run" in told
    assert "After 25 %: critical batch" in told
    assert "noise scale" in told
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.*")}
    losses = {file.name: json.loads(file.read_text())["loss"] for file in files if file.name.startswith("branch")}
    assert len(losses) == 4
    next(file for file in files if file.name.startswith("branch-40-4")).unlink()
    assert main(words) == 0
    again = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.*")}
    assert [file.name for file in files if files[file] != again[file]] == ["branch-40-4-0.json"]
    assert losses == {name: json.loads((tmp_path / "out" / name).read_text())["loss"] for name in losses}
    assert main([*words, "--seed", "1"]) == 2
    assert "made with other settings: seed; choose another --output" in capsys.readouterr().err
    (tmp_path / "out" / "fork-40.pt").write_bytes(b"torn")
    assert main(words) == 2
    assert "fork-40.pt' cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--factors", "[2,4]"], "factors must begin with 1"),
        (["--factors", "[1]"], "factors must begin with 1 and have others"),
        (["--factors", "[1,8,4]"], "factors must rise, got 1 8 4"),
        (["--factors", "[1,100]"], "factors=100 makes a batch of 3200, more than the 1280 training samples"),
        (["--at", "[1.5]"], "at.* must be .* below 1, got 1.5"),
        (["--samples", "100"], "samples=100 is less than 4 steps of the largest batch, 512; use at least 2048"),
        (["--at", "[0.1,0.7]"], r"at=0.7 leaves 1,536 .*, fewer than the 2,048 of a branch.* at most at 0.6,"),
        (["--samples", "6000"], "branches of 6,144 samples are no shorter than the run of 5,120"),
        (["--tolerance", "-1"], "tolerance must be .* got -1"),
    ],
)
def test_options_that_cannot_work_are_refused_before_anything_is_trained(words, message, tmp_path, capsys):
    assert main(["critical-batch", *WORDS, *words, "--output", str(tmp_path / "out")]) == 2
    told = capsys.readouterr()
    assert re.search(message, told.err)
    assert "branches" not in told.out
