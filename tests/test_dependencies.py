"""What `pip install lightning-gap` may bring along."""

import ast
import re
import sys
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


NAMES = {
    "yaml": "PyYAML",
    "sklearn": "scikit-learn",
}  # where a library is imported by another name than it is installed


@pytest.mark.parametrize(("folder", "extras"), [("lightning_gap", ()), ("recipes", ("recipes",))])
def test_what_is_imported_at_the_top_of_a_file_is_declared(folder, extras):
    with open(ROOT / "pyproject.toml", "rb") as file:
        project = tomllib.load(file)["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    declared = {Requirement(text).name.replace("-", "_") for text in texts}
    ours = {"lightning_gap", *sys.stdlib_module_names}
    for file in (ROOT / folder).rglob("*.py"):
        for statement in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in statement.names] if isinstance(statement, ast.Import) else []
            if isinstance(statement, ast.ImportFrom) and not statement.level:
                names = [statement.module]
            for name in {name.partition(".")[0] for name in names} - ours:
                assert NAMES.get(name, name).replace("-", "_") in declared, f"{file}: {name}"
