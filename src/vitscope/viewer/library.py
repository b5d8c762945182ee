"""What pages are made of: the atlases and results that are shown, templates, and the answer to one path.

A path leads from the home page to a file, "a/demo/unit/blocks.3.ffn/7.html". Every link in a page is relative
to the page, so the same bytes work behind a server and below any folder of a static host.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from vitscope.errors import AtlasError, UnknownName, suggestion
from vitscope.viewer.pictures import fact, figure, media_type, number
from vitscope.viewer.results import Results
from vitscope.viewer.shelf import Shelf, Volume

STATIC = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Types of our own files; nothing else is served from disk."""


@dataclass(frozen=True)
class Library:
    """Everything a viewer shows.

    Attributes:
        shelf: the atlases.
        results: the results of studies.
        served: whether a server answers; in an export there are only files.
        live: what asks the model for the reader, where there is one behind the pages.
    """

    shelf: Shelf
    results: Results = field(default_factory=Results)
    served: bool = True
    live: object | None = None

    def volume(self, slug: str) -> Volume:
        """The atlas of that name.

        Raises:
            UnknownName: there is none.
        """
        found = self.shelf.get(slug)
        if found is None:
            known = [volume.slug for volume in self.shelf]
            raise UnknownName(f"There is no atlas of that name here.{suggestion(slug, known)}")
        return found


@dataclass(frozen=True)
class Answer:
    """The content of one file.

    Attributes:
        content: its bytes.
        kind: its media type.
        version: under `?v=version` it never changes; "" where it may.
        status: 200; 503 for a page that tells of something which cannot be read.
    """

    content: bytes
    kind: str
    version: str = ""
    status: int = 200


def static_names() -> list[str]:
    """Our own files."""
    found = (entry.name for entry in files("vitscope.viewer").joinpath("static").iterdir())
    return sorted(name for name in found if f".{name.rpartition('.')[2]}" in STATIC)


@cache
def static(name: str) -> Answer:
    """One of our own files.

    Raises:
        UnknownName: there is no such file.
    """
    if name not in static_names():
        raise UnknownName("There is no such file.")
    content = files("vitscope.viewer").joinpath("static", name).read_bytes()
    version = hashlib.sha256(content).hexdigest()[:12]
    return Answer(content, STATIC[f".{name.rpartition('.')[2]}"], version)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("vitscope.viewer"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, figure=figure, fact=fact)
    environment.globals["static"] = lambda name: f"static/{name}?v={static(name).version}"
    return environment


def page(library: Library, path: str, template: str, *, status: int = 200, **values: object) -> Answer:
    """A page.

    Args:
        library: what is shown.
        path: where the page lies; its links are relative to that.
        template: its file.
        status: of the answer.
        values: what the template needs beside `root`, `path`, `library`, `served`, `live` and `volume`.
    """
    common: Mapping[str, Any] = {
        "root": "../" * path.count("/"),
        "path": path,
        "library": library,
        "served": library.served,
        "live": library.live,
        "volume": None,
    }
    text = _templates().get_template(template).render({**common, **values})
    if status == 200:  # error messages keep their lines and the caret under what is wrong
        text = re.sub(r"\n\s+", "\n", text)
    return Answer(text.encode(), "text/html; charset=utf-8", status=status)


def picture(content: bytes, version: str) -> Answer:
    """A picture.

    Raises:
        AtlasError: it is something else; nothing but raster images is served, whoever made the atlas.
    """
    kind = media_type(content)
    if kind is None:
        raise AtlasError("the atlas holds something here that is not an image; it is not served")
    return Answer(content, kind, version)
