"""The files of a report: what they hold, that they are read back, and that they are written whole or not at all."""

import csv
import math
import re
import statistics
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from scipy import stats

from lightning_gap.recipes.reports import write_report
from lightning_gap.recipes.reports.parts import Chapter, Report, Table

SMALL = (80.1, 79.2, 79.9)
GAP = (80.1 - 77.0, 79.2 - 76.1, 79.9 - 77.3)


class Page(HTMLParser):
    """Tags with their attributes, in order, and that each that is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.open = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def page(written):
    return Page((written[0] / "report.html").read_text(encoding="utf-8"))


def test_what_is_told_is_what_is_written_and_no_two_names_are_alike(written):
    folder, files = written
    assert {file.name for file in files} == {path.name for path in folder.iterdir()}
    assert [file.name for file in files[:2]] == ["report.html", "report.md"]
    assert len({file.name.lower() for file in files}) == len(files)
    assert [file.name for file in files[2:]] == sorted(
        [
            "keskar-table-2-accuracy-and-gap.csv",
            "keskar-table-2-accuracy-over-time.csv",
            "keskar-table-2-accuracy-over-time.png",
            "keskar-table-2-accuracy-and-gap-2.csv",
            "keskar-table-2-table.csv",
            "keskar-table-2-2-accuracy-over-time.csv",
            "keskar-table-2-2-accuracy-over-time.png",
        ]
    )


def test_the_page_needs_nothing_else(page):
    for picture in page.all("img"):
        kind, content = re.fullmatch(r"data:image/(svg\+xml|png);base64,(.+)", picture["src"]).groups()
        content = b64decode(content)
        assert content.startswith(b"\x89PNG" if kind == "png" else b"<?xml")
        assert len(content) > 5000
    assert len(page.all("img")) == 2
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
    style = " ".join(page.texts)
    assert "url(" not in style
    assert "@import" not in style
    for link in page.all("a"):
        assert not re.match(r"\w+:|//", link["href"])


def test_every_link_leads_somewhere(page, written):
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    labels = [attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes]
    assert set(labels) <= set(ids)
    inner = [link["href"][1:] for link in page.all("a") if link["href"].startswith("#")]
    assert set(inner) == set(ids)
    runs = [unquote(link["href"]) for link in page.all("a") if "runs/" in link["href"]]
    assert [(written[0] / run).resolve() for run in runs] == [Path("runs/c1 small #0").resolve()]
    for link in page.all("a"):
        if not link["href"].startswith("#") and "runs" not in link["href"]:
            assert (written[0] / link["href"]).is_file()


def test_figures_are_told_in_words_and_texts_are_no_markup(page):
    assert {picture["alt"] for picture in page.all("img")} == {'Two curves; "small" ends <highest>.'}
    for text in ("<cifar10>", "a < b, a_b_c", "Reproduced & shown", "Mean & interval.", "data | split"):
        assert text in page.text
    assert "this" in page.text
    assert len(page.all("code")) == 1


def test_our_number_stands_in_a_cell_with_the_papers_and_what_agrees(page):
    assert "79.73 ± 0.47 paper 80.04 ± 0.12 ● inside" in page.text
    low, high = stats.ttest_1samp(GAP, 0).confidence_interval(0.95)
    mark = "● inside" if low < 2.78 < high else "○ outside"
    assert f"{statistics.fmean(GAP):.2f} [{low:.2f}, {high:.2f}] paper 2.78 ✓ same direction {mark}" in page.text
    assert "paper 1.98 ✗ opposite direction ○ outside" in page.text
    assert "paper 0.22 ? direction cannot be told" in page.text
    assert "Direction: 1 of 3 as in the paper, 1 opposite, 1 cannot be told." in page.text


def test_columns_of_numbers_stand_to_the_right(page):
    heads = page.all("th")[1:]  # after that of the terms
    (first,) = {tuple(head.get("class") for head in heads[:6] if head.get("scope") == "col")}
    assert first == (None, None, "number", "number", "number", "number")


def read(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_table_is_read_back_in_full_precision(written):
    rows = read(written[0] / "keskar-table-2-accuracy-and-gap.csv")
    assert len(rows) == 3 * 6
    cells = {(row["row"], row["column"]): row for row in rows}
    small = cells["C1", "test accuracy %, small"]
    low, high = stats.ttest_1samp(SMALL, 0).confidence_interval(0.95)
    assert [float(small[f"value_{k}"]) for k in (1, 2, 3)] == list(SMALL)
    assert float(small["mean"]) == pytest.approx(statistics.fmean(SMALL), rel=1e-15)
    assert float(small["sd"]) == pytest.approx(statistics.stdev(SMALL), rel=1e-15)
    assert (float(small["low"]), float(small["high"])) == pytest.approx((low, high))
    assert (small["paper_mean"], small["paper_sd"], small["direction"]) == ("80.04", "0.12", "")
    assert (small["paper_value"], small["text"]) == ("inside", "79.73 ± 0.47")
    gap = cells["C2", "gap, points"]
    assert (gap["paper_mean"], gap["paper_sd"]) == ("1.98", "")
    assert (gap["direction"], gap["paper_value"]) == ("opposite direction", "outside")
    one = cells["F1", "test accuracy %, small"]
    assert (one["mean"], one["sd"], one["value_2"], one["value_3"]) == ("98.0", "", "", "")
    assert math.isnan(float(one["low"]))
    assert (cells["C1", "data | split"]["text"], cells["C1", "data | split"]["mean"]) == ("<cifar10>", "")


def test_curves_are_read_back_in_full_precision(written):
    rows = read(written[0] / "keskar-table-2-accuracy-over-time.csv")
    assert [list(row.values()) for row in rows] == [
        ["1", "60.5", "51.0"],
        ["2", "71.0", ""],
        ["3", "0.3333333333333333", ""],
    ]
    assert float(rows[2]["small"]) == 1 / 3


def test_figures_are_files_at_150_dots_an_inch(written):
    pixels = imread(written[0] / "keskar-table-2-accuracy-over-time.png")
    assert pixels.shape[:2] == (570, 720)  # 3.8 by 4.8 inches
    assert pixels[..., :3].std() > 0.01


def test_the_markdown_has_the_same_tables_and_its_figures_beside_it(written):
    text = (written[0] / "report.md").read_text(encoding="utf-8")
    for name in re.findall(r"\]\(([^<)]+)\)", text):
        assert (written[0] / name).is_file()
    assert len(re.findall(r"^!\[", text, re.MULTILINE)) == 2
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1  # a bar in a cell is no end of it
    assert len(tables) == 2 + 3
    assert "79.73 ± 0.47; paper 80.04 ± 0.12 ● inside" in text
    assert "Read `this` first: a \\< b, a\\_b\\_c." in text


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_report_that_cannot_be_written_leaves_an_earlier_one_as_it_was(report, tmp_path, monkeypatch):
    write_report(Report("Earlier", report.chapters[:1], {}), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for target, name in ((Path, "write_text"), (Figure, "savefig")):
        with monkeypatch.context() as patched:
            patched.setattr(target, name, full)
            told = f"output={str(tmp_path)!r} cannot be written to (No space left on device); make room"
            with pytest.raises(OSError, match=re.escape(told)):
                write_report(report, tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write_report(report, tmp_path)
    assert "Earlier" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_an_earlier_report_had_beside_it_goes_and_what_is_not_its_own_stays(report, tmp_path):
    earlier = write_report(report, tmp_path)
    (tmp_path / "mine.csv").write_text("1")
    shorter = write_report(Report("Shorter", report.chapters[:1], {}), tmp_path)
    assert len(shorter) < len(earlier)
    assert names(tmp_path) == sorted(["mine.csv", *(file.name for file in shorter)])


def test_what_a_killed_command_left_is_removed(report, tmp_path):
    (tmp_path / ".report-ab12.partial").mkdir()
    (tmp_path / ".report-ab12.partial" / "report.md").write_text("half")
    files = write_report(report, tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_the_same_report_is_the_same_bytes(report, written, tmp_path):
    again = write_report(report, tmp_path)
    for file in again:
        if file.name not in ("report.html", "report.md"):  # whose links to the runs go by where they are
            assert file.read_bytes() == (written[0] / file.name).read_bytes()
    pictures = [re.findall(r'src="([^"]+)"', (folder / "report.html").read_text()) for folder in (tmp_path, written[0])]
    assert pictures[0] == pictures[1]


@pytest.mark.parametrize("title", ["", "表", "../../etc/passwd", "a" * 500, "CON", ".hidden"])
def test_any_title_is_a_file_name_in_the_folder(title, tmp_path):
    tables = [Table(title, ["a"], [["b"]])] * 2
    files = write_report(Report(title, [Chapter(title, title, tables, {})] * 2, {}), tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert len(files) == len(names(tmp_path / "out")) == 6
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,90}", file.name) for file in files)


def test_a_row_has_as_many_cells_as_there_are_columns():
    with pytest.raises(ValueError, match=r"a row of 'Gap' has 1 cells for 2 columns: \['F1'\]"):
        Table("Gap", ["network", "gap"], [["F1"]])
