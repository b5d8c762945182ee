"""What the viewer answers to each kind of address: pages, pictures and JSON. All of it only reads.

Names in an address are looked up in the atlas and never become paths. A name of nothing raises, and `trouble`
makes a page with links of it; so does a leaf that is damaged, which costs its own pages and no others.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from vitscope.address import Address
from vitscope.atlas.read import Exemplar, Unit
from vitscope.errors import AtlasError, UnknownAddress
from vitscope.viewer.pictures import (
    colour_scale,
    fact,
    figure,
    heat_map,
    histogram_chart,
    media_type,
    number,
    shared_span,
)
from vitscope.viewer.shelf import UNITS_PER_PAGE, Shelf, Volume, made_from, plain

DREAMS_PER_ROW = 12
"""Dreams of a site on the page of its atlas: one row of a laptop's window."""
DREAMS_PER_SITE = 128
"""Dreams shown above the units of a site."""
FOREVER = "public, max-age=31536000, immutable"
"""For pictures whose address names the version of what they show."""

STATIC = {"viewer.css": "text/css", "viewer.js": "text/javascript", "icon.svg": "image/svg+xml"}
"""Our own three files; nothing else is served from disk."""


@cache
def _static(name: str) -> tuple[bytes, str]:
    content = files("vitscope.viewer").joinpath("static", name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:12]


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
    environment.globals["static"] = lambda name: f"/static/{name}?v={_static(name)[1]}"
    return environment


def _page(template: str, *, status: int = 200, **values: object) -> HTMLResponse:
    text = _templates().get_template(template).render(**{"volume": None, **values})
    return HTMLResponse(text, status_code=status, headers={"cache-control": "no-cache"})


def _volume(request: Request) -> Volume:
    volume: Volume | None = request.app.state.shelf.get(request.path_params["atlas"])
    if volume is None:
        raise HTTPException(404, "There is no atlas of that name here.")
    return volume


def _address(request: Request) -> Address:
    address = Address.parse(request.path_params["address"])
    if address.unit is None:
        raise UnknownAddress(f"{str(address)!r} names a site; a unit is written {address.site}:0")
    return Address(address.site, address.unit)


def _unit(request: Request) -> tuple[Volume, Unit]:
    volume = _volume(request)
    return volume, volume.atlas[_address(request)]


def _ranking(unit: Unit, by: str) -> Sequence[Exemplar]:
    return unit.by_mean if by == "mean" else unit.exemplars


def _spans(exemplars: Sequence[Exemplar]) -> list[tuple[float, float]]:
    """What both ends of each exemplar's map stand for."""
    return [(e.map_low or 0.0, e.map_high or 0.0) for e in exemplars if e.map is not None]


def home(request: Request) -> Response:
    """The atlases; where there is one, its page."""
    shelf: Shelf = request.app.state.shelf
    volumes = list(shelf)
    if len(volumes) == 1:
        return RedirectResponse(volumes[0].to())
    return _page("home.html", volumes=volumes)


def atlas_page(request: Request) -> Response:
    """One atlas: what it is of, how far it is built, and its sites."""
    volume = _volume(request)
    dreamt = {entry.name: volume.dreamt(entry)[:DREAMS_PER_ROW] for entry in volume.atlas.sites}
    groups: dict[str, list[tuple[Any, Any]]] = {}
    for entry in volume.atlas.sites:
        family = ".".join("*" if part.isdigit() else part for part in entry.name.split("."))
        groups.setdefault(family, []).append((entry, volume.census(entry)))
    facts = made_from(volume.atlas.manifest)
    return _page("atlas.html", volume=volume, groups=groups, dreamt=dreamt, facts=facts)


def site_page(request: Request) -> Response:
    """256 units of a site, as pictures."""
    volume = _volume(request)
    entry = volume.site(request.path_params["site"])
    page = request.query_params.get("page", "1")
    if not (page.isascii() and page.isdigit() and 1 <= int(page) <= entry.leaves):
        raise HTTPException(404, f"{entry.name} has the pages 1 to {entry.leaves}.")
    leaf = int(page) - 1
    try:
        rows, trouble = volume.atlas.leaf(entry.name, leaf).units, ""
    except AtlasError as error:
        rows, trouble = (), str(error)
    return _page(
        "site.html",
        status=503 if trouble else 200,
        volume=volume,
        entry=entry,
        page=int(page),
        rows=rows,
        trouble=trouble,
        dreamt=volume.dreamt(entry)[:DREAMS_PER_SITE] if page == "1" else [],
        first=leaf * UNITS_PER_PAGE,
        statuses=Counter(row.status for row in rows),
        others=_beside([site.name for site in volume.atlas.sites], entry.name),
    )


def _beside(names: Sequence[str], name: str) -> tuple[str | None, str | None]:
    at = list(names).index(name)
    return (names[at - 1] if at else None), (names[at + 1] if at + 1 < len(names) else None)


