"""Sources of images: folders, archives, the demo. `images` opens any of them by a short text."""

from __future__ import annotations

import inspect
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscope.data.derived import Images, Mapped
from vitscope.data.source import ImageSource
from vitscope.errors import BadValue, MissingPath, UnknownName, suggestion
from vitscope.registry import Registry

if TYPE_CHECKING:
    from vitscope.data.annotations import Edge

SOURCES = Registry(
    "source",
    {
        "folder": "vitscope.data.folder:Folder",
        "tar": "vitscope.data.tar:Tar",
        "demo": "vitscope.data.demo:Demo",
    },
)
"""Scheme -> what opens the text that follows it."""


def images(
    source: str | Path | ImageSource,
    *,
    labels: str | Path | None = None,
    classes: str | Path | None = None,
    links_followed: bool | None = None,
    accept_truncated: bool | None = None,
    boxes: str | Path | None = None,
    masks: str | Path | None = None,
    edges: Edge | None = None,
    mask_values: Collection[int] | None = None,
    limit: int | None = None,
) -> Images:
    """Open a source of images.

    Args:
        source: "folder:photos", "tar:val.tar.gz", "demo:", the bare path of a folder or archive, or a source.
        labels: a CSV with a column path and a column label or index.
        classes: a CSV with the columns index and wnid or name: what class folders mean.
        links_followed: follow links that lead out of a folder.
        accept_truncated: complete JPEGs that end early with grey, rather than skip them.
        boxes: a CSV or a folder of XML files that say where the object is; see `foregrounds`.
        masks: a folder of PNGs that say the same.
        edges: whether corners of boxes are lines "between" pixels, which is taken where nothing is said, or
            the first and last "pixels" of a box, as in Tiny-ImageNet.
        mask_values: which values of a mask are foreground; all but 0 where none are given.
        limit: the first so many entries only.

    Raises:
        UnknownName: nobody opens that scheme; the nearest is named.
        MissingPath: there is no such folder or file.
        SourceError: it holds no image, or is damaged.
        BadValue: the source does not take one of the options, or labels, boxes or masks do not fit.

    >>> import vitscope as vs
    >>> len(vs.images("demo:"))
    2080
    """
    given = {
        "labels": labels,
        "classes": classes,
        "links_followed": links_followed,
        "accept_truncated": accept_truncated,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if isinstance(source, (str, os.PathLike)):
        opened = _open(*_scheme(str(source)), options)
    elif options:
        raise BadValue(f"{source.name} is open already: give {', '.join(options)} when opening it")
    else:
        opened = source
    found = opened if isinstance(opened, Images) else Mapped(opened, ())
    _check_of("boxes", boxes, "edges", edges)
    _check_of("masks", masks, "mask_values", mask_values)
    if boxes is not None or masks is not None:
        from vitscope.data.annotations import foregrounds

        read = foregrounds(boxes=boxes, masks=masks, edges=edges or "between", values=mask_values)
        found = found.annotated(read)
    return found if limit is None else found.limit(limit)


def _check_of(what: str, given: str | Path | None, name: str, value: object) -> None:
    if value is not None and given is None:
        raise BadValue(f"{name} says how {what} are read: give {what} too")


def _open(scheme: str, rest: str, options: dict[str, Any]) -> ImageSource:
    opener = SOURCES.get(scheme)
    known = inspect.signature(opener).parameters
    for name in options:
        if name not in known:
            raise BadValue(f"the source {scheme + ':'!r} takes no {name}")
    opened: ImageSource = opener(rest, **options)
    return opened


def _scheme(text: str) -> tuple[str, str]:
    """Who opens a text, and what of it: a bare path is a folder or an archive, whatever is there."""
    path = Path(text)
    if path.is_dir():
        return "folder", text
    if path.is_file():
        return "tar", text
    scheme, colon, rest = text.partition(":")
    if colon and scheme.isidentifier():
        return scheme, rest
    if colon or "/" in text or os.sep in text or path.suffix:
        raise MissingPath(f"no folder or archive {text!r}")
    known = [f"{name}:" for name in SOURCES]
    raise UnknownName(
        f"no source {text!r}: it is no folder, no archive and no scheme.{suggestion(text, known)} "
        f"There are: {', '.join(known)}."
    )
