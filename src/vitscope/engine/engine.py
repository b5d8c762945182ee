"""The protocol of an engine: it runs a task over shards, somewhere, and hands back the results as they
come."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

Work = TypeVar("Work")
Done = TypeVar("Done")


@runtime_checkable
class Engine(Protocol):
    """Runs `task` once for every piece of work; results come in any order, each with its piece of work."""

    def map(self, task: Callable[[Work], Done], work: Iterable[Work]) -> Iterator[tuple[Work, Done]]:
        """Run the task over all work. A task that raises ends the map with its error."""
        ...
