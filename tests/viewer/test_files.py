"""The pages and the other files: what they show, where their links lead, and that there are not too many."""

import io
import json
import posixpath
import re
from html import unescape
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from PIL import Image
from tests.viewer.conftest import keep_dream, picture

from vitscope.atlas.commit import write
from vitscope.atlas.store import Store
from vitscope.viewer.export import MOST_FILES
from vitscope.viewer.files import FILES, answer, every_path, keep_below
from vitscope.viewer.library import Library
from vitscope.viewer.results import Results
from vitscope.viewer.sheets import Sheets
from vitscope.viewer.shelf import Shelf

GRID = "a/tiny/site/blocks.0.ffn"
UNIT = "a/tiny/unit/blocks.0.ffn/{}.html"


@pytest.fixture(scope="module")
def library(atlas, result):
    return Library(Shelf([atlas]), Results([result]))


@pytest.fixture(scope="module")
def read(library):
    """The text of a file that is there."""

    def text(path):
        found = answer(library, path)
        assert found.status == 200, path
        return found.content.decode()

    return text


def sources(html):
    return [unescape(link) for link in re.findall(r'<img[^>]* src="([^"]+)"', html)]


def test_home_lists_atlases_and_says_where_there_is_none(atlas, make_atlas, read):
    both = answer(Library(Shelf([atlas, make_atlas()])), "index.html").content.decode()
    assert 'href="a/tiny/index.html"' in both
    assert 'href="a/own/index.html"' in both
    assert "studies/index.html" not in both
    assert 'href="studies/index.html"' in read("index.html")
    assert "No atlas is open" in answer(Library(Shelf([])), "index.html").content.decode()


def test_the_page_of_a_model_shows_its_sites_their_dead_and_how_numbers_change_with_depth(read):
    page = read("a/tiny/index.html")
    assert f'href="../../{GRID}/1.html"' in page
    assert "300 units" in page
    assert "0.3 % dead" in page
    assert "complete" in page
    assert "sha256:11" in page
    assert (
        page.count('class="curve"') == 2
    )  # dead units and peak; variances are not finite here, and trust is not known
    assert "<title>blocks.0.ffn: 0.333 %</title>" in page


def test_dreams_stand_above_the_units_of_their_site_and_on_the_page_of_the_model(read):
    for path in ("a/tiny/index.html", f"{GRID}/1.html"):
        strip = read(path).partition('class="strip"')[2].partition("</ul>")[0]
        assert re.findall(r"unit/blocks.0.ffn/(\d+).html", strip) == ["0"]
        assert 'alt="dream of blocks.0.ffn:0"' in strip
    assert 'class="strip"' not in read(f"{GRID}/2.html")


def test_a_grid_has_a_tile_for_every_unit_and_no_more(read):
    pages = [read(f"{GRID}/{number}.html") for number in (1, 2)]
    tiles = [re.findall(r'<li id="u(\d+)"><a class="tile (\w+)"', page) for page in pages]
    assert [int(unit) for page in tiles for unit, _ in page] == list(range(300))
    assert [kind for _, kind in tiles[0][:4]] == ["ok", "dead", "odd", "ok"]
    assert "1 dead" in pages[0]
    assert 'alt="unit 1, dead"' in pages[0]


