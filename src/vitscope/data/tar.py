"""Images in a tar archive on this machine, plain or gzipped. It is read as a stream and never extracted.

Opening reads the list of members once. A plain archive is then read by seeking; of a gzipped one, a shard
reads everything before it. The class of an image is the folder it lies in.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any

from vitscope.data.derived import Images
from vitscope.data.listing import (
    MAX_BYTES,
    PATTERNS,
    Entry,
    Labels,
    as_text,
    by_file,
    by_folder,
    fingerprint,
    is_image_name,
)
from vitscope.data.source import RawImage, Shard, Skipped
from vitscope.errors import BadValue, MissingPath, SourceError

SUFFIXES = (".tar", ".tar.gz", ".tgz")
"""Names of archives, in any case."""
_BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, ValueError)
_BLOCK = tarfile.BLOCKSIZE
_File = BufferedReader | gzip.GzipFile


@dataclass(frozen=True)
class _Member:
    """One entry and where its bytes begin in the uncompressed archive."""

    entry: Entry
    offset: int


class Tar(Images):
    """The images of an archive, in its order.

    Args:
        path: a .tar, .tar.gz or .tgz file.
        labels: a CSV of labels that overrides the folders; see `listing.by_file`.
        classes: a CSV with the index and the name of each folder; see `listing.by_folder`.
        accept_truncated: JPEGs that end early are completed with grey, rather than skipped.

    Raises:
        MissingPath: there is no such file.
        SourceError: it is damaged or cut short, holds no image, or holds two members of one name.
        BadValue: the labels do not fit, or the name is not that of an archive.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        labels: str | Path | None = None,
        classes: str | Path | None = None,
        accept_truncated: bool = False,
    ) -> None:
        self._accept_truncated = accept_truncated
        self.path = Path(path)
        self.name = f"tar:{path}"
        if not self.path.is_file():
            raise MissingPath(f"no archive {str(path)!r}")
        if not self.path.name.lower().endswith(SUFFIXES):
            raise BadValue(f"{str(path)!r} is not an archive we read: {', '.join(SUFFIXES)}")
        self._packed = not self.path.name.lower().endswith(".tar")
        self._members = list(self._index())
        if not self._members:
            raise SourceError(
                f"no image in {str(path)!r}: looked for {PATTERNS}, in every folder and in any case"
            )
        self._place = self._places()
        self._labels = self._find_labels(labels, classes)
        self.classes = self._labels.classes
        self.fingerprint = fingerprint(
            (member.entry for member in self._members), accept_truncated=accept_truncated
        )

    def _places(self) -> dict[str, int]:
        places: dict[str, int] = {}
        for place, member in enumerate(self._members):
            if member.entry.path in places:
                raise SourceError(f"{self.path} holds the member {member.entry.path!r} twice")
            places[member.entry.path] = place
        return places

    def _find_labels(self, labels: str | Path | None, classes: str | Path | None) -> Labels:
        if labels is not None:
            return by_file(labels, list(self._place))
        paths = [member.entry.path for member in self._members if not member.entry.reason]
        folders = {path: PurePosixPath(path).parent.name for path in paths}
        if not all(folders.values()):
            return Labels()
        return by_folder(folders, classes_file=Path(classes) if classes else None)

    @property
    def paths(self) -> tuple[str, ...]:
        """The name of every entry, in order."""
        return tuple(self._place)

    def __len__(self) -> int:
        return len(self._members)

    def read(self, shard: Shard) -> Iterator[RawImage | Skipped]:
        """The entries of a shard, in order.

        Raises:
            SourceError: the archive ends early or is damaged; the member is named.
        """
        return self._read(self._members[shard.start : shard.stop])

    def find(self, path: str) -> RawImage | Skipped:
        """One entry by its path; `missing` where the source does not list it."""
        place = self._place.get(path)
        if place is None:
            return Skipped(path, "missing", f"not in {self.name}")
        return next(self._read(self._members[place : place + 1]))

    def describe(self) -> dict[str, Any]:
        """Facts for provenance."""
        return {"name": self.name, "images": len(self), "fingerprint": self.fingerprint, "licence": "unknown"}

    def _open(self) -> _File:
        return gzip.open(self.path, "rb") if self._packed else self.path.open("rb")

    def _read(self, members: list[_Member]) -> Iterator[RawImage | Skipped]:
        with self._open() as file:
            for member in members:
                yield self._load(member, file)

    def _load(self, member: _Member, file: _File) -> RawImage | Skipped:
        entry = member.entry
        if entry.reason:
            return Skipped(entry.path, entry.reason, entry.detail)
        try:
            file.seek(member.offset)  # forward only, so gzip never starts again
            content = file.read(entry.size)
        except _BROKEN as error:
            raise self._broken(entry.path, str(error)) from error
        if len(content) < entry.size:
            raise self._broken(entry.path, f"{len(content)} of its {entry.size} bytes are there")
        return RawImage(entry.path, content, self._labels.get(entry.path), self._accept_truncated)

    def _index(self) -> Iterator[_Member]:
        """Every member that is an image, or is no file at all. The whole archive is looked at once."""
        last = ""
        try:
            with self._open() as file, tarfile.open(fileobj=file, mode="r:") as archive:
                for info in archive:
                    last = as_text(info.name.encode("utf-8", "surrogateescape"))
                    if entry := _entry(info):
                        yield _Member(entry, info.offset_data)
                self._check_end(file, archive.offset, last)
        except _BROKEN as error:
            raise self._broken(last, str(error)) from error

    def _check_end(self, file: _File, offset: int, last: str) -> None:
        """An archive ends in a block of zeros. Where anything else ends it, tarfile is silent."""
        file.seek(offset)
        if file.read(_BLOCK) != bytes(_BLOCK):
            raise self._broken(last, "no member follows, and no mark of the archive's end")
        while self._packed and file.read(2**20):  # to the end, where gzip keeps its checksum
            pass

    def _broken(self, member: str, detail: str) -> SourceError:
        where = f"at or after the member {member!r}" if member else "at its beginning"
        return SourceError(f"the archive {self.path} is truncated or damaged {where}: {detail}")


def _entry(info: tarfile.TarInfo) -> Entry | None:
    """A member as an entry, or None where it is of no concern."""
    name = info.name.encode("utf-8", "surrogateescape")
    text = as_text(name)
    if info.isdir() or (info.isreg() and not is_image_name(text)):
        return None
    if not info.isreg() or info.issparse():
        return Entry(text, 0, name, "not_regular", "a link, pipe, device or sparse file within an archive")
    if text.startswith("/") or ".." in text.split("/"):
        return Entry(text, 0, name, "unsafe_name", "the name leads out of the archive")
    if info.size > MAX_BYTES:
        return Entry(text, 0, name, "too_large", f"{info.size} bytes, above {MAX_BYTES}")
    return Entry(text.removeprefix("./"), info.size, name)
