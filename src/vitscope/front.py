"""A module that is called like the verb it is named for.

`vitscope.dream` is a package and `vitscope.dream(...)` a verb, and Python binds the package to that name as
soon as any of its files is imported. So the module itself takes the call, whichever of the two a name happens
to mean.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any


def callable_as(module: str, verb: Callable[..., Any]) -> None:
    """Make calling the module of that name call the verb, with the verb's signature.

    >>> callable_as(__name__, dream)
    """
    taken = sys.modules[module]
    taken.__class__ = type("Verb", (ModuleType,), {"__call__": staticmethod(verb)})
    taken.__signature__ = inspect.signature(verb)  # type: ignore[attr-defined]
