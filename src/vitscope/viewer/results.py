"""The results of studies that a viewer shows: folders that `vitscope study` or `Result.save` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from vitscope.atlas.commit import file_name
from vitscope.errors import BadValue, MissingPath, UnknownName, suggestion

if TYPE_CHECKING:  # studies bring torch, for which a reader of atlases does not wait
    from vitscope.studies.result import Result

KEPT = 32
"""Results whose figures stay drawn."""


class Results:
    """Results by name: the names of their folders.

    Args:
        folders: each holds a result, or folders that hold results.

    Raises:
        MissingPath: a folder holds none.
    """

    def __init__(self, folders: Sequence[str | Path] = ()) -> None:
        self._folders: dict[str, Path] = {}
        for folder in map(Path, folders):
            from vitscope.studies.result import RESULT_FILE

            found = list(_results_in(folder, RESULT_FILE))
            if not found:
                raise MissingPath(f"no result of a study in {str(folder)!r}: no {RESULT_FILE} in it or below")
            for one in found:
                self._add(one)
        self._page = lru_cache(maxsize=KEPT)(self._drawn)

    def _add(self, folder: Path) -> None:
        base = name = file_name(folder.resolve().name).strip(".-") or "result"
        count = 1
        while name in self._folders:
            count += 1
            name = f"{base}-{count}"
        self._folders[name] = folder

    def __iter__(self) -> Iterator[str]:
        return iter(self._folders)

    def __len__(self) -> int:
        return len(self._folders)

    def summary(self, name: str) -> Result:
        """A result without its figures.

        Raises:
            UnknownName: there is none of that name.
            BadValue: its file is damaged.
        """
        if name not in self._folders:
            raise UnknownName(f"no result {name!r} here.{suggestion(name, self._folders)}")
        from vitscope.studies.result import Result

        return Result.open(self._folders[name])

    def page(self, name: str) -> object:
        """What the page of a result shows: a `report.Page`, drawn once.

        Raises:
            UnknownName: there is none of that name, or its study is not installed.
            BadValue: its file is damaged.
        """
        self.summary(name)
        return self._page(name)

    def _drawn(self, name: str) -> object:
        from vitscope.report import page_of
        from vitscope.studies import open_result

        try:
            return page_of(open_result(self._folders[name]), file=f"{name}.html")
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise BadValue(f"{name} is not a result that its study can draw: {error!r}") from error


def _results_in(folder: Path, file: str) -> Iterator[Path]:
    if (folder / file).is_file():
        yield folder
    elif folder.is_dir():
        yield from (path.parent for path in sorted(folder.glob(f"*/{file}")))
