"""The contributor's door: what CONTRIBUTING, the hosted CI and the hooks say is what the Makefile does."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
JOB = WORKFLOW["jobs"]["check-and-test"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_hosted_ci_runs_the_two_commands_and_nothing_else():
    assert [step["run"] for step in JOB["steps"] if "run" in step] == ["make check", "make test"]


def test_hosted_ci_builds_the_site_and_tries_links_to_the_web_on_a_schedule_only():
    steps = {
        step["run"].partition(" #")[0]: step.get("if") for step in WORKFLOW["jobs"]["docs"]["steps"] if "run" in step
    }
    assert steps == {
        "make docs": None,
        ".venv/bin/pytest -m slow tests/test_documents.py": None,
        "make docs-links": "github.event_name == 'schedule'",
    }
    assert WORKFLOW[True]["schedule"]  # YAML reads the key `on` as a truth value


def test_hosted_ci_runs_on_the_oldest_the_recorded_and_the_newest_versions():
    versions = JOB["strategy"]["matrix"]["include"]
    assert [entry["constraints"] for entry in versions] == [".ci/floors.txt", "constraints.txt", ".ci/newest.txt"]
    assert all((ROOT / entry["constraints"]).exists() for entry in versions)
    assert f">={versions[0]['python']}" == PROJECT["project"]["requires-python"]
    assert JOB["env"]["CONSTRAINTS"] == "${{ matrix.constraints }}"
    assert "--constraint $(CONSTRAINTS)" in MAKEFILE
    pins = re.findall(r"^\w.*$", (ROOT / ".ci" / "newest.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert not pins


@pytest.mark.parametrize("name", ["torch", "lightning", "pytorch-lightning", "torchmetrics"])
def test_the_floors_are_the_oldest_versions_that_the_project_allows(name):
    needed = [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["dev"]]
    allowed = next(Requirement(text).specifier for text in needed if Requirement(text).name == name)
    floor = next(part.version for part in allowed if part.operator == ">=")
    pin = re.search(rf"^{name}==(\S+)", (ROOT / ".ci" / "floors.txt").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert pin
    assert SpecifierSet(f"=={floor}").contains(pin[1])


def test_the_hooks_check_what_make_check_checks():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    for hook in hooks:
        command = hook["entry"].removeprefix(".venv/bin/").removesuffix(" --force-exclude")
        assert f"$(BIN)/{command}" in MAKEFILE, command


@pytest.mark.parametrize(
    ("page", "needed"),
    [
        ("README.md", {"demo", "test"}),
        ("CONTRIBUTING.md", {"check", "test", "test-all", "test-floor", "test-newest", "format", "clean"}),
    ],
)
def test_the_commands_of_the_door_are_targets_extras_and_files(page, needed):
    text = (ROOT / page).read_text(encoding="utf-8")
    shell = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
    targets = set(re.findall(r"make (?:\w+=\S+ )*([\w-]+)", shell)) | set(re.findall(r"`make ([\w-]+)`", text))
    assert needed <= targets
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, flags=re.MULTILINE), target
    for extras in re.findall(r"pip install \"\.\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= set(PROJECT["project"]["optional-dependencies"])
    for file in re.findall(r"(?:tests|docs|\.ci)/[\w/.-]+\.\w+", shell):
        assert (ROOT / file).exists(), file


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda p: p.stem)
def test_an_issue_form_asks_for_something_and_says_why(form):
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(content)
    for question in content["body"]:
        assert question["type"] in ("input", "textarea", "dropdown", "checkboxes")
        assert question["attributes"]["label"]
        assert question["attributes"]["description"]
    assert any(question["validations"]["required"] for question in content["body"])