def unit_page(request: Request) -> Response:
    """One unit: its dreams, its exemplars with their patch maps, its histogram and statistics."""
    volume, unit = _unit(request)
    by = "mean" if request.query_params.get("by") == "mean" else "max"
    exemplars = _ranking(unit, by)
    labels = Counter(exemplar.label for exemplar in exemplars if exemplar.label)
    marks = [exemplar.value for exemplar in unit.exemplars]
    return _page(
        "unit.html",
        volume=volume,
        unit=unit,
        address=unit.address,
        entry=volume.site(unit.address.site),
        by=by,
        exemplars=exemplars,
        labels=labels.most_common(4),
        span=shared_span(_spans(exemplars)),
        chart=histogram_chart(unit.histogram.edges, unit.histogram.counts, marks=marks),
        beside=volume.atlas.neighbours(unit.address),
    )


def go(request: Request) -> Response:
    """From the address that somebody typed to its page."""
    volume = _volume(request)
    address = Address.parse(request.query_params.get("address", "").strip()[:200])
    volume.site(address.site)
    return RedirectResponse(volume.to("site", address.site) if address.unit is None else volume.unit(address))


def lucky(request: Request) -> Response:
    """To any unit of a site that is built."""
    volume = _volume(request)
    entries = [entry for entry in volume.atlas.sites if entry.finished]
    if not entries:
        raise HTTPException(404, "No unit of this atlas is built yet.")
    entry = random.choice(entries)
    target = volume.unit(Address(entry.name, random.randrange(entry.units)))
    return RedirectResponse(target, headers={"cache-control": "no-store"})


def api_atlas(request: Request) -> Response:
    """The atlas's manifest and the state of its sites."""
    atlas = _volume(request).atlas
    sites = [
        {"name": e.name, "units": e.units, "leaves": e.leaves, "finished": e.finished} for e in atlas.sites
    ]
    return JSONResponse(
        plain({"name": atlas.name, "complete": atlas.complete, "sites": sites, "manifest": atlas.manifest})
    )


def api_unit(request: Request) -> Response:
    """What `vitscope show --json` prints."""
    return JSONResponse(plain(_unit(request)[1].describe()))


def _picture(request: Request, content: bytes, version: str) -> Response:
    """An image with the headers that let a browser keep it; what is not an image is not served."""
    kind = media_type(content)
    if kind is None:
        raise AtlasError("the atlas holds something here that is not an image; it is not served")
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    current = request.query_params.get("v") == version
    headers = {"etag": tag, "cache-control": FOREVER if current else "no-cache"}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)


def sprite(request: Request) -> Response:
    """The 16 x 16 tiles of one leaf."""
    volume, names = _volume(request), request.path_params
    return _picture(request, volume.atlas.sprite(names["site"], names["leaf"]), volume.version)


def thumbnail(request: Request) -> Response:
    """One image of the source, cropped as the model saw it."""
    volume = _volume(request)
    return _picture(request, volume.atlas.thumbnail(request.path_params["image"]), volume.version)


def dream(request: Request) -> Response:
    """One of a unit's dreams."""
    volume, unit = _unit(request)
    if request.path_params["n"] >= len(unit.dreams):
        raise HTTPException(404, f"{unit.address} has {len(unit.dreams)} dreams.")
    return _picture(request, unit.dreams[request.path_params["n"]].image, volume.version)


def patch_map(request: Request) -> Response:
    """The patch map of one exemplar, as a layer to put over its picture."""
    volume, unit = _unit(request)
    exemplars = _ranking(unit, request.path_params["by"])
    for exemplar in exemplars:
        if exemplar.rank == request.path_params["rank"] and exemplar.map is not None:
            layer = heat_map(exemplar.map, [*_spans([exemplar]), *_spans(exemplars)])
            return _picture(request, layer, volume.version)
    raise HTTPException(404, "There is no such map.")


def scale(request: Request) -> Response:
    """The legend of all heat maps."""
    return _picture(request, colour_scale(), "1")


def static(request: Request) -> Response:
    """One of our own files."""
    name = request.path_params["name"]
    if name not in STATIC:
        raise HTTPException(404, "There is no such file.")
    content, version = _static(name)
    cache_control = FOREVER if request.query_params.get("v") == version else "no-cache"
    return Response(content, media_type=STATIC[name], headers={"cache-control": cache_control})


def trouble(request: Request, error: Exception) -> Response:
    """What went wrong, as a page with links onward, or as JSON below /api/."""
    status, title = 404, "Not found"
    message = str(error)
    if isinstance(error, HTTPException):
        status, message = error.status_code, error.detail
        title = title if status == 404 else "This cannot be done here"
    elif isinstance(error, AtlasError):
        status, title = 503, "This part of the atlas cannot be read"
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": message}, status_code=status)
    shelf: Shelf = request.app.state.shelf
    parts = request.url.path.split("/")
    volume = shelf.get(parts[2]) if len(parts) > 2 and parts[1] == "a" else None
    return _page(
        "trouble.html", status=status, title=title, message=message, volume=volume, volumes=list(shelf)
    )
