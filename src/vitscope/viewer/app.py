"""The viewer over one or more atlases, as an ASGI application and as a server. It answers GET and HEAD alone.

Every file of `files.py`, and what only a server can do:

/                       the home page                    /a/{atlas}            the page of its model
/a/{atlas}/go           to the address that was typed    /a/{atlas}/random     to any unit
/api/{atlas}            facts as JSON                    /api/{atlas}/{address}
"""

from __future__ import annotations

import errno
import hashlib
import random
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from vitscope.address import Address
from vitscope.atlas.read import Atlas
from vitscope.errors import AtlasError, BadValue, UnknownAddress, UnknownName, UsageError
from vitscope.viewer import pages
from vitscope.viewer.files import answer
from vitscope.viewer.guard import LOOPBACK, Guard
from vitscope.viewer.library import Answer, Library
from vitscope.viewer.results import Results
from vitscope.viewer.shelf import Shelf, Volume, plain

if TYPE_CHECKING:
    from vitscope.viewer.live import Live

READERS = 4
"""Threads that make pages. One interpreter makes no more at a time by having more of them, and each keeps
megabytes of what it last read."""
FOREVER = "public, max-age=31536000, immutable"
"""For files whose address names the version of what they hold."""


def file(request: Request) -> Response:
    """Any file of the viewer."""
    return _sent(request, answer(_library(request), request.path_params["path"] or "index.html"))


def _library(request: Request) -> Library:
    library: Library = request.app.state.library
    return library


def _sent(request: Request, found: Answer) -> Response:
    """A file with the headers that let a browser keep it."""
    current = found.version and request.query_params.get("v") == found.version
    headers = {"cache-control": FOREVER if current else "no-cache"}
    if found.status == 200 and not found.kind.startswith("text/html"):
        headers["etag"] = tag = f'"{hashlib.sha256(found.content).hexdigest()[:32]}"'
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
    return Response(found.content, found.status, headers, media_type=found.kind)


def _volume(request: Request) -> Volume:
    return _library(request).volume(request.path_params["atlas"])


def model(request: Request) -> Response:
    """To the page of a model."""
    return RedirectResponse(f"/{_volume(request).home}")


def go(request: Request) -> Response:
    """From the address that somebody typed to its page."""
    volume = _volume(request)
    address = Address.parse(request.query_params.get("address", "").strip()[:200])
    volume.site(address.site)
    return RedirectResponse(f"/{volume.grid(address.site) if address.unit is None else volume.unit(address)}")


def lucky(request: Request) -> Response:
    """To any unit of a site that is built."""
    volume = _volume(request)
    entries = [entry for entry in volume.sites if entry.finished]
    if not entries:
        raise UnknownName("No unit of this atlas is built yet.")
    entry = random.choice(entries)
    target = volume.unit(Address(entry.name, random.randrange(entry.units)))
    return RedirectResponse(f"/{target}", headers={"cache-control": "no-store"})


def api_atlas(request: Request) -> Response:
    """The atlas's manifest and the state of its sites."""
    volume = _volume(request)
    atlas = volume.atlas
    sites = [
        {"name": e.name, "units": e.units, "leaves": e.leaves, "finished": e.finished} for e in volume.sites
    ]
    return JSONResponse(
        plain({"name": atlas.name, "complete": atlas.complete, "sites": sites, "manifest": atlas.manifest})
    )


def api_unit(request: Request) -> Response:
    """What `vitscope show --json` prints."""
    address = Address.parse(request.path_params["address"])
    if address.unit is None:
        raise UnknownAddress(f"{str(address)!r} names a site; a unit is written {address.site}:0")
    return JSONResponse(plain(_volume(request).atlas[address].describe()))


def trouble(request: Request, error: Exception) -> Response:
    """What went wrong, as a page with links onward, or as JSON below /api/."""
    found = pages.trouble(_library(request), request.url.path.lstrip("/"), error)
    status = error.status_code if isinstance(error, HTTPException) else found.status
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": str(error)}, status_code=status)
    return Response(found.content, status, {"cache-control": "no-cache"}, media_type=found.kind)


ROUTES: Mapping[str, Callable[[Request], Response]] = {
    "/a/{atlas}": model,
    "/a/{atlas}/go": go,
    "/a/{atlas}/random": lucky,
    "/api/{atlas}": api_atlas,
    "/api/{atlas}/{address}": api_unit,
    "/{path:path}": file,
}


