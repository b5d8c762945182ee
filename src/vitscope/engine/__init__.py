"""Engines: where shards and leaves are worked on. `ENGINES` names them, plugins' included."""

from __future__ import annotations

from vitscope.engine.engine import Engine
from vitscope.registry import Registry

ENGINES = Registry("engine", {"local": "vitscope.engine.local:LocalEngine"})
"""Name -> class of the engine. Third parties add theirs by entry points in the group `vitscope.engine`."""


def open_engine(name: str = "local") -> Engine:
    """The engine of that name.

    Raises:
        UnknownName: there is none; the message names those there are.
    """
    engine: Engine = ENGINES.get(name)()
    return engine
