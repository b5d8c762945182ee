"""What the pages refuse, and that damage stays where it is."""

import re
import shutil

import pytest
from tests.viewer.conftest import UNIT

from vitscope.viewer.app import ROUTES
from vitscope.viewer.files import FILES

ODD = [
    "..",
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "/etc/passwd",
    "%2fetc",
    "a%5cb",
    "%00",
    "%23",
    "%3f",
    "%0d%0a",
    "%ff",
    "~",
    ":",
    "@",
]


def test_only_reading_is_possible(client):
    for path in ("/", "/a/tiny", UNIT, "/api/tiny"):
        assert client.head(path).status_code == 200
        for method in ("post", "put", "delete", "patch"):
            asked = getattr(client, method)
            assert asked(path).status_code == 403  # no page of ours asks so
            assert asked(path, headers={"origin": "http://localhost:8000"}).status_code == 405


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    "route",
    [
        *(route for route in ROUTES if "{" in route and ":path" not in route),
        *(f"/{file.pattern}" for file in FILES if "{" in file.pattern),
    ],
)
def test_fault_076_odd_names_are_not_found_in_any_route(raw, route, odd):
    """Each name of each route in turn is replaced, with the others right."""
    right = {"atlas": "tiny", "site": "logits", "address": "logits:0", "number": "1", "page_number": "1",
             "unit": "0", "image": f"{1:032x}", "mark": "0", "name": "viewer.css"}  # fmt: skip
    for asked in re.findall(r"\{(.+?)\}", route):
        target = route
        for name, value in right.items():
            target = target.replace(f"{{{name}}}", odd if name == asked else value)
        status, answer = raw(target.encode())
        assert status == 404, target
        assert b"root:" not in answer


OUTSIDE = [
    b"//etc/passwd", b"//evil.example/", b"/a/tiny/", b"/..", b"/a/../../etc", b"/static/../app.py",
    b"/%2e%2e/%2e%2e/etc",
    b"/static/%2e%2e%2fapp.py", b"/a/tiny/unit/..%2f..", b"/\\evil.example", b"/index.html/", b"//index.html",
]  # fmt: skip


@pytest.mark.parametrize("target", OUTSIDE)
def test_fault_076_paths_outside_are_not_found_and_lead_nowhere(raw, target):
    status, answer = raw(target)
    assert status == 404
    assert b"\r\nlocation:" not in answer.lower()


def test_fault_076_a_raw_nul_never_reaches_the_pages(raw):
    assert raw(b"/a/tiny/unit/logits/\x00.html")[0] in (400, 404)


@pytest.mark.parametrize("text", ["a" * 300, "\x00\x01\x02", "x " * 500, "🙂", "'; drop table", "%%%", ""])
def test_fault_082_any_typed_text_is_answered(client, text):
    assert client.get("/a/tiny/go", params={"address": text}).status_code == 404


@pytest.mark.parametrize(
    "page", ["-1", "0", "1e30", "abc", "99999999999999999999", "1.0", "²", "٣", "nan", "+1", " 1", "3"]
)
def test_fault_083_no_page_and_no_unit_of_that_number(client, page):
    answer = client.get(f"/a/tiny/site/blocks.0.ffn/{page}.html")
    assert answer.status_code == 404
    assert "has the pages 1 to 2" in answer.text
    assert client.get(f"/a/tiny/data/blocks.0.ffn/{page}.json").status_code == 404
    if page not in ("0", "3"):
        assert client.get(f"/a/tiny/unit/blocks.0.ffn/{page}.html").status_code == 404


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/a/tiny/unit/blocks.0.ffn/300.html", "no unit 300 at blocks.0.ffn: it has 300 units (0..299)"),
        ("/a/tiny/unit/blocks.0.ffn/99999999999999999999.html", "it has 300 units"),
        ("/a/tiny/unit/blocks.1.ffn/0.html", "no site &#39;blocks.1.ffn&#39; in tiny"),
        ("/a/tiny/unit/logits", "There is no such page."),
        ("/a/tiny/unit/logits/x.html", "is no unit of logits: it has 0 to 9"),
        ("/a/tiny/image/77.html", "No image of tiny whose identity begins with"),
        ("/a/tiny/site/blocks.9.ffn/1.html", "no site &#39;blocks.9.ffn&#39; in tiny"),
    ],
)
def test_fault_084_unknown_names_get_a_page_with_links(client, path, message):
    answer = client.get(path)
    assert answer.status_code == 404
    assert message in answer.text
    assert 'a/tiny/site/blocks.0.ffn/1.html"' in answer.text


def test_fault_084_an_unknown_atlas_leads_home(client):
    answer = client.get("/a/other/index.html")
    assert answer.status_code == 404
    assert 'href="../../index.html"' in answer.text
    assert client.get("/api/other").json() == {"error": "There is no atlas of that name here."}


