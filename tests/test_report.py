"""Reports: pages that need nothing else, say everything a reader needs, and show names as text."""

import base64
import csv
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from vitscope import plots
from vitscope.errors import BadValue, MissingPath, UnknownName
from vitscope.provenance import Provenance
from vitscope.report import alt_text, report
from vitscope.studies import STUDIES
from vitscope.studies.result import Result
from vitscope.studies.study import Findings, Study


def draw(result):
    series = [plots.Line(model, [4, 8], [50.0, 90.0], [40.0, 80.0], [60.0, 95.0]) for model in result.models]
    return {"curves": plots.lines({"low-pass": series}, x_label="radius (cycles)", y_label="top-1 (%)")}


def run(models, source):
    return Findings([])


PUBLISHED = ({"model": "ViT-B/16", "top1": 84.2, "source": "Table 1"},)
STUDY = Study(
    "counting",
    question="Is 3 < 4, and what of <script>alert(1)</script>?",
    method="It counts. Twice.",
    citation="Nobody et al. 2022",
    run=run,
    draw=draw,
    caveats=("Counted by hand.",),
    published=PUBLISHED,
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    STUDIES.names()
    monkeypatch.setitem(STUDIES._table, "counting", STUDY)


def result_of(**changes) -> Result:
    seen = {"images": 725, "skipped": {"truncated": 2}, "notes": ["a note & more"]}
    made = Provenance(
        kind="study",
        model="timm:a, tv:b<i>",
        weights="sha256:1, sha256:2",
        preprocessing={"timm:a": {"size": [224, 224]}, "tv:b<i>": {}},
        source="sha256:3",
        settings={"study": "counting", "images": "folder:val", "radii": [4, 8], "seen": seen},
        versions={"vitscope": "0.1.0"},
    )
    facts = {
        "study": "counting",
        "models": ("timm:a", "tv:b<i>"),
        "table": (
            {"model": "timm:a", "top1": 72.125, "top1_low": 70.0, "top1_high": 74.0},
            {"model": "tv:b<i>", "top1": None, "top1_low": None, "top1_high": None},
        ),
        "arrays": {"map": {"timm:a": np.eye(2)}},
        "published": PUBLISHED,
        "provenance": made,
        "draw": draw,
    }
    return Result(**{**facts, **changes})


class Seen(HTMLParser):
    """What a browser would find."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def page(tmp_path):
    report(result_of(), out=tmp_path)
    return Seen((tmp_path / "counting.html").read_text())


def test_a_page_needs_nothing_else(page):
    addresses = [value for _, facts in page.tags for name, value in facts.items() if name in ("src", "href")]
    assert addresses
    assert [each for each in addresses if not each.startswith("data:")] == ["index.html"]
    assert page.all("script") == page.all("link") == []
    text = " ".join(page.words)
    assert not re.search(r"url\(|@import|https?://", text)


def test_a_page_says_everything_a_reader_needs(page):
    text = " ".join(page.words)
    for said in (
        "Is 3 < 4, and what of <script>alert(1)</script>?",
        "It counts. Twice.",
        "After Nobody et al. 2022.",
        "Counted by hand.",
        "a note & more",
        "2 entries could not be used: 2 truncated.",
        "72.12 (70 to 74)",
        "Measured here",
        "Published",
        "84.2",
        "Table 1",
        "folder:val (sha256:3)",
        "sha256:2",
        "[4, 8]",
        '{"size": [224, 224]}',
        "tv:b<i>",
        "vitscope 0.1.0",
    ):
        assert said in text, said


def test_a_page_is_accessible(page):
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert len(page.all("h2")) >= 4
    (image,) = page.all("img")
    assert image["alt"] == (
        "Panels: low-pass. Across: radius (cycles). Upwards: top-1 (%). Series: timm:a, tv:b<i>. "
        "The numbers are in the table."
    )
    assert len(page.all("caption")) == len(page.all("table")) == 1
    assert {header["scope"] for header in page.all("th")} == {"col", "rowgroup"}
    assert page.all("title")
    assert page.all("figcaption")


def test_the_numbers_are_inside_as_csv_and_json(page):
    files = {facts["download"]: facts["href"] for facts in page.all("a") if "download" in facts}
    content = {name: base64.b64decode(address.split(",", 1)[1]).decode() for name, address in files.items()}
    rows = list(csv.DictReader(io.StringIO(content["counting.csv"])))
    assert [row["top1"] for row in rows] == ["72.125", ""]
    assert json.loads(content["counting.json"]) == result_of().describe()


def test_the_figure_is_inside_as_svg(page):
    kind, content = page.all("img")[0]["src"].split(",", 1)
    assert kind == "data:image/svg+xml;base64"
    assert b"<svg" in base64.b64decode(content)


def test_an_index_of_several(tmp_path):
    saved = result_of().save(tmp_path / "saved")
    index = report([result_of(), saved], out=tmp_path / "report")
    assert index == tmp_path / "report" / "index.html"
    assert {path.name for path in index.parent.iterdir()} == {
        "index.html",
        "counting.html",
        "counting-2.html",
    }
    seen = Seen(index.read_text())
    assert [facts["href"] for facts in seen.all("a")] == ["counting.html", "counting-2.html"]
    assert [facts["src"].partition(";")[0] for facts in seen.all("img")] == 2 * ["data:image/png"]
    assert "2 studies" in seen.words
    assert "timm:a, tv:b<i>; 725 images" in seen.words
    again = (index.parent / "counting.html").read_bytes()
    assert again == (report(result_of(), out=tmp_path / "again").parent / "counting.html").read_bytes()


def test_figures_of_a_page_and_its_card_are_drawn_once(tmp_path):
    drawn = []
    report(result_of(draw=lambda result: drawn.append(result) or draw(result)), out=tmp_path)
    assert len(drawn) == 1


def test_a_result_without_figure_or_published_numbers(tmp_path, monkeypatch):
    report(result_of(draw=None, published=()), out=tmp_path)
    seen = Seen((tmp_path / "counting.html").read_text())
    assert seen.all("img") == []
    assert "Measured here" not in seen.words


def test_reports_that_cannot_be(tmp_path):
    with pytest.raises(BadValue, match="at least one result"):
        report([], out=tmp_path)
    with pytest.raises(MissingPath, match="no result of a study"):
        report([tmp_path], out=tmp_path)
    with pytest.raises(UnknownName, match="no study 'gone'"):
        report(result_of(study="gone"), out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_map_shows_in_words():
    figure = plots.heat_maps({"a": np.eye(2)}, x_label="column", y_label="row", value_label="CKA")
    assert alt_text(figure) == "Panels: a. Across: column. Upwards: row. The numbers are in the table."
