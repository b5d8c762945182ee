"""Names for things that live in files not yet imported: name -> "module:function".

Third parties add theirs by an entry point of the same form in the group `vitscope.<kind>`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

from vitscope.errors import BadValue, UnknownName, suggestion


class Registry:
    """A table of one kind of thing. Values are imported on first use.

    Args:
        kind: what the names name, in the singular; it appears in errors and in the entry-point group.
        table: name -> "module:attribute".
        error: the `UnknownName` to raise for a name that is not there.
    """

    def __init__(self, kind: str, table: dict[str, str], *, error: type[UnknownName] = UnknownName) -> None:
        self.kind = kind
        self.error = error
        self._table: dict[str, Any] = dict(table)
        self._plugins_seen = False

    def add(self, name: str, value: Any) -> None:
        """Register one more name, for this process. A taken name is an error."""
        if name in self.names():
            raise BadValue(f"the {self.kind} {name!r} is registered already, as {self._table[name]!r}")
        self._table[name] = value

    def names(self) -> list[str]:
        """All names, in the order they were registered."""
        if not self._plugins_seen:
            self._plugins_seen = True
            for point in entry_points(group=f"vitscope.{self.kind}"):
                self.add(point.name, point.value)
        return list(self._table)

    def get(self, name: str) -> Any:
        """The thing of that name, imported if need be."""
        if name not in self.names():
            known = ", ".join(self.names())
            raise self.error(f"no {self.kind} {name!r}.{suggestion(name, self.names())} There are: {known}.")
        value = self._table[name]
        if isinstance(value, str):
            module, _, attribute = value.partition(":")
            value = self._table[name] = getattr(importlib.import_module(module), attribute)
        return value

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())
