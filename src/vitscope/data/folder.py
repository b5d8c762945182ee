"""Images in a folder: flat, or a tree of class folders as `torchvision.datasets.ImageFolder` reads it.

Only regular files are opened. What is none (a pipe named .jpg), may not be read, or is reached by a link that
loops or leaves the root is an entry too: `read` hands out a `Skipped` with the reason, so that it is counted.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
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

CLASSES_FILE = "classes.csv"
"""Where a root may keep the index and the name of each class folder (columns index, wnid, name)."""
_REASONS = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EACCES: "no_permission",
    errno.EPERM: "no_permission",
    errno.ELOOP: "link_loop",
}
_Inode = tuple[int, int]


class Folder(Images):
    """The images below a folder, sorted by the bytes of their paths.

    Every sub-folder of the root is a class where no image lies in the root itself. Sorted names give the
    indices, unless the root holds a `classes.csv`.

    Args:
        root: the folder.
        labels: a CSV of labels that overrides the class folders; see `listing.by_file`.
        classes: a CSV as `classes.csv`, kept elsewhere.
        links_followed: follow symbolic links out of the root. Those inside it are always followed, once.
        accept_truncated: JPEGs that end early are completed with grey, rather than skipped.

    Raises:
        MissingPath: there is no such folder.
        SourceError: no file in it has the name of an image.
        BadValue: the labels do not fit.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        labels: str | Path | None = None,
        classes: str | Path | None = None,
        links_followed: bool = False,
        accept_truncated: bool = False,
    ) -> None:
        self.root = Path(root)
        self._accept_truncated = accept_truncated
        self.name = f"folder:{root}"
        if not self.root.is_dir():
            what = "is not a folder" if self.root.exists() else "does not exist"
            raise MissingPath(f"no folder {str(root)!r} to read images from: it {what}")
        walk = _Walk(os.fsencode(self.root), links_followed=links_followed)
        self._entries = sorted(walk.entries(), key=lambda entry: entry.name)
        if not self._entries:
            raise SourceError(
                f"no image in {str(root)!r}: looked for {PATTERNS}, in every sub-folder and in any case"
            )
        self._place = {entry.path: place for place, entry in enumerate(self._entries)}
        self._labels = self._find_labels(labels, classes)
        self.classes = self._labels.classes
        self.fingerprint = fingerprint(self._entries, accept_truncated=accept_truncated)

    def _find_labels(self, labels: str | Path | None, classes: str | Path | None) -> Labels:
        if labels is not None:
            return by_file(labels, list(self._place))
        paths = [entry.path for entry in self._entries if not entry.reason]
        folders = {path: path.split("/")[0] for path in paths if "/" in path}
        if len(folders) < len(paths):
            if classes is not None:
                raise BadValue(f"{classes} names class folders, but images lie in {self.root} itself")
            return Labels()
        own = self.root / CLASSES_FILE
        return by_folder(folders, classes_file=Path(classes) if classes else own if own.is_file() else None)

    @property
    def paths(self) -> tuple[str, ...]:
        """The name of every entry, in order."""
        return tuple(self._place)

    def __len__(self) -> int:
        return len(self._entries)

    def read(self, shard: Shard) -> Iterator[RawImage | Skipped]:
        """The entries of a shard, in order."""
        return map(self._load, self._entries[shard.start : shard.stop])

    def find(self, path: str) -> RawImage | Skipped:
        """One entry by its path; `missing` where the source does not list it."""
        place = self._place.get(path)
        return (
            Skipped(path, "missing", f"not in {self.name}")
            if place is None
            else self._load(self._entries[place])
        )

    def describe(self) -> dict[str, Any]:
        """Facts for provenance."""
        return {"name": self.name, "images": len(self), "fingerprint": self.fingerprint, "licence": "unknown"}

    def _load(self, entry: Entry) -> RawImage | Skipped:
        if entry.reason:
            return Skipped(entry.path, entry.reason, entry.detail)
        try:
            content = _content(os.path.join(os.fsencode(self.root), entry.name))  # noqa: PTH118, names may be no text
        except OSError as error:
            return Skipped(
                entry.path, _REASONS.get(error.errno or 0, "unreadable"), error.strerror or str(error)
            )
        if isinstance(content, str):
            return Skipped(entry.path, content)
        return RawImage(entry.path, content, self._labels.get(entry.path), self._accept_truncated)


def _content(path: bytes) -> bytes | str:
    """A file's bytes, or a reason not to read them. What became a pipe since it was listed does not block."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags), "rb") as file:  # noqa: PTH123, a descriptor
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            return "not_regular"
        return "too_large" if facts.st_size > MAX_BYTES else file.read()


class _Walk:
    """One walk below a root, in bytes, as names need not be text."""

    def __init__(self, root: bytes, *, links_followed: bool) -> None:
        self._root = root
        self._inside = os.path.join(os.path.realpath(root), b"")  # noqa: PTH118
        self._links_followed = links_followed
        self._taken: set[_Inode] = set()

    def entries(self) -> Iterator[Entry]:
        """Every image and everything that should have been one; in no order."""
        yield from self._folder(b"", (_inode(os.stat(self._root)),))  # noqa: PTH116

    def _folder(self, folder: bytes, above: tuple[_Inode, ...]) -> Iterator[Entry]:
        try:
            with os.scandir(os.path.join(self._root, folder)) as found:  # noqa: PTH118
                items = sorted(found, key=lambda item: item.name)
        except OSError as error:
            yield _refused(folder, _REASONS.get(error.errno or 0, "unreadable"), error.strerror or str(error))
            return
        for item in items:
            name = folder + b"/" + item.name if folder else item.name
            if item.is_symlink():
                yield from self._link(name, item, above)
            elif item.is_dir():
                yield from self._folder(name, (*above, _inode(item.stat())))
            elif is_image_name(as_text(name)):
                yield _file(name, item.stat(follow_symlinks=False))

    def _link(self, name: bytes, item: os.DirEntry[bytes], above: tuple[_Inode, ...]) -> Iterator[Entry]:
        """A link to a folder is walked, once; a link to a file is an entry; all others are refused."""
        try:
            facts = item.stat()
        except OSError as error:
            if is_image_name(as_text(name)) or error.errno == errno.ELOOP:
                yield _refused(
                    name, _REASONS.get(error.errno or 0, "unreadable"), error.strerror or str(error)
                )
            return
        is_folder = stat.S_ISDIR(facts.st_mode)
        if not is_folder and not is_image_name(as_text(name)):
            return
        target = os.path.realpath(item.path)
        if not (self._links_followed or os.path.join(target, b"").startswith(self._inside)):  # noqa: PTH118
            yield _refused(name, "link_outside", f"leads to {as_text(target)}, which is not in the folder")
        elif not is_folder:
            yield _file(name, facts)
        elif _inode(facts) in above:
            yield _refused(name, "link_loop", f"leads back to {as_text(target)}")
        elif _inode(facts) in self._taken:
            yield _refused(name, "link_repeated", f"{as_text(target)} was reached by another link")
        else:
            self._taken.add(_inode(facts))
            yield from self._folder(name, (*above, _inode(facts)))


def _inode(facts: os.stat_result) -> _Inode:
    return facts.st_dev, facts.st_ino


def _file(name: bytes, facts: os.stat_result) -> Entry:
    if not stat.S_ISREG(facts.st_mode):
        return _refused(name, "not_regular", "a pipe, socket or device")
    return Entry(as_text(name), facts.st_size, name)


def _refused(name: bytes, reason: str, detail: str) -> Entry:
    return Entry(as_text(name), 0, name, reason, detail)
