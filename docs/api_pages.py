"""Write the API reference: a page for each package, every public name once. What it says is in the docstrings."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any

from lightning.pytorch import Callback

# A name that several packages give is described on the page of the last, its own subject.
AREAS = {
    "lightning_gap": "Callbacks",
    "lightning_gap.data": "Loaders",
    "lightning_gap.functional": "Functions",
    "lightning_gap.logging": "Figures and tables",
    "lightning_gap.recipes": "Recipes",
    "lightning_gap.recipes.datasets": "Data sets",
    "lightning_gap.recipes.networks": "Networks",
    "lightning_gap.recipes.own_model": "Your own model",
    "lightning_gap.recipes.doctor": "The doctor",
    "lightning_gap.recipes.reports": "Reports",
}
METHODS = Path(__file__).parent / "methods"


def public_names(package: str) -> list[str]:
    """What a package gives: the names that its file imports as themselves, read without importing them."""
    spec = find_spec(package)
    assert spec is not None, package
    assert spec.origin is not None, package
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    found = [alias for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
    return sorted({each.name for each in found if each.asname == each.name and not each.name.startswith("_")})


@cache
def places() -> dict[tuple[str, str], str]:
    """The package on whose page each public name is described, by package and name."""
    owner: dict[int, str] = {}
    for package in AREAS:
        owner |= {id(getattr(import_module(package), name)): package for name in public_names(package)}
    return {
        (package, name): owner[id(getattr(import_module(package), name))]
        for package in AREAS
        for name in public_names(package)
    }


def described(package: str) -> list[str]:
    """The names on the page of a package."""
    return [name for (given_by, name), owner in places().items() if given_by == owner == package]


def aliases() -> Iterator[tuple[str, str]]:
    """Each public name that is described under another, and that other one."""
    for (package, name), owner in places().items():
        if owner != package:
            yield f"{package}.{name}", f"{owner}.{name}"


def sections(package: str, names: list[str]) -> Mapping[str, list[str]]:
    """The names by the folder or file that they are defined in; a short page needs no sections."""
    if package != "lightning_gap.functional":
        return {"": names}
    found = defaultdict[str, list[str]](list)
    for name in names:
        defined = getattr(import_module(package), name).__module__.removeprefix(f"{package}.")
        found[defined.split(".")[0].strip("_").replace("_", " ").capitalize()].append(name)
    return dict(sorted(found.items()))


def card_of(value: Any) -> Path | None:
    """The card of a callback: the file that has the name of its module."""
    module = getattr(value, "__module__", "")  # a dict has none
    card = METHODS / f"{module.rpartition('.')[2].strip('_').replace('_', '-')}.md"
    return card if module.startswith("lightning_gap.callbacks.") and card.is_file() else None


def logged_keys(card: Path) -> str:
    """What a card says is logged: the table, or where there is none its first paragraph, with links from `api`."""
    section = card.read_text(encoding="utf-8").split("## What is logged\n\n")[1].split("\n## ")[0]
    found = re.search(r"^(\|.*\n)+", section, flags=re.MULTILINE)
    text = found[0] if found else section.partition("\n\n")[0]
    return re.sub(r"\]\((?!https?:|#)", "](../methods/", text).replace("](#", f"](../methods/{card.name}#").strip()


def methods_of(value: type) -> list[str]:
    """What a reader calls: its own and that of hidden bases. Of a callback neither hooks nor what its base asks."""
    public = {id(getattr(import_module(package), name)) for package, name in places()} - {id(value)}
    ours = [base for base in value.__mro__ if base.__module__.startswith("lightning_gap.") and id(base) not in public]
    found = {name: part for base in reversed(ours) for name, part in vars(base).items() if not name.startswith("_")}
    if issubclass(value, Callback):
        hidden = {name for base in ours[1:] if "._" in base.__module__ for name in vars(base)}
        left_out = {*hidden, *dir(Callback), "check_arguments"} - {"measure", "plot"}
        found = {name: part for name, part in found.items() if name not in left_out}
    of_a_class = (FunctionType, property, classmethod, staticmethod, cached_property)
    return [name for name, part in found.items() if isinstance(part, of_a_class) and part.__doc__]


def arguments_of_bases(value: type) -> Iterator[str]:
    """The lines of a class's hidden bases that describe arguments of its own which its docstring does not."""
    bases = [base for base in value.__mro__[1:] if base.__module__.startswith("lightning_gap.callbacks._")]
    own, wanted = inspect.getdoc(value) or "", inspect.signature(value).parameters if bases else {}
    for base in bases:
        section = re.search(r"^Args:\n((?:    .*\n|\n(?=    ))+)", f"{inspect.getdoc(base)}\n", flags=re.MULTILINE)
        for described in re.findall(r"^    \w.*\n(?:     .*\n)*", section[1] if section else "", flags=re.MULTILINE):
            name = described.partition(":")[0].strip()
            if name in wanted and not re.search(rf"^    {name}: ", own, flags=re.MULTILINE):
                yield from described.splitlines()


