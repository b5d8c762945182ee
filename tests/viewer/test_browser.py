"""The pages in a real browser, headless, from a server and from a static host: every page and every key, no
script of others, no request elsewhere, nothing that jumps, names for everything that can be reached."""

import json
import re
import shutil
from pathlib import Path

import pytest
from tests.viewer.conftest import HOSTILE, static_host

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
try:
    from playwright.sync_api import sync_playwright
except ImportError:
    sync_playwright = None
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: the viewer's browser tests are skipped"),
    pytest.mark.skipif(
        sync_playwright is None, reason="no playwright: the viewer's browser tests are skipped"
    ),
]
QUIET = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
UNIT, GRID = "a/tiny/unit/blocks.0.ffn/3.html", "a/tiny/site/blocks.0.ffn/1.html"
PAGES = {
    "home": "index.html",
    "model": "a/tiny/index.html",
    "grid": GRID,
    "sorted": f"{GRID}?sort=peak&status=ok",
    "unit": UNIT,
    "dreamt": "a/tiny/unit/blocks.0.ffn/0.html?crop=1",
    "dead": "a/tiny/unit/blocks.0.ffn/1.html",
    "image": f"a/tiny/image/0.html#{1:032x}",
    "map": "a/tiny/map/blocks.0.ffn.html#7",
    "compare": "compare.html?of=tiny/blocks.0.ffn:3&of=tiny/blocks.0.ffn&of=tiny",
    "studies": "studies/index.html",
    "study": "studies/odd_one.html",
    "health": "a/tiny/health.html",
}
WATCH = """
globalThis.shifted = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) globalThis.shifted += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""
LOOK = Path(__file__).with_name("look.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield started
        started.close()


@pytest.fixture(scope="module", params=["server", "static host"])
def base(request, port, exported):
    """Where the home page lies: at a server, and below a folder of a host of plain files."""
    if request.param == "server":
        yield f"http://localhost:{port}/"
    else:
        with static_host(exported.parents[1]) as number:
            yield f"http://localhost:{number}/below/site/"


@pytest.fixture
def open_page(browser, base):
    """Opens pages in a window of their own, which must not complain, fail to load, or ask another host."""
    contexts, trouble = [], []

    def watched(request):
        if not request.url.startswith((base, "data:")):
            trouble.append(f"asks {request.url}")

    def opened(path, *, width=1280, scheme="light", scripts=True):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, java_script_enabled=scripts
        )
        contexts.append(context)
        context.add_init_script(WATCH)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on(
            "console", lambda told: trouble.append(told.text) if told.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "response", lambda got: trouble.append(f"{got.status} {got.url}") if got.status > 399 else None
        )
        page.on("request", watched)
        page.goto(base + path, wait_until="networkidle")
        return page

    opened.trouble = trouble
    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


def rest_of(page, base):
    return page.url.removeprefix(base)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
def test_fault_081_and_089_every_page_is_whole_named_legible_and_still(open_page, base, width, scheme):
    """On both backs, in both schemes and at both widths; names stay text, and nothing asks another host."""
    if "/below/" in base:
        scheme = {"light": "dark", "dark": "light"}[scheme]
    page = open_page(PAGES["home"], width=width, scheme=scheme)
    for name, path in PAGES.items():
        page.goto(base + path, wait_until="networkidle")
        found = page.evaluate(LOOK)
        expected = {"nameless": [], "altless": 0, "pale": [], "scripts": 1}
        assert {key: found[key] for key in expected} == expected, name
        assert found["wide"] <= 0, name
        assert found["headings"] == (4 if name == "compare" else 1), name
        assert found["shifted"] < 0.1 or name in ("sorted", "compare"), (name, found["shifted"])
        assert "owned" not in re.sub(re.escape(HOSTILE), "", found["title"]), name


def test_keys_of_a_unit_lead_where_the_help_says(open_page, base):
    page = open_page(f"{UNIT}?by=mean")

    def press(key, until):
        page.keyboard.press(key)
        page.wait_for_url(f"{base}{until}", wait_until="load")

    for key, unit in (("j", 4), ("ArrowRight", 5), ("k", 4), ("ArrowLeft", 3)):
        press(key, f"a/tiny/unit/blocks.0.ffn/{unit}.html?by=mean")
    for kind in ("middle", "random"):
        page.keyboard.press("m")
        assert rest_of(page, base) == f"{UNIT}?by={kind}"
        assert page.locator("[data-ranking]:visible").count() == 1
        assert page.locator(f"#by-{kind}").is_visible()
    page.keyboard.press("m")
    assert rest_of(page, base) == UNIT
    assert page.locator("#by-max").is_visible()
    assert page.locator("#by-mean").is_hidden()
    root = page.locator("html")
    page.keyboard.press("h")
    assert "no-heat" in root.get_attribute("class")
    assert rest_of(page, base) == f"{UNIT}?heat=0"
    page.keyboard.press("h")
    page.keyboard.press("w")
    assert root.get_attribute("class").split() == ["js", "crop"]
    assert rest_of(page, base) == f"{UNIT}?heat=1&crop=1"
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("logits:99")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.validationMessage") == "logits has the units 0 to 9."
    page.locator("[name=address]").fill("logits:7")
    page.keyboard.press("Enter")
    page.wait_for_url(f"{base}a/tiny/unit/logits/7.html")
    press("g", "a/tiny/site/logits/1.html#u7")
    page.keyboard.press("r")
    page.wait_for_url(re.compile(r"/unit/[\w.]+/\d+\.html"))
    page.go_back()
    assert rest_of(page, base) == "a/tiny/site/logits/1.html#u7"


def test_an_address_is_copied(open_page, base):
    page = open_page(UNIT)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.keyboard.press("c")
    page.get_by_role("button", name="copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "blocks.0.ffn:3"
    page.get_by_role("button", name="cite").click()
    page.get_by_role("button", name="copied").nth(1).wait_for()
    told = page.evaluate("navigator.clipboard.readText()")
    assert told.startswith("Unit blocks.0.ffn:3 of test:")
    assert told.endswith(base + UNIT)


def test_a_grid_is_sorted_and_filtered_and_its_state_is_in_the_address(open_page, base):
    page = open_page(GRID)
    tiles = page.locator(".tiles > li")
    assert tiles.count() == 256
    page.locator("[name=status]").select_option("nan")
    page.get_by_text("1 of 300 units").wait_for()
    assert tiles.count() == 1
    assert rest_of(page, base) == f"{GRID}?status=nan"
    page.locator("[name=status]").select_option("")
    page.locator("[name=sort]").select_option("selectivity")
    page.get_by_text("15 of 300 units").wait_for()  # the others have no class
    page.locator("[name=class]").select_option(HOSTILE)
    page.wait_for_url(re.compile("class="))
    page.reload(wait_until="networkidle")
    page.get_by_text(re.compile("of 300 units")).wait_for()
    assert page.locator("[name=class]").input_value() == HOSTILE
    page.go_back()
    page.go_back()
    page.go_back()
    page.wait_for_function("document.querySelectorAll('.tiles > li').length === 1")
    page.go_back()
    page.wait_for_function("document.querySelectorAll('.tiles > li').length === 256")
    page.locator(".tile").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.closest('li').id") == "u1"
    page.keyboard.press("ArrowDown")
    assert page.evaluate("Number(document.activeElement.closest('li').id.slice(1))") > 2
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("j")
    page.wait_for_url(f"{base}a/tiny/site/blocks.0.ffn/2.html")
    page.keyboard.press("m")
    page.wait_for_url(f"{base}a/tiny/map/blocks.0.ffn.html")


def test_numbers_that_cannot_be_loaded_are_told(open_page, base):
    page = open_page(GRID)
    page.route("**/data/*.json", lambda route: route.fulfill(status=200, body="no numbers"))
    page.locator("[name=sort]").select_option("peak")
    page.get_by_text("could not be loaded").wait_for()
    assert page.locator(".tiles > li").count() == 256


def test_an_image_shows_only_what_was_asked_for_with_its_units_as_pictures(open_page, base):
    page = open_page(PAGES["image"])
    assert page.locator(".depicted:visible").count() == 1
    assert page.locator(".depicted:visible .chip .window").count() == 22
    page.get_by_text("Show all 3 images").click()
    page.locator(".depicted:visible").nth(2).wait_for()
    assert page.locator(".depicted:visible").count() == 3


def test_the_map_moves_zooms_and_opens_a_unit(open_page, base):
    page = open_page(PAGES["map"])
    canvas = page.locator("canvas")
    canvas.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("+")
    page.wait_for_url(re.compile(r"\?x=[\d.]+&y=[\d.]+&z=120\.0#7"))
    page.get_by_role("button", name="whole").click()
    page.wait_for_url(re.compile(r"x=9\.0&y=8\.5"))
    painted = "(c) => c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data[3]"
    page.wait_for_timeout(100)
    assert canvas.evaluate(painted) == 255
    canvas.hover()
    page.mouse.wheel(0, -300)
    canvas.click()
    page.wait_for_url(re.compile(r"/unit/blocks\.0\.ffn/\d+\.html"))


def test_pages_stand_side_by_side_and_share_their_controls(open_page, base):
    page = open_page(PAGES["compare"])
    assert page.locator(".beside > article").count() == 3
    assert page.locator(".beside .trials").count() == 1
    assert page.locator(".beside h1").all_text_contents()[0].split() == ["blocks.0.ffn:3"]
    page.keyboard.press("m")
    assert page.locator("[data-ranking=mean]").is_visible()
    link = page.locator(".beside .frame").first.evaluate("(it) => it.href")
    assert link.startswith(f"{base}a/tiny/image/0.html#")
    page.locator("[name=of]").nth(2).fill("nowhere/logits")
    with page.expect_response(re.compile("nowhere")) as lost:
        page.get_by_role("button", name="Compare").click()
    assert lost.value.status == 404
    page.get_by_text("There is nothing at nowhere/logits.").wait_for()
    assert all("404" in told for told in open_page.trouble)
    open_page.trouble.clear()


def test_a_table_of_numbers_sorts(open_page, base):
    page = open_page(PAGES["study"])
    head = page.get_by_role("button", name="radius")
    radii = lambda: page.locator("tbody tr td:nth-child(4)").all_text_contents()  # noqa: E731
    head.click()
    first = radii()
    head.click()
    assert radii() == first[::-1]


def test_a_figure_tells_what_is_pointed_at_and_what_the_arrow_keys_come_to(open_page, base):
    page = open_page(PAGES["study"])
    drawn, told = page.locator(".drawn").first, page.locator(".plot output").first
    drawn.focus()
    page.keyboard.press("ArrowRight")
    first = told.text_content()
    assert re.search(r"75\.5 at .*4$", first)
    page.keyboard.press("ArrowRight")
    assert re.search(r"87\.5 at .*16$", told.text_content())
    page.keyboard.press("Escape")
    assert told.text_content() == ""
    x, y, _ = json.loads(drawn.get_attribute("data-spots"))["points"][0]
    box = drawn.bounding_box()
    drawn.hover(position={"x": x * box["width"] + 4, "y": y * box["height"]})
    assert told.text_content() == first
    assert page.locator(".spot").first.is_visible()


def test_fault_089_without_scripts_pages_are_readable_and_nothing_dead_is_shown(open_page, base):
    page = open_page(UNIT, scripts=False)
    assert page.locator("#by-max .frame").count() == 3
    assert page.locator("#by-mean").is_visible()
    for hidden in ("copy address", "cite", "Keys"):
        assert page.get_by_role("button", name=hidden, exact=True).count() == 0
    page.goto(base + PAGES["map"])
    assert page.get_by_text("The same units without one").is_visible()
    page.goto(base + GRID)
    assert page.locator(".sorting").is_hidden()
    assert json.loads(page.evaluate("JSON.stringify(document.querySelectorAll('.tile').length)")) == 256
