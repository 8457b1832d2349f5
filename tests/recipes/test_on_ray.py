"""Runs on a Ray cluster: a real one, of two workers on this machine."""

import sys

import pytest

from lightning_gap.recipes.runner.cli import main
from lightning_gap.recipes.runner.records import read_record

WORDS = ["reproduce", "keskar-table-2", "--scale", "tiny", "--networks", "f1", "--seeds", "0"]


def outcomes(folder):
    return {file.parent.name: read_record(file) | {"seconds": 0} for file in folder.glob("runs/*/outcome.json")}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_cluster_gives_the_numbers_of_this_process(tmp_path, capsys):
    pytest.importorskip("ray")
    assert main([*WORDS, "--output", str(tmp_path / "here")]) == 0
    assert main([*WORDS, "--output", str(tmp_path / "ray"), "--ray", "local", "--workers", "2"]) == 0
    assert len(outcomes(tmp_path / "ray")) == 2
    assert outcomes(tmp_path / "ray") == outcomes(tmp_path / "here")
    capsys.readouterr()
    assert main([*WORDS, "--output", str(tmp_path / "ray"), "--data_dir", "none", "--ray", "local"]) == 0
    assert "2 of 2 runs and measurements are there" in capsys.readouterr().out


def test_without_ray_it_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*WORDS, "--output", str(tmp_path), "--ray", "auto"]) == 2
    assert "lightning-gap[cluster]" in capsys.readouterr().err
    assert not list(tmp_path.rglob("outcome.json"))