def add_arguments(lines: list[str], value: type) -> None:
    """Complete a docstring with the arguments that are described once, in a hidden base."""
    missing = list(arguments_of_bases(value))
    if missing and "Args:" not in lines:
        lines += ["", "Args:", *missing, ""]
    elif missing:
        start = lines.index("Args:") + 1
        end = next((i for i in range(start, len(lines)) if not lines[i].startswith(" ")), len(lines))
        lines[end:end] = missing


def entry(package: str, name: str) -> str:
    """One name: its docstring, and for a callback what it logs and where its card is."""
    value = getattr(import_module(package), name)
    kind = "autoclass" if inspect.isclass(value) else "autofunction" if inspect.isfunction(value) else "autodata"
    card = card_of(value)
    if isinstance(value, Mapping):  # whose value has no docstring of its own
        return f"```{{eval-rst}}\n.. py:data:: {name}\n\n   By name: ``{'``, ``'.join(value)}``.\n```\n"
    shown = methods_of(value) if inspect.isclass(value) else []
    members = f"   :members: {', '.join(shown)}\n" if shown else ""
    if card is None:
        return f"```{{eval-rst}}\n.. {kind}:: {package}.{name}\n{members}```\n"
    return (
        f"## {name}\n\n```{{eval-rst}}\n.. {kind}:: {package}.{name}\n{members}```\n\n"
        f"*Logged.* {logged_keys(card)}\n\n".replace("*Logged.* |", "*Logged:*\n\n|")
        + f"How to use it, what to try first, when not to: [the card](../methods/{card.name}).\n"
    )


def page(package: str, title: str) -> str:
    """The text of a page."""
    summary = inspect.getdoc(import_module(package)) or ""
    elsewhere = defaultdict[str, list[str]](list)
    for (given_by, name), owner in places().items():
        if given_by == package != owner:
            elsewhere[owner].append(name)
    lines = [f"# {title}", "", f"```{{py:module}} {package}\n```", "", summary.partition("\n")[0], ""]
    for owner, names in elsewhere.items():
        links = ", ".join(f"{{py:obj}}`{name} <{owner}.{name}>`" for name in names)
        lines += [f"`{package}` also gives, from [{AREAS[owner].lower()}]({owner}.md): {links}.", ""]
    for section, names in sections(package, described(package)).items():
        lines += [f"## {section}", ""] if section else []
        lines += [entry(package, name) for name in names]
    return "\n".join(lines)


def write(folder: Path) -> None:
    """All pages and their index; a file that would be the same stays, so that Sphinx need not read it again."""
    folder.mkdir(exist_ok=True)
    pages = {f"{package}.md": page(package, title) for package, title in AREAS.items()}
    rows = "\n".join(
        f"| [{title}]({package}.md) | `{package}` | {len(described(package))} |" for package, title in AREAS.items()
    )
    pages["index.md"] = (
        "# API reference\n\nEvery public name, once. What a callback does, costs and logs is told by "
        "[its card](../methods/index.md).\n\n"
        f"| page | import from | names |\n|---|---|---|\n{rows}\n\n"
        "```{toctree}\n:hidden:\n" + "\n".join(AREAS) + "\n```\n"
    )
    for name, text in pages.items():
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text:
            (folder / name).write_text(text, encoding="utf-8")
    for old in folder.glob("*.md"):
        if old.name not in pages:
            old.unlink()
