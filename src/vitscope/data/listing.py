"""What the sources on disk share: which names count, how they become text, where labels come from."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vitscope.errors import BadValue, MissingPath, suggestion

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""Names a listing takes for images, in any case. What is inside is judged by content when it is decoded."""
PATTERNS = ", ".join(f"*{suffix}" for suffix in SUFFIXES)
"""The same, for people."""
MAX_BYTES = 2**29
"""Largest file to read, in bytes (512 MB): an image within the decoder's limits is smaller."""


@dataclass(frozen=True)
class Entry:
    """One line of a listing.

    Attributes:
        path: name within the source, as text; parts separated by "/".
        size: bytes; 0 where the entry cannot be read.
        name: the name as the disk has it.
        reason: why it cannot be read, or nothing.
        detail: the same, for people.
    """

    path: str
    size: int
    name: bytes
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Labels:
    """Class names, and the class of each path that has one."""

    classes: tuple[str, ...] | None = None
    index: Mapping[str, int] | None = None

    def get(self, path: str) -> int | None:
        """The class of one path, or None."""
        return (self.index or {}).get(path)


def is_image_name(name: str) -> bool:
    """Whether a listing takes the name for an image."""
    return name.lower().endswith(SUFFIXES)


def as_text(name: bytes) -> str:
    r"""A name from the disk as JSON-safe text, one to one: backslashes and bytes outside UTF-8 are \xNN."""
    return name.replace(b"\\", b"\\x5c").decode("utf-8", "backslashreplace")


def fingerprint(entries: Iterable[Entry], *, accept_truncated: bool = False) -> str:
    """ "sha256:" and the hash of every path and size, in order, and of whether cut JPEGs are accepted."""
    digest = hashlib.sha256(b"truncated JPEGs accepted\n" if accept_truncated else b"")
    for entry in entries:
        digest.update(f"{entry.path}\0{entry.size}\0{entry.reason}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def by_folder(folders: Mapping[str, str], *, classes_file: Path | None = None) -> Labels:
    """Labels from the folder that each path lies in.

    Args:
        folders: path -> name of its class folder.
        classes_file: a CSV with the columns index and wnid or name (or all three), which gives every folder
            its index and its name for people; without it folders count in sorted order.

    Raises:
        BadValue: the file lacks a column or a folder.
    """
    names = sorted(set(folders.values()))
    if classes_file is None:
        place = {name: index for index, name in enumerate(names)}
        return Labels(tuple(names), {path: place[name] for path, name in folders.items()})
    rows = _table(classes_file, needed=("index",))
    place = {row[key]: _number(row, classes_file) for row in rows for key in ("name", "wnid") if row.get(key)}
    for name in names:
        if name not in place:
            raise BadValue(f"{classes_file} does not name the folder {name!r}.{suggestion(name, place)}")
    shown = {_number(row, classes_file): row.get("name") or row.get("wnid") or row["index"] for row in rows}
    return Labels(_filled(shown), {path: place[name] for path, name in folders.items()})


def by_file(labels: str | Path, paths: Sequence[str]) -> Labels:
    """Labels from a CSV: a column path and a column label (name or number) or index; names from name or wnid.

    Raises:
        MissingPath: there is no such file.
        BadValue: columns are missing, a number is none, or no path of it is in the source.
    """
    rows = _table(Path(labels), needed=("path",))
    if not rows or not {"label", "index"} & set(rows[0]):
        raise BadValue(
            f"{labels} has no column 'label' or 'index'; it has {', '.join(rows[0] if rows else ())}"
        )
    numbered = "index" in rows[0] or all(row["label"].isdigit() for row in rows)
    column = "index" if "index" in rows[0] else "label"
    if numbered:
        index = {_clean(row["path"]): _number(row, Path(labels), column=column) for row in rows}
        shown = {
            _number(row, Path(labels), column=column): row.get("name") or row.get("wnid") or row[column]
            for row in rows
        }
        found = Labels(_filled(shown), index)
    else:
        found = by_folder({_clean(row["path"]): row["label"] for row in rows})
    if not set(found.index or ()) & set(paths):
        raise BadValue(
            f"no path of {labels} is in the source: it has {rows[0]['path']!r}, the source {paths[0]!r}"
            if paths
            else f"no path of {labels} is in the source"
        )
    return found


def _clean(path: str) -> str:
    return path.removeprefix("./")


def _filled(names: Mapping[int, str]) -> tuple[str, ...]:
    """Names by index; a number stands where an index has none."""
    return tuple(names.get(index, str(index)) for index in range(max(names, default=-1) + 1))


def _number(row: Mapping[str, str], file: Path, *, column: str = "index") -> int:
    text = (row[column] or "").strip()
    if not text.isdigit():
        raise BadValue(f"{file}: {column} {text!r} is not a number from 0 up, in the row {dict(row)}")
    return int(text)


def _table(file: Path, *, needed: tuple[str, ...]) -> list[dict[str, str]]:
    if not file.is_file():
        raise MissingPath(f"no such file: {file}")
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        rows = [{key: value or "" for key, value in row.items() if isinstance(key, str)} for row in reader]
    for column in needed:
        if column not in (reader.fieldnames or ()):
            raise BadValue(f"{file} has no column {column!r}; it has {', '.join(reader.fieldnames or ())}")
    return rows
