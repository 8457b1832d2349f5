"""What `pip install lightning-gap` may bring along."""

import ast
import re
import subprocess
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


ALONE = """
import sys
from importlib.machinery import PathFinder

extras, tests = set(sys.argv[1].split()), sys.argv[2:]

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in extras else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, *context):
        found = super().find_distributions(*context)
        return (each for each in found if each.metadata["Name"].lower().replace("-", "_") not in extras)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
sys.path[:0] = tests
from pathlib import Path
import kill_points
for cast in kill_points.CASTS:
    folder = Path("runs", cast)
    folder.mkdir(parents=True)
    kill_points.live(folder, cast, kill_points.Point("never"))
    assert (folder / "end.pt").exists()
assert not extras & {name.partition(".")[0] for name in sys.modules}
"""


@pytest.mark.slow
def test_the_core_trains_with_every_callback_without_any_extra(tmp_path):
    """What Lightning itself brings along, as PyYAML, is no extra."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        optional = tomllib.load(file)["project"]["optional-dependencies"]
    modules = {distribution: name for name, distribution in NAMES.items()}
    names = {Requirement(text).name for texts in optional.values() for text in texts} - {"PyYAML"}
    extras = {name.lower().replace("-", "_") for name in (*names, *map(modules.get, names & modules.keys()))}
    assert {"torchvision", "scipy", "ray", "pytorch_optimizer", "sklearn"} <= extras
    tests = [ROOT / "tests", ROOT / "tests" / "contract"]
    command = [sys.executable, "-W", "ignore", "-c", ALONE, " ".join(sorted(extras)), *map(str, tests)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
