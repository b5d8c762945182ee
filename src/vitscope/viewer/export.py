"""The viewer as plain files, for any static host: the very pages that a server sends.

What a unit's page shows beside images of the source, its dreams and heat maps, is inside the page, and the
overview of 256 units is one picture; so there are about as many files as units and images together. Where
these are too many for a static host, several images share a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitscope.atlas.commit import check_writable
from vitscope.atlas.read import Atlas
from vitscope.errors import Failure, NotWritable
from vitscope.viewer.files import answer, every_path, keep_below
from vitscope.viewer.library import Library
from vitscope.viewer.results import Results
from vitscope.viewer.shelf import Shelf

RECORD = "site.json"
"""What an export says of itself. Only a folder that is empty or has one is written to."""

MOST_FILES = 99_000
"""Of an export, as far as its pages are fewer: hosts of plain files refuse sites of 100,000."""

OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        out: the folder; `index.html` in it is the home page.
        files: how many, and together how large.
        bytes: of all of them.
        damaged: paths whose content cannot be read; the pages among them say so, pictures are left out.
    """

    out: Path
    files: int
    bytes: int
    damaged: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """The JSON of `vitscope export`."""
        return {**asdict(self), "out": str(self.out), "damaged": list(self.damaged)}

    def sentence(self) -> str:
        """The same for people."""
        told = f"{self.out}: {self.files:,} files, {self.bytes / 1e6:,.1f} MB"
        return f"{told}; {len(self.damaged):,} could not be read" if self.damaged else told


def export(
    atlases: Atlas | Sequence[Atlas],
    *,
    out: str | Path,
    studies: Sequence[str | Path] | None = None,
    on_progress: OnProgress | None = None,
) -> Exported:
    """Write the viewer as plain files.

    They work from any static host and below any folder of it. What needs a model behind the pages, live
    dreams and pictures of the reader's own, is off, and the pages say so. Cost: about 15 ms and
    100 kB a unit.

    >>> export(Atlas.open("demo.atlas"), out="site")                                        # doctest: +SKIP

    Args:
        atlases: one atlas or several.
        out: the folder: a new one, an empty one, or that of an earlier export, whose files are replaced.
        studies: folders with results of studies, or folders of such folders.
        on_progress: told "files", how many are written, and of how many.

    Raises:
        NotWritable: the folder cannot be written, or holds something else.
        MissingPath: a folder of `studies` holds no result.
        Failure: the disk is full.
    """
    shown = (atlases,) if isinstance(atlases, Atlas) else tuple(atlases)
    folder = Path(out)
    _check(folder)
    library = Library(Shelf(shown), Results(studies or ()), served=False)
    keep_below(library, MOST_FILES)
    paths = list(every_path(library))
    told = on_progress or _silent
    atlases_shown = [volume.slug for volume in library.shelf]
    _record(folder, {"atlases": atlases_shown, "finished": False})
    size, damaged = 0, list[str]()
    for count, path in enumerate(paths):
        found = answer(library, path)
        if found.status != 200:
            damaged.append(path)
        if found.status == 200 or path.endswith(".html"):
            _write(folder / path, found.content)
            size += len(found.content)
        told("files", count + 1, len(paths))
    written = len(paths) - sum(not path.endswith(".html") for path in damaged)
    done = Exported(folder, written, size, tuple(damaged))
    _record(folder, {"atlases": atlases_shown, "finished": True, **done.describe(), "out": "."})
    return done


def _record(folder: Path, facts: Mapping[str, Any]) -> None:
    _write(folder / RECORD, (json.dumps(facts, indent=1) + "\n").encode())


def _check(folder: Path) -> None:
    check_writable(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise NotWritable(
            f"{folder} holds other files and no export of the viewer: choose a new folder, or an empty one"
        )


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise Failure(f"{path} cannot be written: {error.strerror}") from error


def _silent(stage: str, done: int, total: int) -> None:
    del stage, done, total
