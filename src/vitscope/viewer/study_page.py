"""The pages of studies: what there is, and one result with its figures, numbers and caveats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitscope.errors import VitscopeError
from vitscope.viewer.library import Answer, Library, page

if TYPE_CHECKING:
    from vitscope.studies.result import Result


def studies(library: Library, path: str) -> Answer:
    """The results that are shown; one that cannot be read says why."""
    found: list[tuple[str, Result | None, str]] = []
    for name in library.results:
        try:
            found.append((name, library.results.summary(name), ""))
        except VitscopeError as error:
            found.append((name, None, str(error)))
    return page(library, path, "studies.html", results=found)


def study(library: Library, path: str, *, name: str) -> Answer:
    """One result."""
    return page(library, path, "study.html", shown=library.results.page(name), name=name)
