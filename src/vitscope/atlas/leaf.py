"""The contents of a leaf, 256 units of one site, as bytes: two Parquet tables, a pack, an overview.

Equal rows are equal bytes: there is no time stamp, and compression and types are fixed. Nothing here touches
a disk.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image

from vitscope.errors import AtlasError

PARTS = ("units.parquet", "exemplars.parquet", "pack", "sprite.webp")
"""The files of a leaf, after its number; "ok" comes last and lists them."""


@dataclass(frozen=True)
class Bundle:
    """Files of a leaf that are committed together: what comes after its number, and what lists them."""

    parts: tuple[str, ...]
    marker: str


LEAF = Bundle(PARTS, "ok")
SAMPLED = Bundle(("samples.parquet", "alike.parquet"), "samples.ok")
"""What a sample of the images says of the units; an atlas of an older vitscope has none until it is built
again."""
TILE = 64
"""Pixels a side of one tile of the overview: 16 x 16 of them, photographs, are about 235 kB."""
TILES = 16
_FLAT = (226, 226, 230)
"""Colour of a tile that has nothing to show."""

_DREAM = pa.struct(
    [
        ("recipe", pa.string()),
        ("seed", pa.int64()),
        ("score", pa.float64()),
        ("robust", pa.float64()),
        ("trust", pa.string()),
        ("status", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
    ]
)
_UNITS = pa.schema(
    [
        ("unit", pa.int32()),
        ("status", pa.string()),
        ("count", pa.int64()),
        ("mean", pa.float64()),
        ("variance", pa.float64()),
        ("minimum", pa.float64()),
        ("maximum", pa.float64()),
        ("zeros", pa.float64()),
        ("nan", pa.int64()),
        ("inf", pa.int64()),
        ("histogram", pa.list_(pa.int64())),
        ("labels", pa.list_(pa.string())),
        ("dreams", pa.list_(_DREAM)),
    ]
)
_EXEMPLARS = pa.schema(
    [
        ("unit", pa.int32()),
        ("ranking", pa.string()),
        ("rank", pa.int16()),
        ("image", pa.string()),
        ("path", pa.string()),
        ("label", pa.string()),
        ("value", pa.float64()),
        ("place", pa.string()),
        ("map_low", pa.float64()),
        ("map_high", pa.float64()),
        ("map", pa.binary()),
    ]
)

_ALIKE = pa.schema(
    [
        ("unit", pa.int32()),
        ("measure", pa.string()),
        ("rank", pa.int16()),
        ("other", pa.int32()),
        ("value", pa.float64()),
    ]
)


@dataclass(frozen=True)
class DreamRow:
    """One dream of a unit, and where its WebP lies in the pack.

    Attributes:
        recipe, seed, score: how it was made and how much it excites its unit; None where it diverged.
        robust: the one number of `trust` that says how far it holds when the picture is moved, None where
            unknown.
        trust: everything the recipe measured about it, as JSON.
        status: "ok" or what went wrong.
        offset, size: bytes in the pack.
        sha256: of those bytes.
    """

    recipe: str
    seed: int
    score: float | None
    robust: float | None
    trust: str
    status: str
    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class UnitRow:
    """Statistics of one unit over all images and places: see `meters.moments` for each number."""

    unit: int
    status: str
    count: int
    mean: float | None
    variance: float | None
    minimum: float | None
    maximum: float | None
    zeros: float | None
    nan: int
    inf: int
    histogram: tuple[int, ...]
    labels: tuple[str, ...] = ()
    dreams: tuple[DreamRow, ...] = field(default=())

    @property
    def has_dream(self) -> bool:
        """Whether there is a picture of it."""
        return bool(self.dreams)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> UnitRow:
        """From one record of the table."""
        return cls(
            **{
                **record,
                "histogram": tuple(record["histogram"]),
                "labels": tuple(record["labels"]),
                "dreams": tuple(DreamRow(**dream) for dream in record["dreams"]),
            }
        )


@dataclass(frozen=True)
class ExemplarRow:
    """One image among the k that excite a unit most, under one ranking.

    `map` holds the unit's activation at every place of the grid, row by row, scaled so that 0 is `map_low`
    and 255 is `map_high`; None where the site has no grid.
    """

    unit: int
    ranking: str
    rank: int
    image: str
    path: str
    label: str | None
    value: float
    place: str
    map_low: float | None
    map_high: float | None
    map: bytes | None


@dataclass(frozen=True)
class AlikeRow:
    """A unit of the same site that is like this one by some measure; rank 0 is the nearest."""

    unit: int
    measure: str
    rank: int
    other: int
    value: float


Row = TypeVar("Row", UnitRow, ExemplarRow, AlikeRow)
_SCHEMAS = {UnitRow: _UNITS, ExemplarRow: _EXEMPLARS, AlikeRow: _ALIKE}


def table_bytes(rows: Sequence[Row], *, of: type[Row]) -> bytes:
    """The Parquet file of some rows, in their order."""
    schema = _SCHEMAS[of]
    table = pa.Table.from_pylist([_record(row) for row in rows], schema=schema)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=3, version="2.6", store_schema=False)
    return sink.getvalue()


def _record(row: UnitRow | ExemplarRow | AlikeRow) -> dict[str, Any]:
    """A row as the table takes it; `dataclasses.asdict` would copy every value, and take most of the time."""
    record = vars(row)
    return record | {"dreams": [vars(dream) for dream in row.dreams]} if isinstance(row, UnitRow) else record


def unit_table(content: bytes) -> pa.Table:
    """The units of a leaf. Raises AtlasError where the bytes are not such a table."""
    return _read(content, _UNITS)


def exemplar_table(content: bytes) -> pa.Table:
    """The exemplars of a leaf. Raises AtlasError where the bytes are not such a table."""
    return _read(content, _EXEMPLARS)


def alike_table(content: bytes) -> pa.Table:
    """Which units are alike. Raises AtlasError where the bytes are not such a table."""
    return _read(content, _ALIKE)


def _read(content: bytes, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(pa.BufferReader(content))
        return table.select(schema.names).cast(schema)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise AtlasError(f"not a table of an atlas: {str(error).splitlines()[0]}") from error


def exemplars_of(table: pa.Table, unit: int) -> list[ExemplarRow]:
    """The exemplars of one unit, both rankings, best first."""
    return [ExemplarRow(**record) for record in rows_of(table, unit)]


def rows_of(table: pa.Table, unit: int) -> list[dict[str, Any]]:
    """The rows of one unit, in their order."""
    found: list[dict[str, Any]] = table.filter(pc.equal(table["unit"], unit)).to_pylist()
    return found


def ok_bytes(files: Mapping[str, bytes]) -> bytes:
    """The commit marker: size and sha256 of every file of the leaf."""
    facts = {name: {"size": len(content), "sha256": digest(content)} for name, content in files.items()}
    return (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode()


def digest(content: bytes) -> str:
    """sha256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def webp(pixels: UInt8[NDArray[np.uint8], "row column 3"] | Image.Image, *, quality: int) -> bytes:
    """A picture as WebP; equal pixels are equal bytes."""
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    sink = io.BytesIO()
    picture.save(sink, "WEBP", quality=quality, method=4)
    return sink.getvalue()


def sprite(pictures: Mapping[int, bytes]) -> bytes:
    """The overview of a leaf: tile n shows the picture of its n-th unit, or a flat colour."""
    sheet = Image.new("RGB", (TILES * TILE, TILES * TILE), _FLAT)
    for index, content in pictures.items():
        row, column = divmod(index, TILES)
        with Image.open(io.BytesIO(content), formats=["WEBP"]) as picture:
            tile = picture.convert("RGB").resize((TILE, TILE), Image.Resampling.BILINEAR, reducing_gap=2.0)
        sheet.paste(tile, (column * TILE, row * TILE))
    return webp(sheet, quality=80)