def _on_a_thread(
    endpoint: Callable[[Request], Response], readers: CapacityLimiter
) -> Callable[[Request], Awaitable[Response]]:
    async def answered(request: Request) -> Response:
        return await to_thread.run_sync(endpoint, request, limiter=readers)

    return answered


def create_app(
    atlases: Sequence[Atlas],
    *,
    studies: Sequence[str | Path] = (),
    allowed_hosts: Sequence[str] = LOOPBACK,
    live: Live | None = None,
) -> Starlette:
    """The viewer as an ASGI application.

    Args:
        atlases: what it shows; they are opened again while they are being built.
        studies: folders with results of studies, or folders of such folders.
        allowed_hosts: hosts that requests may name, without port; IPv6 in brackets.
        live: does the work that needs the model; without it pages do not offer any.

    Raises:
        MissingPath: a folder of `studies` holds no result.
    """
    readers = CapacityLimiter(READERS)
    reading = [Route(path, _on_a_thread(endpoint, readers)) for path, endpoint in ROUTES.items()]
    app = Starlette(
        routes=[*(live.routes if live else []), *reading],
        middleware=[Middleware(Guard, allowed_hosts=allowed_hosts)],
        exception_handlers={HTTPException: trouble, UsageError: trouble, AtlasError: trouble},
    )
    app.router.redirect_slashes = False  # its redirect would answer //host/ with a way to another host
    app.state.library = Library(Shelf(atlases), Results(studies), live=live)
    return app


def find_port(host: str, port: int) -> int:
    """The port, or the next free one of the hundred after it; 0 asks for any.

    Raises:
        BadValue: the host is not one of this machine's, or none of these ports is free.
    """
    reason = ""
    for candidate in range(port, min(port + 100, 65536)):
        try:
            with _listen(host, candidate) as server:
                return int(server.getsockname()[1])
        except OSError as error:
            reason = str(error)
            if error.errno != errno.EADDRINUSE:
                break
    raise BadValue(f"cannot listen on {host} at port {port} or the ports after it: {reason}")


def _listen(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def serve(
    atlases: Atlas | Sequence[Atlas],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    studies: Sequence[str | Path] | None = None,
    allowed_hosts: Sequence[str] = LOOPBACK,
    live: str = "auto",
    weights: str = "pretrained",
    device: str = "auto",
    opened: Callable[[str], object] | None = None,
) -> None:
    """Serve the viewer until interrupted.

    >>> serve(Atlas.open("demo.atlas"))                                                     # doctest: +SKIP

    Args:
        atlases: one atlas or several.
        host: address to bind to. Anything but loopback also needs the names that browsers will use, in
            `allowed_hosts`.
        port: the next free one is taken where it is in use.
        studies: folders with results of studies, or folders of such folders.
        allowed_hosts: hosts that requests may name, without port; IPv6 in brackets.
        live: the model that dreams and looks at dropped pictures: "auto" is each atlas's own, loaded when it
            is first asked for; "off" is none, as for everybody who is not on this machine.
        weights, device: of that model, as `load` takes them.
        opened: is called with the address of the home page before the first request is answered.

    Raises:
        BadValue: the port cannot be had, or the host is not loopback and nobody was allowed.
        MissingPath: a folder of `studies` holds no result.
    """
    import uvicorn

    is_loopback = host in ("127.0.0.1", "localhost", "::1")
    if not is_loopback and set(allowed_hosts) <= set(LOOPBACK):
        raise BadValue(
            f"{host} can be reached from other machines: name the hosts that browsers will use"
            " in allowed_hosts, or serve on 127.0.0.1"
        )
    shown = (atlases,) if isinstance(atlases, Atlas) else tuple(atlases)
    server = _listen(host, find_port(host, port))
    if opened is not None:
        name = f"[{host}]" if ":" in host else host
        opened(f"http://{name}:{server.getsockname()[1]}/")
    config = uvicorn.Config(
        create_app(
            shown,
            studies=studies or (),
            allowed_hosts=allowed_hosts,
            live=_alive(live, weights, device) if is_loopback and live != "off" else None,
        ),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
    )
    uvicorn.Server(config).run(sockets=[server])


def _alive(model: str, weights: str, device: str) -> Live:
    """What dreams. Only who has it waits for torch, and keeps it in memory."""
    from vitscope.viewer.behind import Wanted
    from vitscope.viewer.live import Live

    return Live(Wanted(None if model == "auto" else model, weights, device))
