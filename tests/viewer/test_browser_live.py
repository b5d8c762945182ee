"""Live work in a real browser: a dream that forms, is stopped, is kept; a picture that is dropped."""

import re
import shutil
from contextlib import suppress

import pytest
from tests.atlas.conftest import model, opened, paint
from tests.viewer.conftest import served
from tests.viewer.test_browser import CHROMIUM, QUIET, pytestmark

from vitscope.atlas import build
from vitscope.atlas.read import Atlas
from vitscope.dream.recipes import OLAH_2017
from vitscope.viewer import behind, live
from vitscope.viewer.app import create_app
from vitscope.viewer.live import Live

with suppress(ImportError):  # the marks skip all tests, saying so
    from playwright.sync_api import expect, sync_playwright

__all__ = ["pytestmark"]
PATIENCE = 60_000
"""Milliseconds that anything may take on a busy machine."""
DROP = """bytes => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "a.png"));
  const drop = new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true });
  document.querySelector("[data-look]").dispatchEvent(drop);
}"""
ENDLESS = OLAH_2017.replace(name="endless", steps=100_000)
QUICK = OLAH_2017.replace(name="quick", steps=12)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of an atlas with hostile class names, and a server over it whose model is there."""
    folder = tmp_path_factory.mktemp("live")
    paint(folder / "photos")
    shutil.move(folder / "photos" / "a", folder / "photos" / "<img src=x onerror=alert(1)>")
    build(
        model(), opened(folder / "photos"), out=folder / "val.atlas", sites="blocks.1.ffn", k=2, batch_size=4
    )
    recipes = {"vitscope": QUICK, "ghiasi_2022": ENDLESS}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(behind, "load", lambda *_, **__: model())
        patch.setattr(live, "recipe_named", recipes.__getitem__)
        with served(create_app([Atlas.open(folder / "val.atlas")], live=Live())) as port:
            yield folder, f"http://localhost:{port}/"


@pytest.fixture
def page(site):
    """A page that must not complain, fail to load, or ask another host."""
    trouble = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        opened_page = browser.new_page(viewport={"width": 1280, "height": 900})
        opened_page.set_default_timeout(PATIENCE)
        opened_page.on("console", lambda told: trouble.append(told.text) if told.type == "error" else None)
        opened_page.on("pageerror", lambda error: trouble.append(str(error)))
        opened_page.on("dialog", lambda dialog: trouble.append(dialog.message))
        opened_page.on(
            "request",
            lambda asked: None if asked.url.startswith((site[1], "data:")) else trouble.append(asked.url),
        )
        yield opened_page
        browser.close()
    assert trouble == []


def wait(place, text):
    """Until a place says something that begins so."""
    expect(place).to_have_text(re.compile(f"^{text}"), timeout=PATIENCE)


def test_a_dream_is_stopped_another_is_finished_and_kept(page, site):
    folder, base = site
    page.goto(f"{base}a/val/unit/blocks.1.ffn/7.html")
    said, picture = page.locator("[data-said]"), page.locator("[data-picture]")
    expect(page.locator("[data-stage]")).to_be_hidden()  # no empty frame before there is a dream
    page.select_option("[data-recipe]", "ghiasi_2022")
    page.locator("h1").click()
    page.keyboard.press("d")
    wait(said, r"step \d+ of 100000: score")
    page.keyboard.press("d")  # begins no second one
    expect(picture).to_have_attribute("src", re.compile("^data:image/jpeg;base64,"))
    expect(picture).not_to_have_attribute("src", picture.get_attribute("src"), timeout=PATIENCE)
    page.get_by_role("button", name="stop").click()
    wait(said, "stopped at step")
    assert not page.locator("[data-keep]").is_visible()
    page.select_option("[data-recipe]", "vitscope")
    page.get_by_role("button", name="dream", exact=True).click()  # the model is free again
    wait(said, "done: score .* robust .* ok")
    assert picture.evaluate("image => [image.complete, image.naturalWidth]") == [True, 32]
    page.get_by_role("button", name="keep").click()
    path = folder / "val.dreams" / "blocks.1.ffn_7.quick.0.png"
    wait(said, re.escape(f"kept: {path}"))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_dropped_picture_shows_what_fires_and_links_to_it(page, site):
    folder, base = site
    page.goto(f"{base}a/val/index.html")
    bad = {"name": "<b>.png", "mimeType": "image/png", "buffer": b"no picture"}
    page.set_input_files("[data-look] input", bad)
    wait(page.locator("[data-said].bad"), "this cannot be read as an image")
    page.evaluate(DROP, list((folder / "photos" / "b" / "01.png").read_bytes()))
    wait(page.locator("[data-said]"), "1 sites?; the percentage is the share")
    cards = page.locator("[data-found] .fired li")
    assert cards.count() == 6
    assert page.locator("[data-found] h3").text_content() == "blocks.1.ffn"
    page.wait_for_load_state("networkidle")
    for image in page.locator("[data-found] img").all():
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")
        assert image.get_attribute("alt") is not None
    shown = cards.first.locator("img").first.get_attribute("alt")
    cards.first.locator("a").click()
    page.wait_for_url("**/unit/blocks.1.ffn/*.html")
    assert page.locator("h1").text_content().split()[0] in shown