def test_tiles_look_at_their_own_part_of_the_sprite(read):
    tiles = re.findall(r'id="u(\d+)".*?class="c(\d+) r(\d+)"', read(f"{GRID}/2.html"))
    assert [(int(column), int(row)) for _, column, row in tiles] == [(n % 16, n // 16) for n in range(44)]


def test_a_unit_page_shows_dream_exemplars_maps_and_numbers(read):
    page = read(UNIT.format(0))
    shown = sources(page)
    assert sum(link.startswith("data:image/webp") for link in shown) == 1
    assert sum(link.startswith("data:image/png") for link in shown) == 12
    assert sum("/thumbnail/" in link for link in shown) == 12
    for text in (
        "5.25",
        "ghiasi_2022",
        "seed 7",
        "robust",
        "3.50",
        "@0,1",
        "share of zeros",
        "believe it as far",
    ):
        assert text in page
    assert "<title>0 to 1: 100</title>" in page
    assert page.count('class="mark"') == 3
    assert page.count('class="dream-mark"') == 1
    assert re.search(r"best image</dt><dd>1\.75</dd>", page)
    assert "sha256:11" in page.partition('class="provenance"')[2]


def test_images_of_every_kind_are_in_the_page(read):
    page = read(UNIT.format(0))
    _, *kinds = re.split(r'<section id="by-', page)
    assert [kind.partition('"')[0] for kind in kinds] == ["max", "mean", "middle", "random"]
    values = [re.findall(r"<b>([\d.]+)</b>", kind)[:3] for kind in kinds]
    assert values == [
        ["3.50", "2.50", "1.50"],
        ["1.75", "1.25", "0.750"],
        ["0.350", "0.250", "0.150"],
        ["0.0350", "0.0250", "0.0150"],
    ]
    for kind, following in zip(kinds, ("mean", "middle", "random", "max"), strict=True):
        assert re.findall(r'data-by="(\w+)" data-keys="m"', kind) == [following]


def test_units_that_are_alike_are_shown_by_each_measure(read):
    like = read(UNIT.format(0)).partition('class="like"')[2].partition("</section>")[0]
    by = {part.partition(" ")[0]: part for part in like.split("<h3>by ")[1:]}
    units = {name: re.findall(r"unit/blocks.0.ffn/(\d+).html", part) for name, part in by.items()}
    assert units == {
        "activation": ["3", "2"],
        "weight": ["5"],
        "exemplars": ["2", "3", "4", "5", "6", "7", "256", "257"],
    }
    assert "3 · 0.91</span>" in by["activation"]
    assert "256 · 100 %</span>" in by["exemplars"]
    assert "of=tiny/blocks.0.ffn%3A0&of=tiny/blocks.0.ffn%3A3&of=" in unescape(like)


def test_the_page_of_an_older_atlas_says_what_it_lacks(read):
    page = read("a/tiny/unit/logits/3.html")
    assert "an older vitscope built it" in page
    assert re.findall('<section id="by-([a-z]+)', page) == ["max", "mean"]
    assert re.findall("<h3>by ([a-z]+)", page) == ["exemplars"]
    assert "older vitscope" not in read(UNIT.format(0))


def test_dreams_that_were_kept_stand_side_by_side_with_their_trust(atlas, make_atlas, read):
    page = read(UNIT.format(3)).partition('class="dreams"')[2].partition("</section>")[0]
    assert re.findall(r'src="(?:data:image/webp)[^>]*alt="[^"]*(by olah_2017, seed \d)"', page) == [
        "by olah_2017, seed 0", "by olah_2017, seed 1",
    ]  # fmt: skip
    rows = dict(re.findall(r'<th scope="row"[^>]*>([^<]+)</th>(.*?)</tr>', page))
    cells = {name: re.findall(r"<td>([^<]+)</td>", row) for name, row in rows.items()}
    assert cells == {"score": ["2.50"] * 2, "best image": ["1.75"] * 2, "robust": ["1.5", "2.5"]}
    assert page.count("<b>olah_<wbr>2017</b>") == page.count("kept by you") == 2
    own = make_atlas()
    folder = own.path.with_name("own.dreams")
    keep_dream(folder, "blocks.0.ffn:3", weights="sha256:99")
    keep_dream(folder, "blocks.0.ffn:33")
    (folder / "a.png").write_bytes(b"no picture")
    library = Library(Shelf([own]))
    assert 'class="dreams"' not in answer(library, "a/own/unit/blocks.0.ffn/3.html").content.decode()
    bare = answer(library, "a/own/unit/blocks.0.ffn/33.html").content.decode()
    assert "kept by you" in bare
    assert 'class="trials"' not in bare


def test_a_dream_that_began_at_a_photograph_says_so(make_atlas):
    own = make_atlas()
    folder = own.path.with_name("own.dreams")
    keep_dream(folder, "blocks.0.ffn:33", score=1.0, trust={"second_start": True})
    keep_dream(folder, "blocks.0.ffn:34", score=1.0, trust={"second_start": False})
    for seed, second in enumerate([False, True]):
        keep_dream(folder, "blocks.0.ffn:35", seed=seed, score=1.0, trust={"second_start": second})
    library = Library(Shelf([own]))
    made = [
        answer(library, f"a/own/unit/blocks.0.ffn/{unit}.html").content.decode().partition("Made from ")[2]
        for unit in (33, 34, 35)
    ]
    assert made[0].startswith("its best image to excite this unit")
    assert made[1].startswith("noise to excite this unit")
    assert made[2].startswith("noise, or from its best image where second start says yes, to excite")


def test_an_image_of_the_sample_has_a_page_though_it_excites_nothing(make_atlas):
    own = make_atlas()
    image = f"{4:032x}"
    write(Store.open(own.path).thumbnail_file(image), picture(7))
    sample = json.loads((own.path / "sample.json").read_text())
    sample["images"].append({"image": image, "path": "dir/four.png", "label": "<b>"})
    (own.path / "sample.json").write_text(json.dumps(sample))
    library = Library(Shelf([own]), served=False)
    assert f"a/own/thumbnail/{image}.webp" in set(every_path(library))
    page = answer(library, "a/own/image/0.html").content.decode()
    section = page.partition(f'<section id="{image}"')[2].partition("</section>")[0]
    assert "&lt;b&gt;" in section
    assert "dir/four.png" in section
    assert "among the best of no unit" in section


def test_a_dead_unit_says_so_and_has_no_exemplars(read):
    page = read(UNIT.format(1))
    assert "This unit never responded" in page
    assert "/thumbnail/" not in page


def test_a_unit_without_a_dream_tells_how_to_make_one(read):
    page = read("a/tiny/unit/logits/3.html")
    assert 'class="dreams"' not in page
    assert re.search(r"vitscope dream test:.* logits:3</code>", page)


def test_a_site_without_a_grid_has_no_maps(read):
    page = read("a/tiny/unit/logits/3.html")
    assert "/thumbnail/" in page
    assert "data:image/png" not in page
    assert "heat map" not in page.split("<dialog")[0]


def test_neighbours_cross_from_one_site_to_the_next(read):
    assert 'unit/logits/0.html" data-keys="j' in read(UNIT.format(299))
    assert 'rel="prev"' not in read(UNIT.format(0))


def test_an_image_says_which_units_it_excites(read, library):
    (mark,) = [path for path in every_path(library) if path.startswith("a/tiny/image/")]
    page = read(mark)
    sections = re.split(r'<section id="', page)[1:]
    assert [section[:32] for section in sections] == [f"{number:032x}" for number in (1, 2, 3)]
    units = re.findall(r'unit/blocks.0.ffn/(\d+)\.html"', sections[0])
    assert [int(unit) for unit in units] == [0, 2, 3, 4, 5, 6, 7, 256, 257, 258, 259, 260, 261, 262, 263]
    assert 'title="its number 1 by maximum: 3.5"' in sections[0]
    assert 'title="its number 2 by maximum: 2.5"' in sections[1]
    assert "22 units at 2 sites" in sections[0]


def test_the_columns_of_a_site_are_what_its_units_have(read, atlas):
    columns = json.loads(read("a/tiny/data/blocks.0.ffn.json"))
    assert columns["status"][:4] == ["ok", "dead", "nan", "ok"]
    assert columns["dreams"] == [1, *[0] * 299]
    assert columns["peak"] == [3.5] * 300
    assert columns["sparsity"] == [None] * 300  # the variance is not finite here
    assert columns["selectivity"][0] == 1.0
    assert columns["selectivity"][8] is None
    assert columns["classes"][columns["class"][0]] == atlas["blocks.0.ffn:0"].exemplars[0].label
    assert columns["labels"] == {}


def test_the_map_of_a_site_has_every_unit_once(read):
    page = read("a/tiny/map/blocks.0.ffn.html")
    order = re.search(r'data-order="([\d,]+)"', page).group(1).split(",")
    assert sorted(map(int, order)) == list(range(300))
    assert 'data-wide="18"' in page


def test_results_of_studies_are_shown_with_their_numbers(read):
    assert 'href="../studies/odd_one.html"' in read("studies/index.html")
    page = read("studies/odd_one.html")
    assert "75.5 (75.5 to 75.5)" in page
    assert "data:image/svg+xml" in page
    assert "Read before quoting a number" in page


def test_health_counts_what_is_amiss(read, atlas, make_atlas):
    page = read("a/tiny/health.html")
    assert 'Leaves that are missing or damaged</h2>\n<p class="muted">None.' in page
    assert ">blocks.0.ffn:2</a>" in page
    hurt = make_atlas(without=("logits/0000.ok",))
    (hurt.path / "sites/blocks.00.ffn/0001.units.parquet").write_bytes(b"short")
    (hurt.path / "runs").mkdir()
    skipped = [{"path": "<b>x.jpg", "reason": "truncated", "detail": "ends early"}]
    (hurt.path / "runs/1.json").write_text(json.dumps({"outcome": "finished", "skipped": skipped}))
    (hurt.path / "runs/2.json").write_text("{")
    library = Library(Shelf([hurt]))
    page = answer(library, "a/own/health.html").content.decode()
    assert "1 damaged" in page
    assert "not built yet" in page
    assert "0001.units.parquet has 5 bytes" in page
    assert "&lt;b&gt;x.jpg</td><td>truncated</td><td>ends early" in page
    shown = answer(library, "index.html").content.decode()
    assert 'class="mosaic"><img src="a/own/sprite/blocks.0.ffn/1.webp' in shown, "what is built of it"
    assert "<h1>Not built yet</h1>" in answer(library, "a/own/unit/logits/0.html").content.decode()


PAGES = [
    "index.html",
    "a/tiny/index.html",
    f"{GRID}/1.html",
    f"{GRID}/2.html",
    UNIT.format(0),
    UNIT.format(299),
]
OTHERS = ["a/tiny/health.html", "a/tiny/map/logits.html", "studies/index.html", "compare.html"]


@pytest.mark.parametrize("path", [*PAGES, *OTHERS])
def test_every_link_of_an_exported_page_leads_to_a_file_of_the_export(atlas, result, path):
    library = Library(Shelf([atlas]), Results([result]), served=False)
    there = set(every_path(library))
    page = answer(library, path).content.decode()
    links = [unescape(link) for link in re.findall(r'\s(?:href|src|data-columns)="([^"]+)"', page)]
    forms = {
        f"a/tiny/{name}" for name in ("random", "go")
    }  # scripts lead to units instead, and nothing else shows
    for link in links:
        assert not link.startswith(("/", "http")), link
        if link.startswith(("#", "data:")):
            continue
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), unquote(urlsplit(link).path)))
        assert target in there | forms, link


