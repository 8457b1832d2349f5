"""What the command prints: examples that work, tables that fit, lines in a pipe, no colour where none is wanted."""

import io
import os
import re
import shlex
import subprocess
import sys
import time

import pytest
from rich.console import Console

from lightning_gap.logging import Column
from lightning_gap.recipes.catalogue import bundled
from lightning_gap.recipes.experiments import experiments
from lightning_gap.recipes.runner import cli, listing, telling
from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.commands import _COMMANDS
from lightning_gap.recipes.runner.examples import EXAMPLES
from lightning_gap.recipes.runner.options import ask
from lightning_gap.recipes.runner.table import _print_on_its_side
from lightning_gap.recipes.runner.watch import progress_bar

TYPED = [typed for found in EXAMPLES.values() for typed, _ in found]


def test_every_command_has_examples_in_its_help(capsys):
    assert set(EXAMPLES) == {"", *_COMMANDS}
    for command in EXAMPLES:
        with pytest.raises(SystemExit) if command != "reproduce" else open(os.devnull):
            main([*command.split(), "--help"])
        told = capsys.readouterr().out
        for typed, _ in EXAMPLES[command]:
            assert f"\n  {typed}\n" in told
            assert len(typed) <= 78


@pytest.mark.parametrize("typed", TYPED)
def test_an_example_is_understood(typed):
    program, command, *words = shlex.split(typed)
    assert program == "lightning-gap"
    if "--help" in words:
        return
    if command in ("run", "compare", "advise", "critical-batch"):
        assert ask(command, "", words).settings.recipe == words[0]
    elif command in ("list", "copy"):
        assert set(words[:1]) <= set(bundled())
    elif command == "reproduce":
        assert words[0] in experiments()
    else:
        assert command in ("report", "doctor")


@pytest.mark.parametrize("command", ["run", "compare", "advise", "critical-batch"])
def test_what_is_required_is_said_to_be_required(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert f"usage: lightning-gap {command} RECIPE " in told
    assert "`lightning-gap list` names it: required" in told
    if command == "run":
        assert "--regime REGIME [options]" in told


def test_without_the_extras_help_says_what_to_install(tmp_path):
    code = "import sys; sys.modules['jsonargparse'] = None; from lightning_gap.recipes.runner.cli import main; main"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit(main(['--help']))"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "jsonargparse" in done.stderr
    assert '\n    pip install "lightning-gap[recipes]"\n' in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_of_our_own_that_is_missing_is_no_question_of_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightning_gap.recipes.runner.commands", None)
    with pytest.raises(ModuleNotFoundError):
        cli.main(["list"])


@pytest.mark.parametrize("length", [5, 40, 100])
def test_a_table_fits_80_columns_with_whole_names(length):
    names = [f"{k}-{'regime-' * 20}"[:length] for k in range(3)]
    columns = [Column("regime", "regime"), Column("accuracy", "learning rate at the end", 2)]
    out = io.StringIO()
    rows = [{"regime": name, "accuracy": [98.0, 97.0]} for name in names]
    _print_on_its_side(Console(file=out, width=80), columns, rows)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in out.getvalue()
    for name in names:
        heads = "".join(line.replace(" ", "") for line in lines)
        assert name.replace(" ", "") in heads


def test_a_list_fits_80_columns_with_whole_names(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    name = "a-regime-" * 12
    listing._print({"regimes": {name: "What it does, in a line that is longer than the room that is left " * 2}})
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 80
    assert name in "".join(line[:41].strip() for line in told.splitlines())


def test_the_bar_fits_80_columns_with_the_whole_name_of_a_run():
    name = "a-regime-with-a-name-of-forty-letters-001, trial 1 of 3"
    bar, out = progress_bar(), io.StringIO()
    for total, done, loss in ((30, "3.0 of 30 epochs", "train loss 0.2347"), (None, "measuring the final weights", "")):
        bar.add_task(name, total=total, completed=3, loss=loss, done=done)
    Console(file=out, width=80).print(bar.get_renderable())
    lines = out.getvalue().splitlines()
    assert "…" not in out.getvalue()
    assert max(map(len, lines)) <= 80
    first = "".join(re.split(r" [━╸╺]|  ", line)[0] for line in lines)  # the column of the names
    assert first.replace(" ", "").count(name.replace(" ", "")) == 2
    assert {"measuring", "weights", "loss", "0.2347"} <= set(" ".join(lines).split())


def test_no_color_leaves_colours_out():
    code = "from lightning_gap.recipes.runner.cli import main; main(['list'])"
    options = {"capture_output": True, "text": True, "check": True}
    forced = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm-256color"}
    plain = subprocess.run([sys.executable, "-c", code], env=forced | {"NO_COLOR": "1"}, **options).stdout
    assert not any(f"\x1b[{colour}m" in plain for colour in [*range(30, 38), *range(90, 98)])
    assert "38;" not in plain


def test_lines_come_after_two_seconds_and_then_ever_more_rarely(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(telling.time, "perf_counter", lambda: now[0])
    lines, at = telling.Lines(), []
    for second in range(200):
        now[0] = float(second)
        lines.tell(f"{second}")
        if capsys.readouterr().err:
            at.append(second)
    assert at == [2, 6, 14, 30, 62, 122, 182]


def test_what_is_over_before_two_seconds_says_nothing(monkeypatch, capsys):
    console = Console(file=io.StringIO())
    with telling.saying(console, "soon over"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(telling, "FIRST", 0.01)
    with telling.saying(console, "long"):
        time.sleep(0.3)
    assert capsys.readouterr().err == "long ...\n"


def test_what_comes_next_is_said_in_place_of_what_was_done(monkeypatch, capsys):
    with telling.saying(Console(file=io.StringIO()), "first") as say:  # over before two seconds
        monkeypatch.setattr(telling, "FIRST", 0.01)
        say("second")
        time.sleep(0.3)
    assert capsys.readouterr().err == "second ...\n"
    shown = io.StringIO()
    with telling.saying(Console(file=shown, force_terminal=True), "first") as say:
        say("second")
    assert "second" in shown.getvalue()


def test_in_a_pipe_what_takes_long_is_said_by_lines_on_stderr_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(telling, "FIRST", 0.0)
    monkeypatch.setattr(telling, "LONGEST", 0.0)
    size = ["--epochs", "2", "--width", "8", "--depth", "1", "--epsilon", "[1e-3]", "--sharpness_samples", "100"]
    assert main(["run", "f1", "--regime", "large", *size, "--output", str(tmp_path / "run")]) == 0
    told = capsys.readouterr()
    assert "large: 1.0 of 2 epochs\n" in told.err
    assert "large: measuring the final weights\n" in told.err
    assert "of 2 epochs" not in told.out
    assert "measuring the final" not in told.out
