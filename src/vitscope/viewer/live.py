"""What the viewer does beside reading, where it has the model: looks at a dropped picture, and dreams.

POST /live/{atlas}/look               the bytes of an image   -> waiting, loading, seen
POST /live/{atlas}/dream/{address}    ?recipe=NAME&seed=N     -> waiting, loading, planned, step ..., done
POST /live/{atlas}/keep/{number}      of a dream that is done -> where it was written, as JSON

The first two answer with events, the last of which may be `failed`; what is refused is JSON, {"error": ...}.
Nothing here writes into an atlas: dreams that are kept go to a folder beside it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from itertools import count

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from vitscope.data.decode import Unreadable, decode
from vitscope.dream import RECIPES, recipe_named
from vitscope.dream.objectives import unit
from vitscope.dream.optimize import optimize
from vitscope.dream.result import Dream
from vitscope.errors import AtlasError, BadValue, NotWritable, VitscopeError
from vitscope.viewer.behind import Behind, Wanted
from vitscope.viewer.kept import keep
from vitscope.viewer.library import Library
from vitscope.viewer.shelf import Volume
from vitscope.viewer.told import finished, planned, shown, step
from vitscope.viewer.turns import Teller, Turns, Working

LARGEST_UPLOAD = 32 * 2**20
"""Bytes of a dropped picture, at most."""
UNITS_SHOWN = 6
"""Of every site, for a dropped picture."""
DONE_KEPT = 16
"""Finished dreams that can still be kept; older ones are forgotten."""


class Live:
    """The model's work for the pages, one piece at a time.

    Args:
        wanted: which models.
    """

    def __init__(self, wanted: Wanted | None = None) -> None:
        self._behind = Behind(wanted or Wanted())
        self._turns = Turns()
        self._done: OrderedDict[int, tuple[str, Dream]] = OrderedDict()
        self._numbers = count(1)

    @property
    def recipes(self) -> list[str]:
        """What dreams can be made by, the usual one first."""
        return RECIPES.names()

    @property
    def routes(self) -> list[Route]:
        """What the application answers besides its pages."""
        return [
            Route(path, _refusing(endpoint), methods=["POST"])
            for path, endpoint in (
                ("/live/{atlas}/look", self.look),
                ("/live/{atlas}/dream/{address}", self.dream),
                ("/live/{atlas}/keep/{number:int}", self.keep),
            )
        ]

    async def look(self, request: Request) -> Response:
        """What the units make of a picture."""
        volume = _volume(request)
        content = await _body(request)

        def work(teller: Teller) -> None:
            from vitscope.look import look  # which needs matplotlib: a second that no page should wait for

            model = self._behind.of(volume.atlas, on_load=lambda name: teller.tell("loading", model=name))
            try:
                image = decode(content).image
            except Unreadable as error:
                raise BadValue(f"this cannot be read as an image: {error}") from error
            seen = look(model, image, atlas=volume.atlas, units=UNITS_SHOWN)
            teller.tell("seen", **shown(seen, volume))

        return Working(self._turns, work)

    async def dream(self, request: Request) -> Response:
        """A dream of a unit, step by step."""
        volume = _volume(request)
        address = volume.atlas[request.path_params["address"]].address
        recipe = recipe_named(request.query_params.get("recipe", "vitscope"))
        seed = _seed(request.query_params.get("seed", "0"))

        def work(teller: Teller) -> None:
            model = self._behind.of(volume.atlas, on_load=lambda name: teller.tell("loading", model=name))
            (made,) = optimize(
                model,
                [unit(str(address))],
                recipe=recipe,
                seed=seed,
                on_plan=lambda plan: teller.tell("planned", **planned(plan, recipe)),
                on_glimpse=lambda glimpse: teller.offer("step", lambda: step(glimpse)),
            )
            teller.tell("done", number=self._remembered(volume, made), **finished(made))

        return Working(self._turns, work)

    async def keep(self, request: Request) -> Response:
        """Write a finished dream into the folder beside its atlas."""
        volume, number = _volume(request), request.path_params["number"]
        slug, made = self._done.get(number, ("", None))
        if made is None or slug != volume.slug:
            raise HTTPException(404, "This dream is forgotten: dream it again.")
        return JSONResponse({"path": str(keep(made, volume.atlas))})

    def _remembered(self, volume: Volume, made: Dream) -> int:
        number = next(self._numbers)
        self._done[number] = volume.slug, made
        while len(self._done) > DONE_KEPT:
            self._done.popitem(last=False)
        return number


Endpoint = Callable[[Request], Awaitable[Response]]


def _refusing(endpoint: Endpoint) -> Endpoint:
    """The endpoint with its errors as answers in JSON."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except HTTPException as error:
            return JSONResponse({"error": error.detail}, status_code=error.status_code)
        except VitscopeError as error:
            status = 503 if isinstance(error, AtlasError) else 500 if isinstance(error, NotWritable) else 404
            return JSONResponse({"error": str(error)}, status_code=status)

    return answer


def _volume(request: Request) -> Volume:
    library: Library = request.app.state.library
    return library.volume(request.path_params["atlas"])


async def _body(request: Request) -> bytes:
    """What was sent, as far as it is not too much."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > LARGEST_UPLOAD:
            raise HTTPException(413, f"Pictures have at most {LARGEST_UPLOAD >> 20} MB here.")
    return content


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadValue(f"a seed is a whole number from 0 to 999999999, not {text[:20]!r}")
    return int(text)
