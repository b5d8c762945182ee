"""The contact sheet of a small atlas: every unit in its place, photographs only where they are asked for."""

import importlib.util
import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitscope
from vitscope.atlas.read import Atlas
from vitscope.atlas.unit import StoredDream
from vitscope.dream.recipes import GHIASI_2022
from vitscope.errors import AtlasError, BadValue, SourceError
from vitscope.testing import tiny_vit

HERE = Path(__file__).parents[1] / "docs"
TILE = 32


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("contact_sheet", HERE / "contact_sheet.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for their names there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def painted(folder: Path, *, shift: int = 0) -> Path:
    """Six plain pictures, each of another colour."""
    folder.mkdir()
    for number in range(6):
        colour = (40 * number + shift, 255 - 40 * number, 90)
        Image.new("RGB", (40, 36), colour).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with `photos` and an atlas over them: two sites, three dreams each."""
    folder = tmp_path_factory.mktemp("sheet")
    torch.manual_seed(0)
    vitscope.build(
        tiny_vit(),
        vitscope.images(f"folder:{painted(folder / 'photos')}"),
        sites="blocks.*.ffn",
        dreams=3,
        k=2,
        recipe=GHIASI_2022.replace(name="quick", steps=2, copies=2),
        out=folder / "tiny.atlas",
    )
    return folder


def cells(script, sheet, *, shown: int, rows: int, columns: int):
    """The pictures of every cell, as the layout promises them."""
    width, height = shown * TILE, TILE + 2 * script.LINE + 4
    top = script.GAP + script.LINE + (1 + shown) * script.LINE
    assert sheet.size == (
        script.GAP + columns * (width + script.GAP),
        top + script.GAP + rows * (height + script.GAP),
    )
    for row in range(rows):
        for column in range(columns):
            left = script.GAP + column * (width + script.GAP)
            upper = top + script.GAP + row * (height + script.GAP)
            yield [
                np.asarray(sheet.crop((left + n * TILE, upper, left + (n + 1) * TILE, upper + TILE)))
                for n in range(shown)
            ]


def test_dreams_alone(script, built):
    sheet, made = script.drawn(built / "tiny.atlas", tile=TILE)
    atlas = Atlas.open(built / "tiny.atlas")
    rows = script.chosen(atlas, "blocks.*.ffn", 6)
    assert [len(units) for units in rows] == [3] * len(atlas.sites)
    units = [unit for row in rows for unit in row]
    found = list(cells(script, sheet, shown=1, rows=len(rows), columns=3))
    for unit, (dream,) in zip(units, found, strict=True):
        expected = Image.open(io.BytesIO(unit.dreams[0].image)).convert("RGB").resize((TILE, TILE))
        np.testing.assert_array_equal(dream, np.asarray(expected), err_msg=str(unit.address))
    assert made.kind == "contact sheet"
    assert made.settings["photographs"] is False


def test_beside_each_dream_its_best_natural_image(script, built):
    source = f"folder:{built / 'photos'}"
    sheet, made = script.drawn(
        built / "tiny.atlas", source=source, pattern="blocks.1.ffn", count=2, tile=TILE
    )
    rows = script.chosen(Atlas.open(built / "tiny.atlas"), "blocks.1.ffn", 2)
    for unit, (_, natural) in zip(rows[0], cells(script, sheet, shown=2, rows=1, columns=2), strict=True):
        with Image.open(built / "photos" / unit.by_mean[0].path) as photograph:
            colour = photograph.getpixel((20, 18))
        np.testing.assert_array_equal(natural[8:-8, 8:-8], np.broadcast_to(colour, (TILE - 16, TILE - 16, 3)))
    assert made.settings["photographs"] is True


def test_another_source_is_refused(script, built, tmp_path):
    with pytest.raises(SourceError, match=r"not what the atlas was built over: \d.png: another image"):
        script.drawn(built / "tiny.atlas", source=f"folder:{painted(tmp_path / 'other', shift=1)}")


def test_an_atlas_without_dreams_says_how_to_get_them(script, built):
    with pytest.raises(AtlasError, match=r"tiny has no dreams at 'stages.\*': build it with --dreams 6"):
        script.drawn(built / "tiny.atlas", pattern="stages.*")
    with pytest.raises(BadValue, match="must be at least 1, not 0 and 112"):
        script.drawn(built / "tiny.atlas", count=0)


def test_the_file_says_how_it_was_made(script, built, tmp_path):
    script.main(
        [str(built / "tiny.atlas"), "-o", str(tmp_path / "sheet.png"), "--units", "1", "--tile", "24"]
    )
    made = vitscope.explain(tmp_path / "sheet.png")
    assert made.kind == "contact sheet"
    assert made.weights == vitscope.explain(built / "tiny.atlas").weights
    assert made.settings["dreams"]["recipe"]["name"] == "quick"
    assert (made.settings["units"], made.settings["tile"]) == (1, 24)


@pytest.mark.parametrize(
    ("score", "best", "said"),
    [
        (4.239, [2.0, 1.5], "4.24   2.1 x"),
        (-0.0001, [0.5], "0.00   0.0 x"),
        (0.25, [-0.1], "0.25"),
        (0.25, [], "0.25"),
        (None, [2.0], "no score"),
    ],
)
def test_the_facts_of_a_dream(script, built, score, best, said):
    unit = Atlas.open(built / "tiny.atlas")["blocks.1.ffn:0"]
    dream = StoredDream("vitscope", 0, score, {}, "ok", b"")
    exemplars = tuple(replace(unit.exemplars[0], rank=rank, value=value) for rank, value in enumerate(best))
    assert script.facts(replace(unit, dreams=(dream,), by_mean=exemplars)) == said


def test_the_ratio_is_the_one_that_the_atlas_knows(script, built):
    for (unit,) in script.chosen(Atlas.open(built / "tiny.atlas"), "blocks.*.ffn", 1):
        known = unit.dreams[0].trust["natural_ratio"]
        shown = script.facts(unit).partition("   ")[2]
        assert shown == ("" if known is None else f"{round(known, 1) + 0.0:.1f} x")


def test_a_status_that_is_not_ok_stands_out(script):
    grey = Image.new("RGB", (8, 8), "#808080")
    inks = {}
    for status in ("ok", "weak"):
        sheet = script.sheet([[script.Cell("a:1", grey, None, "", status)]], "title", tile=64)
        inks[status] = {colour for _, colour in sheet.getcolors(1 << 16)}
    warning = tuple(bytes.fromhex(script.WARNING[1:]))
    assert warning in inks["weak"]
    assert warning not in inks["ok"]