def test_a_page_of_the_server_and_of_the_export_differ_only_in_what_needs_a_model(atlas):
    there, plain = (Library(Shelf([atlas]), served=served) for served in (True, False))
    for path in (UNIT.format(0), f"{GRID}/1.html"):
        served, written = (answer(library, path).content.decode() for library in (there, plain))
        assert "live dreams and pictures of your own need" in written
        assert "live dreams" not in served
        assert set(sources(written)) == set(sources(served))


def test_every_picture_says_what_it_is_and_how_large(read):
    for path in (UNIT.format(0), f"{GRID}/1.html", "a/tiny/index.html", "a/tiny/image/0.html"):
        for tag in re.findall(r"<img[^>]*>", read(path)):
            assert re.search(r' width="\d+" height="\d+"', tag), tag
            assert " alt=" in tag


def test_every_path_is_made_by_its_own_kind_of_file(library):
    paths = list(every_path(library))
    assert len(paths) == len(set(paths))
    for file in FILES:
        if "/sheet/" in file.pattern:  # not where there are few
            continue
        assert any(file.expression.fullmatch(path) for path in paths), file.pattern


def test_a_unit_page_is_small(read):
    assert len(re.sub(r"data:image[^\"]+", "", read(UNIT.format(0)))) < 40_000


