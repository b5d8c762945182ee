"""The engine that runs every piece of work here, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Work = TypeVar("Work")
Done = TypeVar("Done")


class LocalEngine:
    """Runs work in this process, in order, each piece only when its result is asked for."""

    def map(self, task: Callable[[Work], Done], work: Iterable[Work]) -> Iterator[tuple[Work, Done]]:
        """Run the task over all work, lazily: nothing has run before the first result is taken."""
        for piece in work:
            yield piece, task(piece)
