"""What `pip install lightning-gap` may bring along."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
COMPROMISED = ("2.6.2", "2.6.3")  # advisory GHSA-w37p-236h-pfx3


def requirements():
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)
    groups = [project["project"]["dependencies"], *project["project"]["optional-dependencies"].values()]
    return [Requirement(text) for group in [*groups, project["dependency-groups"]["dev"]] for text in group]


@pytest.mark.parametrize("version", COMPROMISED)
@pytest.mark.parametrize("name", ["lightning", "pytorch-lightning"])
def test_compromised_releases_of_lightning_are_never_installed(name, version):
    named = [requirement for requirement in requirements() if requirement.name == name]
    assert named
    assert not any(Version(version) in requirement.specifier for requirement in named)
    assert all(Version("2.6.6") in requirement.specifier for requirement in named)


def test_the_constraints_hold_no_compromised_release():
    pins = dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE))
    assert pins["lightning"] not in COMPROMISED
    assert pins["pytorch-lightning"] not in COMPROMISED
