"""What notebooks show: self-contained, small, and inert whoever chose the names."""

import io
import re
from base64 import b64decode
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from tests.viewer.conftest import HOSTILE, write_atlas

from vitscope.atlas.leaf import webp
from vitscope.atlas.read import Atlas
from vitscope.dream.result import Dream
from vitscope.models.vision_model import MAP, Site, Sites
from vitscope.notebook import LARGEST, TABLE, Picture, card, cell, fitted, line, pictures, sentence, table
from vitscope.provenance import Provenance
from vitscope.studies.result import Result

LONG = HOSTILE * 50
NOISE = np.random.default_rng(0).integers(0, 256, (384, 384, 3), np.uint8)
MADE = Provenance("dream", LONG, "sha256:00", {})
VOID = {"img", "br"}


class Reader(HTMLParser):
    """What a browser would make of it: tags with their attributes, all closed in order, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def atlas(tmp_path_factory) -> Atlas:
    """With hostile names."""
    return Atlas.open(write_atlas(tmp_path_factory.mktemp("notebook") / "tiny.atlas"))


def a_dream() -> Dream:
    trust = {"status": HOSTILE, "robust": 1.5, "start": float("nan"), "retried": False, LONG: LONG}
    pixels = torch.from_numpy(NOISE).movedim(-1, 0) / 255
    return Dream(LONG, pixels, 2.5, torch.linspace(0, 1, 3000), trust, 0, HOSTILE, MADE)


def a_site() -> Site:
    return Site(HOSTILE, LONG, MAP, 3, grid=(2, 2))


def a_result(draw=None) -> Result:
    table = tuple({"model": HOSTILE, HOSTILE: HOSTILE * 2, "top1": 1 / 3} for _ in range(2000))
    return Result("frequency", (HOSTILE,), table, {}, (), MADE, draw)


def a_figure(result) -> dict[str, Figure]:
    figure = Figure(figsize=(8, 8))
    figure.figimage(NOISE.repeat(4, 0).repeat(4, 1))
    return {"main": figure}


def a_unit(atlas: Atlas):
    """With more and larger pictures than an atlas keeps, and long names."""
    unit = atlas["blocks.0.ffn:0"]
    noisy = webp(NOISE, quality=100)
    exemplars = tuple(replace(unit.exemplars[0], rank=rank, path=LONG) for rank in range(20))
    dreams = (replace(unit.dreams[0], image=noisy, recipe=LONG),) * 9
    return replace(unit, exemplars=exemplars, dreams=dreams, thumbnail=lambda _: noisy)


def values(atlas) -> dict[str, object]:
    return {
        "dream": a_dream(),
        "unit": a_unit(atlas),
        "site": a_site(),
        "sites": Sites([a_site()] * 5000, model=LONG),
        "atlas": atlas,
        "result": a_result(),
        "result with a figure": a_result(draw=a_figure),
    }


KINDS = ("dream", "unit", "site", "sites", "atlas", "result", "result with a figure")


@pytest.mark.parametrize("kind", KINDS)
def test_fault_081_what_a_notebook_shows_is_inert_whole_and_small(kind, atlas):
    html = values(atlas)[kind]._repr_html_()
    assert len(html.encode()) < LARGEST
    read = Reader(html)
    names = {tag for tag, _ in read.tags}
    assert not names & {"script", "style", "iframe", "link", "object", "form", "base", "meta"}
    assert not any(name.startswith("on") for _, attrs in read.tags for name in attrs)
    assert all(attrs["src"].startswith("data:image/") for tag, attrs in read.tags if tag == "img")
    assert all(attrs["alt"] is not None for tag, attrs in read.tags if tag == "img")
    assert not [attrs for _, attrs in read.tags if "href" in attrs]
    assert "<script>" in read.text or kind == "unit"  # the name is there, as text
    assert "url(" not in html
    assert not re.search(r"(color|background)\s*:", html)  # the notebook's own, dark or light


def test_a_dream_shows_its_picture_its_trust_and_its_climb():
    read = Reader(a_dream()._repr_html_())
    (image,) = [attrs for tag, attrs in read.tags if tag == "img"]
    with Image.open(io.BytesIO(b64decode(image["src"].partition(",")[2]))) as shown:
        assert shown.width == shown.height >= 96
    assert "score 2.5" in read.text
    assert "robust 1.5" in read.text
    assert "start –" in read.text
    assert "retried" not in read.text
    assert "score by step, from 0 to 1" in read.text


def test_a_unit_shows_dreams_exemplars_and_where_they_excite_it(atlas):
    read = Reader(atlas["blocks.0.ffn:0"]._repr_html_())
    images = [attrs for tag, attrs in read.tags if tag == "img"]
    assert [attrs["alt"] for attrs in images] == [
        "A picture synthesised to excite blocks.0.ffn:0",
        *("exemplar 1", "", "exemplar 2", "", "exemplar 3", ""),
    ]
    assert "pixelated" in images[2]["style"]
    for text in ("blocks.0.ffn:0: ok", "3.5 @0,1", "dream by ghiasi_2022", "zeros 0.25", "variance –"):
        assert text in read.text


def test_pictures_that_are_not_there_or_damaged_are_left_out_and_the_rest_is_shown(atlas):
    unit = atlas["blocks.0.ffn:0"]
    lost = replace(unit, thumbnail=lambda _: atlas.thumbnail("f" * 32))
    assert Reader(lost._repr_html_()).text.count("@") == 0
    broken = replace(unit.dreams[0], image=b"RIFF____WEBP" + b"x" * 200_000)
    read = Reader(replace(unit, dreams=(broken,))._repr_html_())
    assert "damaged: A picture synthesised" in read.text
    assert "3.5 @0,1" in read.text
    assert "exemplar" not in replace(unit, thumbnail=None)._repr_html_()


def test_an_atlas_shows_its_sites_and_an_overview_of_some(atlas):
    read = Reader(atlas._repr_html_())
    assert "complete" in read.text
    assert [attrs["alt"] for tag, attrs in read.tags if tag == "img"] == [
        "The first units of blocks.0.ffn",
        "The first units of logits",
    ]
    assert "<td>blocks.0.ffn</td><td>300</td><td>2</td><td>2</td>" in atlas._repr_html_()


def test_a_table_says_how_many_rows_it_leaves_out():
    html = table(["a"], ([number] for number in range(100_000)))
    shown = html.count("<tr>") - 1
    assert TABLE / 2 < len(html) < TABLE + 1000
    assert f"and {100_000 - shown:,} rows more" in html
    assert "more" not in table(["a"], [["b"]])


@given(st.text(), st.text(), st.floats() | st.none() | st.booleans() | st.text())
def test_any_text_is_only_text(title, name, value):
    html = card(title, sentence({name: value}), table([name], [[value]], caption=title))
    assert {tag for tag, _ in Reader(html).tags} <= {
        *("div", "p", "b", "span", "table", "caption", "thead", "tbody", "tr", "th", "td")
    }


def test_control_characters_are_shown_and_numbers_are_short():
    assert [cell(value) for value in (None, float("inf"), 1 / 3, 4, "a\nb", True, "\u202e")] == [
        *("–", "–", "0.3333", "4", "a\\nb", "True", "\\u202e")
    ]


@pytest.mark.parametrize("room", [100, 5_000, 50_000, 10**6])
def test_a_picture_is_made_to_fit_and_never_larger(room):
    noisy = webp(NOISE, quality=100)
    found = fitted(noisy, room=room)
    assert (found == noisy) == (len(noisy) <= room)
    assert len(found) <= max(room, 400)
    with Image.open(io.BytesIO(found)) as image:
        assert image.format == "WEBP"


def test_what_is_transparent_stays_so():
    sink = io.BytesIO()
    Image.fromarray(np.dstack([NOISE, NOISE[..., 0]])).save(sink, "PNG")
    with Image.open(io.BytesIO(fitted(sink.getvalue(), room=50_000))) as image:
        assert image.mode == "RGBA"


def test_nothing_to_show_is_nothing():
    assert pictures([]) == sentence({"a": None, "b": False}) == line([1.0], alt="a") == ""
    assert "data:image/png" in pictures([Picture(b"\x89PNG", "a", 8)])


def test_a_line_runs_from_left_to_right_and_high_is_up():
    points = re.search(r'points="([^"]+)"', line([0.0, 3.0, 1.5], alt="a")).group(1)
    assert points == "0.0,40.0 110.0,2.0 220.0,21.0"
    assert 'points="0.0,40.0 220.0,40.0"' in line([2.0, 2.0], alt="flat")
