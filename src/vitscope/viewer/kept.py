"""Dreams that people kept: PNGs in a folder beside an atlas, each with how it was made inside it.

The atlas itself is never written to. A dream that was kept on a page of the viewer has its score and trust in
a JSON file beside it; one that somebody else put there is shown without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from vitscope.address import Address
from vitscope.atlas.commit import file_name, write
from vitscope.atlas.leaf import webp
from vitscope.atlas.read import Atlas, StoredDream
from vitscope.errors import BadAddress, VitscopeError
from vitscope.provenance import Provenance, explain

if TYPE_CHECKING:
    from vitscope.dream.result import Dream

QUALITY = 85
"""Of the WebP that a page shows of a PNG."""
MOST = 12
"""Dreams of one unit that a page shows."""


def kept_in(atlas: Atlas) -> Path:
    """The folder beside an atlas for dreams that people keep: "val.dreams" beside "val.atlas"."""
    whole = atlas.path.resolve()
    return whole.with_name(f"{whole.name.removesuffix('.atlas')}.dreams")


def keep(dream: Dream, atlas: Atlas) -> Path:
    """Write a dream into that folder, with its score and trust beside it; the path of the PNG.

    Raises:
        NotWritable: the folder cannot be written.
    """
    stem = file_name(f"{dream.address}.{dream.recipe}.{dream.seed}")
    path = dream.save(kept_in(atlas) / f"{stem}.png")
    write(path.with_suffix(".json"), (json.dumps(dream.describe(), indent=1) + "\n").encode())
    return path


def kept_dreams(atlas: Atlas, address: Address) -> list[StoredDream]:
    """The dreams of a unit that were kept, by name; those of other weights than the atlas's are left out."""
    weights = atlas.manifest["provenance"]["weights"]
    return list(_of(kept_in(atlas), str(address), weights))[:MOST]


def _of(folder: Path, address: str, weights: str) -> Iterator[StoredDream]:
    for path in sorted(folder.glob("*.png")):
        try:
            changed = path.stat().st_mtime_ns
            made = _made(path, changed)
            if made and made.weights == weights and _address(made) == address:
                yield _stored(path, changed)
        except (OSError, ValueError, TypeError, KeyError):  # gone, or not what it seems: others are shown
            continue


def _address(made: Provenance) -> str | None:
    try:
        return str(Address.parse(str(made.settings.get("address", ""))))
    except BadAddress:
        return None


@lru_cache(maxsize=4096)
def _made(path: Path, changed: int) -> Provenance | None:
    """How a picture was made, as of a time; None where it does not say."""
    del changed
    try:
        return explain(path)
    except VitscopeError:
        return None


@lru_cache(maxsize=64)
def _stored(path: Path, changed: int) -> StoredDream:
    made = _made(path, changed)
    settings: dict[str, Any] = made.settings if made else {}
    recipe = settings.get("recipe")
    facts: dict[str, Any] = {
        "recipe": recipe["name"] if isinstance(recipe, dict) else str(recipe),
        "seed": settings.get("seed", 0),
        "score": None,
        "trust": {},
    }
    told = path.with_suffix(".json")
    if told.is_file():
        facts |= {name: value for name, value in json.loads(told.read_bytes()).items() if name in facts}
    with Image.open(path, formats=["PNG"]) as picture:
        image = webp(picture.convert("RGB"), quality=QUALITY)
    trust = dict(facts["trust"])
    status = str(trust.get("status", "ok"))
    return StoredDream(str(facts["recipe"]), int(facts["seed"]), facts["score"], trust, status, image)
