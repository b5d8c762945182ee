"""Checking every file of an atlas: `verify(path).ok`. It names what is damaged, where it can the unit."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from vitscope.atlas.leaf import PARTS, SAMPLED, UnitRow, alike_table, digest, exemplar_table, unit_table
from vitscope.atlas.manifest import SiteLayout
from vitscope.atlas.store import ABSENT, Store
from vitscope.errors import AtlasError, BadValue


@dataclass(frozen=True)
class Report:
    """What is wrong with an atlas.

    Attributes:
        ok: nothing is damaged and nothing missing.
        leaves: how many leaves were found whole.
        damaged: one line for each leaf, unit or thumbnail whose bytes are not what they should be.
        missing: one line for each leaf that is not built yet, and each thumbnail that is not there.
        skipped: images whose thumbnail could not be made, with the reason; no fault of the atlas.
    """

    ok: bool
    leaves: int
    damaged: tuple[str, ...]
    missing: tuple[str, ...]
    skipped: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """The JSON of `vitscope verify`."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    def sentence(self) -> str:
        """The report for people: one line, and one more for each finding."""
        damage, missing = len(self.damaged), len(self.missing)
        head = f"{self.leaves} leaves are whole; {damage} findings of damage, {missing} missing."
        rows = [
            *(f"damaged: {line}" for line in self.damaged),
            *(f"missing: {line}" for line in self.missing),
        ]
        return "\n".join([head, *rows, *(f"skipped: {line}" for line in self.skipped)])


def verify(path: str | Path) -> Report:
    """Read and check everything in an atlas. Cost: it reads every byte, about 0.5 s a gigabyte, and decodes
    pictures.

    Raises:
        AtlasError: there is no atlas at all.
    """
    store = Store.open(path)
    whole, damaged, missing = 0, list[str](), list[str]()
    images: dict[str, None] = {}
    for site, leaf in store.leaves():
        found = [*_check_leaf(store, site, leaf, images), *_check_sample(store, site, leaf, images)]
        whole += not found
        name = store.leaf_name(site.name, leaf)
        missing += [f"{name} is {ABSENT}" for fault in found if fault == ABSENT]
        damaged += [f"{name}: {fault}" for fault in found if fault != ABSENT]
    skipped = list[str]()
    for image in images:
        _check_thumbnail(store, image, damaged, missing, skipped)
    return Report(not damaged and not missing, whole, tuple(damaged), tuple(missing), tuple(skipped))


def _check_leaf(store: Store, site: SiteLayout, leaf: int, images: dict[str, None]) -> Iterator[str]:
    """Every fault of one leaf; the images that its exemplars show are added to `images`."""
    fault = store.fault(site.name, leaf, read=True)
    if fault is not None:
        yield fault
        if fault == ABSENT:
            return
    content = {}
    for part in PARTS:
        try:
            content[part] = store.leaf_file(site.name, leaf, part).read_bytes()
        except OSError:
            return
    try:
        units, exemplars = unit_table(content["units.parquet"]), exemplar_table(content["exemplars.parquet"])
    except AtlasError as error:
        yield str(error)
        return
    rows = [UnitRow.from_record(record) for record in units.to_pylist()]
    yield from _check_units(site, leaf, rows)
    yield from _check_exemplars(site, rows, exemplars, images)
    yield from _check_dreams(site, rows, content["pack"])
    if reason := picture_fault(content["sprite.webp"]):
        yield f"sprite.webp {reason}"


def _check_sample(store: Store, site: SiteLayout, leaf: int, images: dict[str, None]) -> Iterator[str]:
    """Every fault of what a sample says of a leaf. That an older atlas has none is no fault."""
    fault = store.fault(site.name, leaf, read=True, of=SAMPLED)
    if fault == ABSENT:
        return
    if fault is not None:
        yield fault
        return
    try:
        exemplars = exemplar_table(store.read_leaf(site.name, leaf, "samples.parquet"))
        alike = alike_table(store.read_leaf(site.name, leaf, "alike.parquet"))
    except AtlasError as error:
        yield str(error)
        return
    yield from _check_exemplars(site, [], exemplars, images)
    foreign = [unit for unit in alike["other"].to_pylist() if not 0 <= unit < site.units]
    yield from (f"unit {unit} is no unit of {site.name}, yet told to be like one" for unit in foreign[:1])


def _check_units(site: SiteLayout, leaf: int, rows: list[UnitRow]) -> Iterator[str]:
    counts = Counter(row.unit for row in rows)
    for unit in site.members(leaf):
        if counts[unit] != 1:
            yield f"{site.name}:{unit} is there {counts[unit]} times"
    yield from (f"unit {unit} does not belong here" for unit in counts if unit not in site.members(leaf))


def _check_exemplars(
    site: SiteLayout, rows: list[UnitRow], table: pa.Table, images: dict[str, None]
) -> Iterator[str]:
    ranks: dict[tuple[int, str], list[int]] = {}
    for record in table.select(["unit", "ranking", "rank", "image"]).to_pylist():
        ranks.setdefault((record["unit"], record["ranking"]), []).append(record["rank"])
        images[record["image"]] = None
    for (unit, ranking), found in ranks.items():
        if found != list(range(len(found))):
            yield f"{site.name}:{unit} has ranks {found} by its {ranking}"
    shown = {unit for unit, _ in ranks}
    yield from (
        f"{site.name}:{row.unit} is ok but has no exemplars"
        for row in rows
        if row.status == "ok" and row.unit not in shown
    )


def _check_dreams(site: SiteLayout, rows: Iterable[UnitRow], pack: bytes) -> Iterator[str]:
    for row in rows:
        for dream in row.dreams:
            content = pack[dream.offset : dream.offset + dream.size]
            if dream.offset < 0 or dream.offset + dream.size > len(pack):
                yield f"the dream of {site.name}:{row.unit} lies outside its pack of {len(pack)} bytes"
            elif digest(content) != dream.sha256:
                yield f"the dream of {site.name}:{row.unit} has other bytes than were written"
            elif reason := picture_fault(content):
                yield f"the dream of {site.name}:{row.unit} {reason}"


def _check_thumbnail(
    store: Store, image: str, damaged: list[str], missing: list[str], skipped: list[str]
) -> None:
    try:
        path = store.thumbnail_file(image)
        if reason := picture_fault(path.read_bytes()):
            damaged.append(f"the thumbnail of {image} {reason}")
    except BadValue as error:
        damaged.append(str(error))
    except OSError:
        reason = store.why_no_thumbnail(image)
        (missing if reason is None else skipped).append(
            f"the thumbnail of {image}{f': {reason}' if reason else ''}"
        )


def picture_fault(content: bytes) -> str | None:
    """Why some bytes are not a WebP picture, or None where they are."""
    try:
        with Image.open(io.BytesIO(content), formats=["WEBP"]) as picture:
            picture.load()
    except (OSError, ValueError, SyntaxError) as error:
        return f"is not a WebP picture: {str(error).splitlines()[0][:80]}"
    return None
