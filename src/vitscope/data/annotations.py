"""What is the object in each image: boxes in a CSV, boxes in ImageNet's XML files, masks in a folder.

An annotation belongs to the image whose path within the source it names. Where the two begin differently
("val/n01/1.jpg" and "n01/1.jpg") the longer must end with all of the shorter. Coordinates are pixels of the
decoded picture, upright and at its original size; boxes are cut at its edges.
"""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path, PurePosixPath
from typing import Generic, Literal, TypeVar, get_args
from xml.etree import ElementTree

from vitscope.data.foregrounds import Boxes, Corners, Mask
from vitscope.data.source import Annotations, Foreground
from vitscope.errors import BadValue, MissingPath

COLUMNS = ("x0", "y0", "x1", "y1")
"""The corners of a box in a CSV: left, top, right, bottom."""
NAMES = ("wnid", "label", "name")
"""Columns of a CSV that may say what is in a box, first choice first."""
MAX_XML = 2**20
"""Largest XML file to read, in bytes: ImageNet's have about a thousand."""

Edge = Literal["between", "pixels"]
Found = TypeVar("Found")


def foregrounds(
    *,
    boxes: str | Path | None = None,
    masks: str | Path | None = None,
    edges: Edge = "between",
    objects: Literal["class", "all"] = "class",
    values: Collection[int] | None = None,
) -> Annotations:
    """Open what says where the object is in each image: what `images(...).annotated` takes.

    Args:
        boxes: a CSV with the columns path, x0, y0, x1, y1 and perhaps wnid, label or name; or a folder with
            one XML file an image, as ImageNet has them.
        masks: a folder of single-channel PNGs named and arranged as the images are.
        edges: whether corners are lines between pixels (x1 is outside), or the first and last "pixels" of a
            box, both inside, as in Tiny-ImageNet.
        objects: which boxes count: those that are called like the image's class, where it has one and they
            have names (Ghiasi et al. 2022, section 5), or all.
        values: which values of a mask are foreground; all but 0 where none are given.

    Raises:
        MissingPath: there is no such file or folder.
        BadValue: not exactly one of boxes and masks is given, edges are something else, or the file is
            damaged; its row is named.

    >>> foregrounds(masks="coco/masks", values=range(1, 92))   # doctest: +SKIP
    """
    if edges not in get_args(Edge):
        raise BadValue(f"edges of boxes are {' or '.join(get_args(Edge))}, not {edges!r}")
    if (boxes is None) == (masks is None):
        raise BadValue("give either boxes or masks to say what the foreground is")
    if masks is not None:
        return _Masks(Path(masks), values=values)
    table = Path(boxes or "")
    if table.is_dir():
        return _BoxFiles(table, edges=edges, objects=objects)
    return _BoxTable(table, edges=edges, objects=objects)


class _Index(Generic[Found]):
    """Things by path, found by their whole path or, where that is unique, by an end of it."""

    def __init__(self, things: Mapping[str, Found], *, name: str) -> None:
        self._things = things
        self._name = name
        self._first = next(iter(things), "")
        self._by_end: dict[str, list[str]] = defaultdict(list)
        for path in things:
            self._by_end[path.rsplit("/", 1)[-1]].append(path)

    def get(self, path: str) -> Found | None:
        if path in self._things:
            return self._things[path]
        fits = [
            other
            for other in self._by_end.get(path.rsplit("/", 1)[-1], ())
            if f"/{other}".endswith(f"/{path}") or f"/{path}".endswith(f"/{other}")
        ]
        if len(fits) > 1:
            raise BadValue(f"{self._name} has two annotations for {path!r}: {fits[0]!r} and {fits[1]!r}")
        return self._things[fits[0]] if fits else None

    def check(self, paths: Iterable[str]) -> None:
        first = ""
        for path in paths:
            first = first or path
            if self.get(path) is not None:
                return
        raise BadValue(
            f"no path of {self._name} is in the source: it has {self._first!r}, the source {first!r}"
        )


@dataclass(frozen=True)
class _Box:
    """A box and what it is called, if anything."""

    corners: Corners
    name: str


class _BoxTable:
    """Boxes in a CSV."""

    def __init__(self, file: Path, *, edges: Edge, objects: str) -> None:
        if not file.is_file():
            raise MissingPath(f"no such file of boxes: {file}")
        self.name = file.name
        self.fingerprint = _hashed(file.read_bytes(), edges.encode(), objects.encode())
        self._objects = objects
        found: dict[str, list[_Box]] = defaultdict(list)
        for path, box in _rows(file, edges):
            found[path].append(box)
        if not found:
            raise BadValue(f"{file} has no box")
        self._index = _Index(found, name=file.name)
        self._names = {box.name for boxes in found.values() for box in boxes if box.name}

    def covers(self, path: str) -> bool:
        return self._index.get(path) is not None

    def foreground(self, path: str, *, label: str | None = None) -> Foreground | None:
        boxes = self._index.get(path)
        return None if boxes is None else _of_class(boxes, path, label if self._objects == "class" else None)

    def check(self, paths: Sequence[str], *, classes: Sequence[str] | None) -> None:
        self._index.check(paths)
        if self._objects == "all" or not classes or not self._names:
            return
        folders = {part for path in paths for part in _called(path)}
        if not self._names & {*classes, *folders}:
            raise BadValue(
                f"no object of {self.name} is called like a class: it has {min(self._names)!r}, the source "
                f"{classes[0]!r}. Count every box with objects='all'."
            )


