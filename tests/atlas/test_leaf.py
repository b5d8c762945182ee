"""The bytes of a leaf: tables, overview, marker."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.atlas.conftest import SITES, leaf_files, picture

from vitscope.atlas.leaf import (
    TILE,
    ExemplarRow,
    UnitRow,
    digest,
    exemplar_table,
    exemplars_of,
    ok_bytes,
    sprite,
    table_bytes,
    unit_table,
    webp,
)
from vitscope.errors import AtlasError

UNIT = UnitRow(7, "ok", 10, 0.1, 0.2, -1.0, math.inf, 0.5, 1, 2, (1, 2, 3), ("dog",))
SHOWN = ExemplarRow(
    7, "maximum", 0, "ab" * 16, "a\n<b>\\xff.png", None, 0.25, "1,2", -1.0, 2.0, bytes(range(6))
)


def test_units_round_trip():
    rows = [UNIT, replace(UNIT, unit=8, labels=())]
    assert [UnitRow.from_record(row) for row in unit_table(table_bytes(rows, of=UnitRow)).to_pylist()] == rows


def test_exemplars_round_trip():
    rows = [SHOWN, replace(SHOWN, rank=1), replace(SHOWN, unit=8, map=None, map_low=None, map_high=None)]
    table = exemplar_table(table_bytes(rows, of=ExemplarRow))
    assert exemplars_of(table, 7) == rows[:2]
    assert exemplars_of(table, 8) == rows[2:]
    assert exemplars_of(table, 9) == []


def test_an_empty_table_keeps_its_columns():
    assert exemplar_table(table_bytes([], of=ExemplarRow)).num_rows == 0


def test_equal_rows_are_equal_bytes_and_other_tools_can_read_them():
    first, again = (leaf_files(SITES[0], 0) for _ in range(2))
    assert first == again
    assert pq.read_table(io.BytesIO(first["units.parquet"])).column_names[:3] == ["unit", "status", "count"]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"<html>", table_bytes([SHOWN], of=ExemplarRow)[:-9]])
def test_fault_064_what_is_no_table_is_an_atlas_error(content):
    with pytest.raises(AtlasError, match="not a table of an atlas"):
        unit_table(content)
    with pytest.raises(AtlasError, match="not a table of an atlas"):
        exemplar_table(content)


def test_a_table_of_another_kind_is_refused():
    with pytest.raises(AtlasError, match="not a table of an atlas"):
        unit_table(table_bytes([SHOWN], of=ExemplarRow))


def test_the_marker_lists_sizes_and_hashes():
    assert json.loads(ok_bytes({"pack": b"abc"})) == {"pack": {"size": 3, "sha256": digest(b"abc")}}


def test_the_sprite_puts_unit_n_on_tile_n():
    sheet = Image.open(io.BytesIO(sprite({0: picture(0), 17: picture(120)})))
    assert sheet.size == (16 * TILE, 16 * TILE)
    middle = [
        sheet.getpixel((column * TILE + 32, row * TILE + 32))[0] for row, column in ((0, 0), (1, 1), (5, 5))
    ]
    np.testing.assert_allclose(middle, [0, 120, 226], atol=3)


def test_webp_of_an_array_and_of_a_picture_are_equal():
    pixels = np.full((8, 8, 3), 9, np.uint8)
    assert webp(pixels, quality=80) == webp(Image.fromarray(pixels), quality=80)
