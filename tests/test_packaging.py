"""What a distribution holds, and what it says of itself."""

import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tracked():
    found = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("not a git checkout")
    return [name for name in found.stdout.splitlines() if (ROOT / name).exists()]


def test_the_source_distribution_holds_every_file_of_the_repository(tracked, tmp_path):
    """Tests, their helpers, documents, changelog and citation too, built without a network."""
    for name in tracked:  # a copy: building writes into the folder
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "source" / name)
    build = "import setuptools.build_meta as backend; backend.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path / "source", check=True, capture_output=True)
    with tarfile.open(next((tmp_path / "source" / "dist").glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert not [name for name in tracked if name not in held]
    assert not [name for name in held if "__pycache__" in name]


def test_every_package_is_listed(tracked):
    """A folder that is not listed would be missing from the wheel, and only there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    folders = {str(Path(name).parent).replace("/", ".") for name in tracked if name.endswith(".py")}
    packages = {name for name in folders if name.split(".")[0] == "lightning_gap"}
    packages |= {f"lightning_gap.{name}" for name in folders if name.split(".")[0] == "recipes"}
    assert listed == packages


def test_the_links_of_the_project_are_those_of_the_citation():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = re.findall(r"^    url: (\S+)", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(project["urls"].values()) >= set(cited)
    assert all(len(label) <= 32 for label in project["urls"])  # an index accepts no longer ones
