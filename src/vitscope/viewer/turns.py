"""Long work of the viewer: one piece at a time on a thread, told to the browser while it goes on.

What is told is a stream of server-sent events (WHATWG HTML, section 9.2). It answers a POST and is read by
`fetch`, so that no other site can begin work by a mere link, as it could with an `EventSource`. Work ends
with its request: when the browser stops reading or goes away, the thread hears of it at its next event.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
from anyio import from_thread, to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from vitscope.errors import Failure, VitscopeError

WAITING = 4
"""How many may wait while one works."""
PATIENCE = 30.0
"""Seconds that a browser may take to read one event, before its work is ended."""
OFTEN = 1 / 12
"""Seconds between two offers that are told, at least: one sees it move, and more would cost the work time."""


class Busy(Failure):
    """Too many wait already."""


class Turns:
    """Whose turn it is: one at a time, in the order in which they came."""

    def __init__(self, *, waiting: int = WAITING) -> None:
        self.turn = anyio.Lock()
        self._waiting = waiting
        self._inside = 0

    @contextmanager
    def place(self) -> Iterator[int]:
        """A place in the queue, for as long as the `with` lasts: how many are before it.

        Raises:
            Busy: there is none.
        """
        if self._inside > self._waiting:
            raise Busy(f"the model is at work, and {self._waiting} wait already: try again in a while")
        self._inside += 1
        try:
            yield self._inside - 1
        finally:
            self._inside -= 1


class Teller:
    """How work on a thread tells what it has got to.

    Args:
        sender: takes events on the other side.
        clock: seconds that only rise.
    """

    def __init__(
        self, sender: MemoryObjectSendStream[bytes], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sender, self._clock = sender, clock
        self._last = -OFTEN

    def tell(self, event: str, **facts: Any) -> None:
        """Tell, and wait until there is room for it."""
        from_thread.run(self._sender.send, written(event, facts))

    def offer(self, event: str, facts: Callable[[], dict[str, Any]]) -> None:
        """Tell what only matters now, if the browser has taken all before; else nothing is computed.

        Raises a cancellation where the browser is gone: let it pass.
        """
        from_thread.check_cancelled()
        now = self._clock()
        if now - self._last >= OFTEN and not self._sender.statistics().current_buffer_used:
            self._last = now
            self.tell(event, **facts())


Work = Callable[[Teller], None]
"""What is done on a thread when its turn has come. It may raise a `VitscopeError`, which is told."""


class Working(Response):
    """The answer that does some work and tells of it: events until `failed`, or until the work is done.

    Args:
        turns: where it queues; status 503 where there is no place.
        work: what to do.
    """

    def __init__(self, turns: Turns, work: Work) -> None:
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._turns, self._work = turns, work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, as ASGI wants it."""
        try:
            with self._turns.place() as before:
                await self._answer(before, receive, send)
        except Busy as error:
            await JSONResponse({"error": str(error)}, status_code=503)(scope, receive, send)

    async def _answer(self, before: int, receive: Receive, send: Send) -> None:
        sender, receiver = anyio.create_memory_object_stream[bytes](1)
        async with anyio.create_task_group() as group:
            group.start_soon(self._until_gone, receive, group.cancel_scope)
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await sender.send(written("waiting", {"before": before}))
            group.start_soon(self._in_turn, sender)
            await _sent(receiver, send)
            group.cancel_scope.cancel()

    async def _in_turn(self, sender: MemoryObjectSendStream[bytes]) -> None:
        with suppress(anyio.BrokenResourceError):  # the browser went away while something was told
            async with sender, self._turns.turn:
                await to_thread.run_sync(self._told, Teller(sender))

    def _told(self, teller: Teller) -> None:
        try:
            self._work(teller)
        except VitscopeError as error:
            teller.tell("failed", message=str(error))
        except RuntimeError as error:  # torch's, such as a device that is out of memory
            teller.tell("failed", message=f"{type(error).__name__}: {error}")

    async def _until_gone(self, receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()


async def _sent(receiver: MemoryObjectReceiveStream[bytes], send: Send) -> None:
    """Send all events, and the end; give up on a browser that does not read."""
    async with receiver:
        async for event in receiver:
            with anyio.move_on_after(PATIENCE) as reading:
                await send({"type": "http.response.body", "body": event, "more_body": True})
            if reading.cancelled_caught:
                return
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def written(event: str, facts: dict[str, Any]) -> bytes:
    """One event as it is sent."""
    return f"event: {event}\ndata: {json.dumps(facts, allow_nan=False)}\n\n".encode()
