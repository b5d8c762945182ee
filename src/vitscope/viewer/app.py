"""The viewer over one or more atlases, as an ASGI application and as a server. It answers GET and HEAD alone.

/                           the atlases, or the one atlas     /a/{atlas}/thumbnail/{image}
/a/{atlas}                  one atlas: its sites              /a/{atlas}/sprite/{site}/{leaf}
/a/{atlas}/site/{site}      256 units a page                  /a/{atlas}/dream/{address}/{n}
/a/{atlas}/unit/{address}   one unit                          /a/{atlas}/map/{address}/{by}/{rank}
/api/{atlas}                facts as JSON                     /api/{atlas}/{address}
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Mapping, Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vitscope.atlas.read import Atlas
from vitscope.errors import AtlasError, BadValue, UsageError
from vitscope.viewer import pages
from vitscope.viewer.guard import LOOPBACK, Guard
from vitscope.viewer.shelf import Shelf

ROUTES: Mapping[str, Callable[[Request], Response]] = {
    "/": pages.home,
    "/a/{atlas}": pages.atlas_page,
    "/a/{atlas}/site/{site}": pages.site_page,
    "/a/{atlas}/unit/{address}": pages.unit_page,
    "/a/{atlas}/go": pages.go,
    "/a/{atlas}/random": pages.lucky,
    "/a/{atlas}/sprite/{site}/{leaf:int}": pages.sprite,
    "/a/{atlas}/thumbnail/{image}": pages.thumbnail,
    "/a/{atlas}/dream/{address}/{n:int}": pages.dream,
    "/a/{atlas}/map/{address}/{by}/{rank:int}": pages.patch_map,
    "/api/{atlas}": pages.api_atlas,
    "/api/{atlas}/{address}": pages.api_unit,
    "/scale.png": pages.scale,
    "/static/{name}": pages.static,
}


def create_app(atlases: Sequence[Atlas], *, allowed_hosts: Sequence[str] = LOOPBACK) -> Starlette:
    """The viewer as an ASGI application.

    Args:
        atlases: what it shows; they are opened again while they are being built.
        allowed_hosts: hosts that requests may name, without port; IPv6 in brackets.
    """
    app = Starlette(
        routes=[Route(path, endpoint) for path, endpoint in ROUTES.items()],
        middleware=[Middleware(Guard, allowed_hosts=allowed_hosts)],
        exception_handlers={
            HTTPException: pages.trouble,
            UsageError: pages.trouble,
            AtlasError: pages.trouble,
        },
    )
    app.router.redirect_slashes = False  # its redirect would answer //host/ with a way to another host
    app.state.shelf = Shelf(atlases)
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
    allowed_hosts: Sequence[str] = LOOPBACK,
    opened: Callable[[str], object] | None = None,
) -> None:
    """Serve the viewer until interrupted.

    >>> serve(Atlas.open("demo.atlas"))                                                     # doctest: +SKIP

    Args:
        atlases: one atlas or several.
        host: address to bind to. Anything but loopback also needs the names that browsers will use, in
            `allowed_hosts`.
        port: the next free one is taken where it is in use.
        allowed_hosts: hosts that requests may name, without port; IPv6 in brackets.
        opened: is called with the address of the home page before the first request is answered.

    Raises:
        BadValue: the port cannot be had, or the host is not loopback and nobody was allowed.
    """
    import uvicorn

    if host not in ("127.0.0.1", "localhost", "::1") and set(allowed_hosts) <= set(LOOPBACK):
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
        create_app(shown, allowed_hosts=allowed_hosts),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        ws="none",
    )
    uvicorn.Server(config).run(sockets=[server])