class _BoxFiles:
    """Boxes in ImageNet's XML files (PASCAL VOC's form), each read when it is asked for."""

    def __init__(self, folder: Path, *, edges: Edge, objects: str) -> None:
        self.name = folder.name
        self._edges, self._objects = edges, objects
        files = _files(folder, ".xml")
        self._index = _Index(files, name=str(folder))
        self.fingerprint = _of_files(files, edges, objects)

    def covers(self, path: str) -> bool:
        return self._index.get(_stem(path)) is not None

    def foreground(self, path: str, *, label: str | None = None) -> Foreground | None:
        file = self._index.get(_stem(path))
        if file is None:
            return None
        return _of_class(_objects(file, self._edges), path, label if self._objects == "class" else None)

    def check(self, paths: Sequence[str], *, classes: Sequence[str] | None) -> None:  # noqa: ARG002
        self._index.check(map(_stem, paths))


class _Masks:
    """Masks in a folder."""

    def __init__(self, folder: Path, *, values: Collection[int] | None) -> None:
        if not folder.is_dir():
            raise MissingPath(f"no folder of masks: {folder}")
        self.name = folder.name
        self._values = None if values is None else frozenset(values)
        files = _files(folder, ".png")
        self._index = _Index(files, name=str(folder))
        self.fingerprint = _of_files(files, *map(str, sorted(self._values or ())))

    def covers(self, path: str) -> bool:
        return self._index.get(_stem(path)) is not None

    def foreground(self, path: str, *, label: str | None = None) -> Foreground | None:  # noqa: ARG002
        file = self._index.get(_stem(path))
        return None if file is None else Mask(file.name, file.read_bytes(), self._values)

    def check(self, paths: Sequence[str], *, classes: Sequence[str] | None) -> None:  # noqa: ARG002
        self._index.check(map(_stem, paths))


def _rows(file: Path, edges: Edge) -> Iterable[tuple[str, _Box]]:
    """Every row of a CSV of boxes as path and box."""
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        columns = reader.fieldnames or ()
        for column in ("path", *COLUMNS):
            if column not in columns:
                raise BadValue(f"{file} has no column {column!r}; it has {', '.join(columns)}")
        named = next((column for column in NAMES if column in columns), None)
        for row in reader:
            corners = _corners([row[column] for column in COLUMNS], edges, f"{file}, line {reader.line_num}")
            name = (row[named] or "").strip() if named else ""
            yield (row["path"] or "").removeprefix("./"), _Box(corners, name)


def _objects(file: Path, edges: Edge) -> list[_Box]:
    """The boxes of one XML file."""
    if file.stat().st_size > MAX_XML:
        raise BadValue(f"{file.name} has {file.stat().st_size} bytes, above {MAX_XML}")
    try:
        root = ElementTree.fromstring(file.read_bytes())
    except ElementTree.ParseError as error:
        raise BadValue(f"{file.name} is no XML: {error}") from error
    boxes = []
    for thing in root.iter("object"):
        texts = [thing.findtext(f"bndbox/{name}") for name in ("xmin", "ymin", "xmax", "ymax")]
        boxes.append(_Box(_corners(texts, edges, file.name), (thing.findtext("name") or "").strip()))
    return boxes


def _corners(texts: Sequence[str | None], edges: Edge, where: str) -> Corners:
    """Four numbers, left, top, right, bottom, as lines between pixels."""
    try:
        left, top, right, bottom = (float(text or "") for text in texts)
    except ValueError as error:
        raise BadValue(f"{where}: the corners {list(texts)} are not four numbers") from error
    if not all(map(isfinite, (left, top, right, bottom))) or right < left or bottom < top:
        raise BadValue(f"{where}: the corners {list(texts)} are not left <= right and top <= bottom")
    beyond = 1 if edges == "pixels" else 0
    return left, top, right + beyond, bottom + beyond


def _of_class(boxes: Sequence[_Box], path: str, label: str | None) -> Boxes:
    """The boxes that are called like the image's class, and all of them where it has none."""
    names = {*_called(path), label}
    chosen = [box for box in boxes if label is None or not box.name or box.name in names]
    return Boxes(tuple(box.corners for box in chosen))


def _called(path: str) -> tuple[str, ...]:
    """What an image's path calls its class: its folder, or how its file begins ("n01440764_18.JPEG")."""
    whole = PurePosixPath(path)
    return whole.parent.name, whole.stem.partition("_")[0]


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    """The files below a folder with that suffix, by their path without it, sorted."""
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() == suffix and file.is_file())
    if not found:
        raise BadValue(f"no *{suffix} in {str(folder)!r} or below it")
    return {_stem(file.relative_to(folder).as_posix()): file for file in found}


def _of_files(files: Mapping[str, Path], *facts: str) -> str:
    listed = (f"{path} {file.stat().st_size}".encode() for path, file in files.items())
    return _hashed(*listed, *(fact.encode() for fact in facts))


def _hashed(*facts: bytes) -> str:
    digest = hashlib.sha256()
    for fact in facts:
        digest.update(len(fact).to_bytes(8, "little") + fact)
    return f"sha256:{digest.hexdigest()}"
