"""Every file of a viewer: what its path looks like, what makes it, and which ones there are.

`answer` makes one of them; a server does so when it is asked, an export does so for all of `every_path`.
These are the same files, so whatever works on the one works on the other.

index.html                                the atlases      a/{atlas}/index.html                 a model
a/{atlas}/site/{site}/{page}.html         256 units        a/{atlas}/unit/{site}/{unit}.html    one unit
a/{atlas}/image/{mark}.html               some images      a/{atlas}/map/{site}.html            a site's map
a/{atlas}/health.html                     what is amiss    compare.html                         side by side
studies/index.html, studies/{name}.html   results          a/{atlas}/data/{site}.json           numbers
a/{atlas}/sprite/{site}/{page}.webp       256 tiles        a/{atlas}/thumbnail/{image}.webp     one image
a/{atlas}/sheet/{number}.webp             some images, where one file each would be too many for an export
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vitscope.errors import AtlasError, UnknownName, UsageError
from vitscope.viewer import image_page, pages, study_page, unit_page
from vitscope.viewer.library import Answer, Library, static, static_names
from vitscope.viewer.sheets import Sheets

Names = dict[str, str]


@dataclass(frozen=True)
class File:
    """One kind of file.

    Attributes:
        pattern: its path, with names in braces.
        make: from a library, the path and its names to the content.
        each: the names of every file of this kind.
    """

    pattern: str
    make: Callable[..., Answer]
    each: Callable[[Library], Iterator[Names]]

    @property
    def expression(self) -> re.Pattern[str]:
        """Matches the paths of this kind of file."""
        parts = re.split(r"\{(\w+)\}", self.pattern)
        return re.compile(
            "".join(f"(?P<{part}>[^/]+)" if at % 2 else re.escape(part) for at, part in enumerate(parts))
        )


def _once(library: Library) -> Iterator[Names]:
    del library
    yield {}


def _atlases(library: Library) -> Iterator[Names]:
    return ({"atlas": volume.slug} for volume in library.shelf)


def _sites(library: Library) -> Iterator[Names]:
    return ({"atlas": volume.slug, "site": entry.name} for volume in library.shelf for entry in volume.sites)


def _leaves(library: Library) -> Iterator[Names]:
    return (
        {"atlas": volume.slug, "site": entry.name, "number": str(leaf + 1)}
        for volume in library.shelf
        for entry in volume.sites
        for leaf in range(entry.leaves)
    )


def _pages(library: Library) -> Iterator[Names]:
    for names in _leaves(library):
        yield {**names, "page_number": names.pop("number")}


def _units(library: Library) -> Iterator[Names]:
    return (
        {"atlas": volume.slug, "site": entry.name, "unit": str(unit)}
        for volume in library.shelf
        for entry in volume.sites
        for unit in range(entry.units)
    )


def _images(library: Library) -> Iterator[Names]:
    for volume in library.shelf:
        for image in image_page.index_of(volume).images if volume.sheets is None else ():
            yield {"atlas": volume.slug, "image": image.decode()}


def _sheets(library: Library) -> Iterator[Names]:
    for volume in library.shelf:
        for number in range(len(volume.sheets) if volume.sheets else 0):
            yield {"atlas": volume.slug, "sheet_number": str(number)}


def _marks(library: Library) -> Iterator[Names]:
    for volume in library.shelf:
        for mark in image_page.index_of(volume).marks():
            yield {"atlas": volume.slug, "mark": mark}


def _results(library: Library) -> Iterator[Names]:
    return ({"name": name} for name in library.results)


def _statics(library: Library) -> Iterator[Names]:
    del library
    return ({"name": name} for name in static_names())


def _static(library: Library, path: str, *, name: str) -> Answer:
    del library, path
    return static(name)


THUMBNAILS = "a/{atlas}/thumbnail/{image}.webp"
FILES = (
    File("index.html", pages.home, _once),
    File("compare.html", pages.compare, _once),
    File("studies/{name}.html", study_page.study, _results),
    File("studies/index.html", study_page.studies, _once),
    File("static/{name}", _static, _statics),
    File("static/scale.png", pages.scale, _once),
    File("a/{atlas}/index.html", pages.model, _atlases),
    File("a/{atlas}/health.html", pages.health, _atlases),
    File("a/{atlas}/map/{site}.html", pages.site_map, _sites),
    File("a/{atlas}/data/{site}.json", pages.columns, _sites),
    File("a/{atlas}/data/{site}/{number}.json", pages.leaf, _leaves),
    File("a/{atlas}/site/{site}/{page_number}.html", pages.site, _pages),
    File("a/{atlas}/sprite/{site}/{number}.webp", pages.sprite, _leaves),
    File("a/{atlas}/unit/{site}/{unit}.html", unit_page.unit, _units),
    File("a/{atlas}/image/{mark}.html", image_page.image, _marks),
    File(THUMBNAILS, pages.thumbnail, _images),
    File("a/{atlas}/sheet/{sheet_number}.webp", pages.sheet, _sheets),
)
"""Every kind of file; where a path fits two, the later one is meant."""
_EXPRESSIONS = tuple((file, file.expression) for file in reversed(FILES))


def answer(library: Library, path: str) -> Answer:
    """The file at a path.

    What is not there gives a page with links and the status 404; what is damaged, one that says so, and 503.

    Args:
        library: what is shown.
        path: from the home page, without a slash in front; names in it are looked up, never opened.
    """
    try:
        for file, expression in _EXPRESSIONS:
            if match := expression.fullmatch(path):
                return file.make(library, path, **match.groupdict())
        raise UnknownName("There is no such page.")
    except (UsageError, AtlasError) as error:
        return pages.trouble(library, path, error)


def every_path(library: Library) -> Iterator[str]:
    """The paths of all files."""
    for file in FILES:
        yield from (file.pattern.format(**names) for names in file.each(library))


def keep_below(library: Library, most: int) -> None:
    """Put thumbnails on sheets where there would be more than so many files with one file each.

    Sheets hold no more of them than they must: a page that shows an image loads all of its sheet.
    """
    images = {volume.slug: image_page.index_of(volume).images for volume in library.shelf}
    total = sum(map(len, images.values()))
    others = sum(1 for file in FILES if file.pattern != THUMBNAILS for _ in file.each(library))
    if others + total <= most:
        return
    for volume in library.shelf:
        own = images[volume.slug]
        volume.sheets = Sheets.of(own, files=(most - others) * len(own) // total)