def test_fault_072_what_is_not_built_yet_is_told_and_the_rest_is_shown(client_of, make_atlas):
    client = client_of(make_atlas(without=("blocks.00.ffn/0001.ok", "logits/0000.ok")))
    page = client.get("/a/own/index.html").text
    assert "1 of 3 leaves built" in page
    assert client.get("/a/own/unit/blocks.0.ffn/0.html").status_code == 200
    waiting = client.get("/a/own/unit/blocks.0.ffn/256.html")
    assert waiting.status_code == 503
    assert "not built yet" in waiting.text


def test_fault_072_leaves_that_are_finished_later_appear(client_of, make_atlas, atlas):
    growing = make_atlas(without=("logits/0000.ok",))
    client = client_of(growing)
    assert client.get("/a/own/unit/logits/0.html").status_code == 503
    shutil.copy(atlas.path / "sites/logits/0000.ok", growing.path / "sites/logits/0000.ok")
    assert client.get("/a/own/unit/logits/0.html").status_code == 200
    assert "complete" in client.get("/a/own/index.html").text


@pytest.mark.parametrize("part", ["units.parquet", "exemplars.parquet", "pack", "sprite.webp", "ok"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed"])
def test_fault_064_and_088_a_damaged_leaf_costs_its_own_pages_only(client_of, make_atlas, part, damage):
    atlas = make_atlas()
    client = client_of(atlas)
    hurt = atlas.path / "sites/blocks.00.ffn" / f"0000.{part}"
    content = bytearray(hurt.read_bytes())
    content[len(content) // 2] ^= 0xFF
    if damage == "removed":
        hurt.unlink()
    else:
        hurt.write_bytes(content if damage == "flipped" else content[:-7])
    paths = ["site/blocks.0.ffn/1.html", "unit/blocks.0.ffn/0.html", "sprite/blocks.0.ffn/1.webp"]
    answers = [client.get(f"/a/own/{path}") for path in paths]
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert 503 in {answer.status_code for answer in answers}
    assert all("own.atlas" in answer.text for answer in answers if answer.status_code == 503)
    for path in (
        "/index.html",
        "/health.html",
        "/site/blocks.0.ffn/2.html",
        "/map/blocks.0.ffn.html",
        "/data/blocks.0.ffn.json",
        "/unit/blocks.0.ffn/256.html",
        "/unit/logits/0.html",
        "/sprite/blocks.0.ffn/2.webp",
    ):
        assert client.get(f"/a/own{path}").status_code == 200


def test_a_damaged_leaf_is_told_on_its_page_of_the_grid_with_the_way_on(client_of, make_atlas):
    atlas = make_atlas()
    (atlas.path / "sites/blocks.00.ffn/0000.units.parquet").write_bytes(b"")
    client = client_of(atlas)
    answer = client.get("/a/own/site/blocks.0.ffn/1.html")
    assert answer.status_code == 503
    assert "is damaged" in answer.text
    assert "blocks.0.ffn/2.html" in answer.text
    assert "1 damaged" in client.get("/a/own/index.html").text


def test_a_lost_thumbnail_costs_one_picture(client_of, make_atlas):
    atlas = make_atlas()
    lost = f"{1:032x}"
    (atlas.path / f"images/{lost[:2]}/{lost}.webp").unlink()
    client = client_of(atlas)
    assert client.get(f"/a/own/thumbnail/{lost}.webp").status_code == 503
    assert client.get("/a/own/unit/blocks.0.ffn/0.html").status_code == 200


@pytest.mark.parametrize(
    "content", [b"<svg xmlns='http://www.w3.org/2000/svg' onload='x()'/>", b"<script>x()</script>" * 9]
)
def test_fault_075_what_is_not_an_image_is_not_served(client_of, make_atlas, content):
    atlas = make_atlas()
    image = f"{1:032x}"
    (atlas.path / f"images/{image[:2]}/{image}.webp").write_bytes(content)
    answer = client_of(atlas).get(f"/a/own/thumbnail/{image}.webp")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "onload" not in answer.text
    assert "x()" not in answer.text


@pytest.mark.parametrize(
    "page", ["/a/tiny/index.html", UNIT, "/a/tiny/site/blocks.0.ffn/1.html", "/a/tiny/unit/%3Cscript%3Ex"]
)
def test_fault_081_names_are_text_in_every_page(client, page):
    html = client.get(page).text
    assert re.findall(r"<script[^>]*>", html) == [re.search(r"<script[^>]*>", html).group()]
    assert "onerror=document" not in re.sub(r'"[^"]*"', "", re.sub(r"&#?\w+;", "", html)).split("<main")[0]
    assert not re.search(r"<[^>]*\son\w+\s*=", re.sub(r'"[^"]*"', '""', html))
    assert " style=" not in re.sub(r'"[^"]*"', '""', html)
