"""The page of a look and its sheets: one file without scripts, names escaped, PNGs that say what they are."""

import json
import re

import numpy as np
import pytest
from PIL import Image

import vitscope
from vitscope.look import look
from vitscope.look.page import page
from vitscope.look.sheets import Tile, group_map, heat, over, png, sheet
from vitscope.testing import tiny_cnn


@pytest.fixture(scope="module")
def html(seen):
    return page(seen).decode()


def test_the_page_is_one_file_without_scripts(html):
    assert "<script" not in html
    assert not re.search(r"""(?:src|href)="(?!data:)""", html)
    assert "default-src 'none'; img-src data:" in html


def test_everything_is_on_the_page(seen, html):
    assert "dog &amp; cat.jpg" in html
    assert "dog & cat" not in html
    for guess in seen.guesses:
        assert f"{100 * guess.probability:.1f} %" in html
    for title in ("Where each head looks", "Units that fire most", "Places that are alike", "come from"):
        assert title in html
    assert html.count('<div class="photo') == 1 + 1 + 3 + 9 + 9 + 3
    assert all(note.replace("'", "&#39;") in html for note in seen.notes)
    assert len(html) < 200_000


def test_what_a_model_lacks_is_not_on_its_page(photo):
    html = page(look(tiny_cnn(), photo)).decode()
    assert "Where each head looks" not in html
    assert "could have come from" not in html
    assert "has no attention weights" in html


def test_dreams_and_exemplars_stand_beside_units(vit, photo, atlas):
    html = page(look(vit, photo, atlas=atlas, units=96)).decode()
    assert html.count('alt="Dream of blocks.1.ffn:') == 2
    assert html.count('alt="Exemplar 3 of blocks.1.ffn:') == 96
    assert "of images" in html or "above all images" in html


def test_files(seen, tmp_path):
    path = seen.save(tmp_path / "out")
    names = ["groups.png", "heads.png", "index.html", "picture.png", "rollout.png", "units.png"]
    assert sorted(file.name for file in path.parent.iterdir()) == names
    for name in names:
        if name.endswith(".png"):
            assert vitscope.explain(path.parent / name).settings["image"] == "dog & cat.jpg"
    with Image.open(path.parent / "picture.png") as picture:
        assert picture.size == (448, 448)
    before = path.read_bytes()
    assert seen.save(tmp_path / "out").read_bytes() == before


def test_json_is_finite_and_whole(seen):
    document = json.loads(json.dumps(seen.describe(), allow_nan=False))
    assert set(document) == {
        *("model", "image", "prediction", "heads", "rollout", "units", "groups", "notes", "provenance")
    }
    assert np.array(document["heads"][4]["view"]).shape == (4, 4)
    assert set(document["units"][0]) == {"address", "value", "place", "height", "percentile", "view"}


def test_a_notebook_shows_the_picture_and_where_attention_comes_from(seen):
    html = seen._repr_html_()
    assert html.count("<img") == 3
    assert "dog &amp; cat.jpg" in html


def test_heat_is_clear_where_cold_and_bright_where_hot(tmp_path):
    view = np.array([[0.0, 1.0], [2.0, 4.0]])
    (tmp_path / "heat.png").write_bytes(heat(view, span=(0.0, 4.0)))
    with Image.open(tmp_path / "heat.png") as image:
        opacity = np.asarray(image)[..., 3]
    assert opacity[0, 0] == 0
    assert (np.diff(opacity.ravel().astype(int)) > 0).all()
    assert heat(np.ones((2, 2))) == heat(np.zeros((2, 2)))


def test_a_sheet_holds_every_tile():
    base = Image.new("RGB", (112, 112), (200, 100, 50))
    layer = group_map(np.array([[0, 1], [2, 2]]))
    tile = over(base, layer)
    made = sheet([("first", [Tile(tile, "a"), Tile(tile)]), ("second", [Tile(tile)])])
    assert made.width > 2 * 112 + 40
    assert tile.getpixel((10, 10)) != tile.getpixel((100, 10))
    assert png(made) == png(made)