@pytest.mark.parametrize("images", [50_000, 1_281_167])
def test_there_are_few_enough_files_for_static_hosts(images):
    """A ViT-B: all feed-forward units, each image somebody's exemplar as far as there are enough of them."""
    units, leaves, sites, marks = 12 * 3072, 12 * 12, 12, 16**3
    others = units + 3 * leaves + 2 * sites + marks + 10
    if others + images > MOST_FILES:
        sheets = Sheets.of(np.zeros(min(images, units * 18), "S32"), files=MOST_FILES - others)
        assert sheets.each <= 16, "a page loads the whole sheet of each of its images"
        images = len(sheets)
    assert others + images < 100_000


def test_thumbnails_share_sheets_where_there_would_be_too_many_files(atlas):
    library = Library(Shelf([atlas]), served=False)
    whole = len(list(every_path(library)))
    keep_below(library, whole)
    assert library.volume("tiny").sheets is None
    keep_below(library, whole - 1)
    paths = list(every_path(library))
    assert len(paths) == whole - 1
    assert [path for path in paths if "/thumbnail/" in path] == []
    page = answer(library, UNIT.format(0)).content.decode()
    places = re.findall(
        r'<span class="sheet s4"><svg [^>]*></svg>\s*<img class="(c\d r\d)" src="([^"?]+)', page
    )
    assert places[:3] == [
        ("c0 r0", "../../../../a/tiny/sheet/0.webp"),
        ("c1 r0", "../../../../a/tiny/sheet/0.webp"),
        ("c0 r0", "../../../../a/tiny/sheet/1.webp"),
    ]
    for number, shades in enumerate(([20, 80], [140])):
        found = answer(library, f"a/tiny/sheet/{number}.webp")
        assert (found.status, found.kind) == (200, "image/webp")
        with Image.open(io.BytesIO(found.content)) as sheet:
            assert sheet.size == (128, 128)
            tiles = [sheet.getpixel((32 * at + 16, 16))[1] for at in range(len(shades))]
        assert tiles == pytest.approx(shades, abs=3)
    assert answer(library, "a/tiny/sheet/2.webp").status == 404
    assert 'class="sheet s4"' in answer(library, "a/tiny/image/0.html").content.decode()
    library.volume("tiny").sheets = None
