"""Images that are always there: crops at several scales of the photographs in the scikit-image wheel.

Nothing is downloaded, and nothing of scikit-image runs: its photographs are read as files. Each crop
("tile") is a PNG made when it is asked for, the same bytes every time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitscope.data.derived import Images
from vitscope.data.source import RawImage, Shard, Skipped
from vitscope.errors import BadValue, SourceError

_CC0 = "CC0"
_FREE = "no known copyright restrictions"
_PUBLIC = "public domain"
PHOTOGRAPHS = {
    "astronaut": ("astronaut.png", f"{_PUBLIC} (NASA)"),
    "brick": ("brick.png", f"{_CC0} (cc0textures.com)"),
    "camera": ("camera.png", f"{_CC0} (Lav Varshney)"),
    "chelsea": ("chelsea.png", f"{_CC0} (Stefan van der Walt)"),
    "clock": ("clock_motion.png", f"{_PUBLIC} (Stefan van der Walt)"),
    "coffee": ("coffee.png", f"{_CC0} (Rachel Michetti)"),
    "coins": ("coins.png", f"{_FREE} (Brooklyn Museum)"),
    "grass": ("grass.png", f"{_CC0} (linolafett)"),
    "gravel": ("gravel.png", f"{_CC0} (cc0textures.com)"),
    "hubble_deep_field": ("hubble_deep_field.jpg", f"{_PUBLIC} (NASA)"),
    "immunohistochemistry": ("ihc.png", f"{_FREE} (CMMI)"),
    "retina": ("retina.jpg", f"{_CC0} (Mikael Häggström)"),
    "rocket": ("rocket.jpg", f"{_PUBLIC} (SpaceX)"),
}
"""Name -> file and licence, as the docstrings of `skimage.data` 0.26 state it. Drawings, test patterns and
photographs without a stated licence are left out."""
TILES = 160
"""Tiles a photograph: 2,080 in all."""
SIDES = (64, 96, 128, 192, 256)
"""Sides of the tiles, in pixels."""
STRIDES = (2, 4)
"""The stride is half the side, then a quarter where a photograph is too small to give enough."""
FLAT = 8.0
"""Least standard deviation of a tile's brightness, of 255: below it there is sky and no picture."""
_SEED = 0


@dataclass(frozen=True)
class Tile:
    """A square of a photograph: its side and upper left corner, in pixels."""

    photograph: str
    side: int
    row: int
    column: int

    @property
    def path(self) -> str:
        """Its name within the source."""
        return f"{self.photograph}/{self.side:03d}px_r{self.row:03d}_c{self.column:03d}.png"

    @property
    def part(self) -> tuple[slice, slice]:
        """Its rows and columns in the photograph."""
        return slice(self.row, self.row + self.side), slice(self.column, self.column + self.side)


class Demo(Images):
    """The bundled photographs as tiles; the label is the photograph. Shuffled, so that shards are alike.

    Raises:
        SourceError: scikit-image is not installed, or lacks a photograph.
        BadValue: text follows `demo:`.
    """

    def __init__(self, path: str = "") -> None:
        if path:
            raise BadValue(f"the source 'demo:' takes no path, but was given {path!r}")
        self.name = "demo:"
        self.classes: tuple[str, ...] | None = tuple(PHOTOGRAPHS)
        self._tiles = _tiles()
        self._place = {tile.path: place for place, tile in enumerate(self._tiles)}
        self.fingerprint = _fingerprint()

    @property
    def paths(self) -> tuple[str, ...]:
        """The name of every entry, in order."""
        return tuple(self._place)

    def __len__(self) -> int:
        return len(self._tiles)

    def read(self, shard: Shard) -> Iterator[RawImage | Skipped]:
        """The tiles of a shard, in order."""
        return map(_load, self._tiles[shard.start : shard.stop])

    def find(self, path: str) -> RawImage | Skipped:
        """One tile by its path; `missing` where there is none of that name."""
        place = self._place.get(path)
        return Skipped(path, "missing", f"not in {self.name}") if place is None else _load(self._tiles[place])

    def describe(self) -> dict[str, Any]:
        """Facts for provenance, with the licence of every photograph."""
        licences = {name: licence for name, (_, licence) in PHOTOGRAPHS.items()}
        return {"name": self.name, "images": len(self), "fingerprint": self.fingerprint, "licence": licences}


def _file(name: str) -> Path:
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SourceError("demo: needs the photographs of scikit-image: pip install scikit-image")
    path = Path(spec.origin).parent / "data" / PHOTOGRAPHS[name][0]
    if not path.is_file():
        raise SourceError(f"demo: this scikit-image does not carry {path.name} (looked in {path.parent})")
    return path


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _photograph(name: str) -> UInt8[np.ndarray, "row column rgb"]:
    with Image.open(_file(name)) as image:
        return np.asarray(image.convert("RGB"))


@lru_cache(maxsize=len(PHOTOGRAPHS))
def _brightness(name: str) -> UInt8[np.ndarray, "row column"]:
    return np.asarray(Image.fromarray(_photograph(name)).convert("L"))


@lru_cache(maxsize=1)
def _tiles() -> tuple[Tile, ...]:
    chosen = [tile for name in PHOTOGRAPHS for tile in _chosen(name)]
    return tuple(sorted(chosen, key=lambda tile: _rank(tile, "order")))


def _chosen(name: str) -> list[Tile]:
    """The first `TILES` of a photograph, in a fixed random order, that are neither flat nor seen before."""
    chosen: list[Tile] = []
    seen: set[bytes] = set()
    for tile in _candidates(name):
        brightness = _brightness(name)[tile.part]
        content = hashlib.sha256(brightness.tobytes()).digest()
        if content not in seen and brightness.std() >= FLAT:
            seen.add(content)
            chosen.append(tile)
        if len(chosen) == TILES:
            break
    return chosen


def _candidates(name: str) -> Iterator[Tile]:
    """Every tile of a photograph, those of the coarse grid first, each grid in a fixed random order."""
    for stride in STRIDES:
        yield from sorted(_grid(name, stride), key=lambda tile: _rank(tile, "choice"))


def _grid(name: str, stride: int) -> Iterator[Tile]:
    rows, columns, _ = _photograph(name).shape
    for side in SIDES:
        for row in range(0, rows - side + 1, side // stride):
            for column in range(0, columns - side + 1, side // stride):
                yield Tile(name, side, row, column)


def _rank(tile: Tile, purpose: str) -> bytes:
    """A random number that any machine and any version of Python draws alike."""
    return hashlib.sha256(f"{_SEED} {purpose} {tile.path}".encode()).digest()


@lru_cache(maxsize=1)
def _fingerprint() -> str:
    """Of the photographs' bytes and the tiles' names: the encoder of the PNGs does not matter."""
    digest = hashlib.sha256()
    for name in PHOTOGRAPHS:
        digest.update(_file(name).read_bytes())
    for tile in _tiles():
        digest.update(tile.path.encode())
    return f"sha256:{digest.hexdigest()}"


def _load(tile: Tile) -> RawImage:
    content = BytesIO()
    Image.fromarray(_photograph(tile.photograph)[tile.part]).save(content, "PNG", compress_level=1)
    return RawImage(tile.path, content.getvalue(), list(PHOTOGRAPHS).index(tile.photograph))
