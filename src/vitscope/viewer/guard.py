"""What every answer of the viewer goes through: which hosts may ask, and what browsers are told about it.

Written as plain ASGI, so that refusals carry the same headers as pages and nothing is buffered.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""The names under which a browser on this machine reaches a loopback server; any port will do."""

LONGEST_TARGET = 2048
"""Characters of path and query; addresses of real models have under 100. What is longer is refused."""

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
"""Sent with every answer: no inline script or style, no other host, no frame around us, no guessed types."""

READING = ("GET", "HEAD")
"""What other sites may make a browser ask for: it changes nothing, and they cannot read the answer."""

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\s:\[\]@/\\,]+)(?::\d{1,5})?", re.ASCII)


def host_of(header: str) -> str | None:
    """The host of a Host header in lower case, without its port; None where the header is malformed.

    IPv6 hosts keep their brackets, as in the header: "[::1]:8000" gives "[::1]".
    """
    match = _HOST.fullmatch(header.lower())
    return match.group(1) if match else None


class Guard:
    """Refuses foreign hosts (DNS rebinding), endless addresses, and any request beside reading that no page
    of ours makes (request forgery); adds `HEADERS` to every answer.

    Args:
        app: what is guarded.
        allowed_hosts: hosts as `host_of` writes them.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str] = LOOPBACK) -> None:
        self.app = app
        self.allowed_hosts = frozenset(host.lower() for host in allowed_hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI wants it; what is not HTTP is left alone."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        await (self.refusal(scope) or self.app)(scope, receive, send_with_headers)

    def refusal(self, scope: Scope) -> PlainTextResponse | None:
        """The answer to a request that is not let in, or None."""
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or host_of(hosts[0]) not in self.allowed_hosts:
            return PlainTextResponse("This host name is not served here.", status_code=400)
        if len(scope["path"]) + len(scope["query_string"]) > LONGEST_TARGET:
            return PlainTextResponse("This address is too long.", status_code=414)
        if scope["method"] not in READING and not _from_here(scope, hosts[0]):
            return PlainTextResponse("Only pages that are served here may ask for this.", status_code=403)
        return None


def _from_here(scope: Scope, host: str) -> bool:
    """Whether a request says that a page of this very host and port makes it; browsers always say."""
    origins = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"origin"]
    return origins in ([f"http://{host.lower()}"], [f"https://{host.lower()}"])
