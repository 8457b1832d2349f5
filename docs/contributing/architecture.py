"""Packages, their lines and who imports whom: read from the code, written into architecture.md, and drawn.

python docs/contributing/architecture.py                      # after a change: rewrites "Now" and the drawing
python docs/contributing/architecture.py --before 251bad0     # "Before", from that commit
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
PAGE, DRAWING = HERE / "architecture.md", HERE / "architecture.svg"
SOURCES = ("lightning_gap", "recipes", "benchmarks")
# From the bottom up: a package may import those before it.
ORDER = (
    *("functional", "data", "logging", "_state", "private files", "trainer", "callbacks", "public names"),
    *("recipes/networks", "recipes/datasets", "recipes", "recipes/catalogue", "recipes/runner", "recipes/experiments"),
    *("recipes/reports", "benchmarks"),
)


@dataclass
class Package:
    """One row of the table, one box of the drawing."""

    lines: int = 0
    files: int = 0
    imports: set[str] = field(default_factory=set)


Architecture = dict[str, Package]


def imported_names(file: Path, root: Path) -> Iterator[str]:
    """Dotted names that a file imports, relative ones resolved, every name of a ``from`` by itself."""
    package = file.parent.relative_to(root).parts
    if package[0] == "recipes":  # as it is installed
        package = ("lightning_gap", *package)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def package_of(parts: tuple[str, ...], folders: set[tuple[str, ...]]) -> str:
    """The package that a file or a dotted name belongs to: a folder of the first level, or what lies beside them."""
    if parts[:2] == ("lightning_gap", "recipes"):
        parts = parts[1:]
    if parts[:2] in folders:
        return parts[1] if parts[0] == "lightning_gap" else "/".join(parts[:2])
    if parts[0] != "lightning_gap":
        return parts[0]
    private = len(parts) > 1 and re.match("_(?!_|version$)", parts[1])  # not __init__, __version__ or its file
    return "private files" if private else "public names"


def read_code(root: Path) -> Architecture:
    """The packages of a checkout: lines, files, and which of the others each imports."""
    files = sorted(file for source in SOURCES for file in (root / source).rglob("*.py"))
    folders = {file.relative_to(root).parts[:2] for file in files if len(file.relative_to(root).parts) > 2}
    found: Architecture = {}
    for file in files:
        name = package_of(file.relative_to(root).with_suffix("").parts, folders)
        package = found.setdefault(name, Package())
        package.files += 1
        package.lines += len(file.read_text(encoding="utf-8").splitlines())
        for imported in imported_names(file, root):
            if imported.split(".")[0] in SOURCES:
                package.imports.add(package_of(tuple(imported.split(".")), folders))
        package.imports.discard(name)
    return dict(sorted(found.items(), key=lambda item: place(item[0])))


def place(package: str) -> tuple[int, str]:
    """Where it stands; those that have no place of their own come last, by name, the same in every process."""
    return ORDER.index(package) if package in ORDER else len(ORDER), package


def source_of(package: str) -> str:
    return next((source for source in SOURCES if package.split("/")[0] == source), "lightning_gap")


def write_table(packages: Architecture) -> str:
    rows = ["| package | lines | files | imports |", "|---|---|---|---|"]
    for name, package in packages.items():
        imports = ", ".join(sorted(package.imports, key=place))
        rows.append(f"| {name} | {package.lines:,} | {package.files} | {imports} |")
    for source in SOURCES:
        parts = [package for name, package in packages.items() if source_of(name) == source]
        lines, files = sum(part.lines for part in parts), sum(part.files for part in parts)
        rows.append(f"| **{source}** | **{lines:,}** | **{files}** | |")
    return "\n".join(rows)


def read_table(page: str, section: str) -> Architecture:
    """The packages as a section of the page has them."""
    packages: Architecture = {}
    for row in re.findall(r"^\| ([^*\n]+) \| ([\d,]+) \| (\d+) \| (.*)\|$", between(page, section), flags=re.MULTILINE):
        imports = {name for name in row[3].strip().split(", ") if name}
        packages[row[0]] = Package(int(row[1].replace(",", "")), int(row[2]), imports)
    return packages


def between(page: str, section: str) -> str:
    return page.split(f"<!-- {section}: by architecture.py -->\n")[1].split("<!-- end -->")[0]


def replace(page: str, section: str, table: str) -> str:
    before, after = page.split(f"<!-- {section}: by architecture.py -->\n")
    return f"{before}<!-- {section}: by architecture.py -->\n{table}\n<!-- end -->{after.split('<!-- end -->', 1)[1]}"


def draw(panels: dict[str, Architecture]) -> str:
    """An SVG with a column of boxes for each panel: arrows down on the right, arrows that go up in red on the left."""
    step, width = 38, 400
    height = 70 + step * max(map(len, panels.values()))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width * len(panels)} {height}" '
        'font-family="DejaVu Sans, sans-serif" font-size="12">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" fill="context-stroke"/></marker></defs>',
        f'<rect width="{width * len(panels)}" height="{height}" fill="white"/>',
    ]
    for number, (title, packages) in enumerate(panels.items()):
        left = number * width + 110
        centre = {name: height - 34 - step * rank for rank, name in enumerate(packages)}
        parts.append(f'<text x="{left}" y="24" font-size="15" font-weight="bold">{title}</text>')
        for name, package in packages.items():
            for index, imported in enumerate(sorted(package.imports, key=lambda name: (place(name), name))):
                down = centre[imported] > centre[name]
                parts.append(arrow(left, centre[name] - 4 + 2 * index % 9, centre[imported], down=down))
        for name, package in packages.items():
            y = centre[name]
            parts.append(
                f'<rect x="{left}" y="{y - 13}" width="180" height="26" rx="4" fill="#eef3f8" stroke="#345"/>'
                f'<text x="{left + 8}" y="{y + 4}">{name}</text>'
                f'<text x="{left + 172}" y="{y + 4}" text-anchor="end" fill="#555">{package.lines:,}</text>'
            )
    return "\n".join([*parts, "</svg>", ""])


def arrow(left: int, start: int, end: int, *, down: bool) -> str:
    edge = left + 180 if down else left
    bend = edge + (1 if down else -1) * (14 + abs(end - start) // 5)
    colour = "#7d93a8" if down else "#c22"
    return (
        f'<path d="M{edge},{start} C{bend},{start} {bend},{end} {edge},{end}" fill="none" stroke="{colour}" '
        'marker-end="url(#tip)"/>'
    )


def code_of(commit: str, folder: Path) -> Path:
    archive = subprocess.run(["git", "archive", commit, *SOURCES], cwd=HERE.parents[1], check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", metavar="COMMIT", help="rewrite the section Before from this commit")
    before = parser.parse_args().before
    page = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        found = {"Now": read_code(HERE.parents[1])}
        if before:
            found["Before"] = read_code(code_of(before, Path(folder)))
    for section, packages in found.items():
        page = replace(page, section, write_table(packages))
    PAGE.write_text(page, encoding="utf-8")
    DRAWING.write_text(draw({name: read_table(page, name) for name in ("Before", "Now")}), encoding="utf-8")


if __name__ == "__main__":
    main()
