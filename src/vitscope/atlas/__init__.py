"""Atlases: what every unit of a model responds to, built once, read and browsed ever after.

Names are imported on first use (PEP 562), so that whoever only reads an atlas does not wait for torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitscope.atlas.building import Built as Built
    from vitscope.atlas.door import build as build
    from vitscope.atlas.read import Atlas as Atlas

_HOMES = {
    "Atlas": "vitscope.atlas.read",
    "Built": "vitscope.atlas.building",
    "build": "vitscope.atlas.door",
}
__all__ = ["Atlas", "Built", "build", "open"]  # see `_HOMES`


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def open(path: str | Path) -> Atlas:
    """Open an atlas for reading; see `Atlas.open`."""
    from vitscope.atlas.read import Atlas

    return Atlas.open(path)
