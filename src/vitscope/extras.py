"""Optional libraries: what `pip install 'vitscope[NAME]'` adds, imported on use only."""

from __future__ import annotations

import importlib
import importlib.util
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vitscope.errors import MissingExtra

EXTRAS = {"clip": ("open_clip", "open_clip_torch"), "hf": ("transformers", "transformers")}
"""An extra of pyproject.toml -> the module that it brings, and the package that holds it."""


def is_installed(extra: str) -> bool:
    """Whether the library of an extra is there; it is not imported."""
    return importlib.util.find_spec(EXTRAS[extra][0]) is not None


def require(extra: str, *, wanted: str) -> Any:
    """The library of an extra, imported.

    Args:
        extra: a name in `EXTRAS`.
        wanted: what the user asked for, for the error.

    Raises:
        MissingExtra: it is not installed; the message says how to.
    """
    module, package = EXTRAS[extra]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"{wanted} needs {package}, which is not installed: pip install 'vitscope[{extra}]' ({error})"
        ) from error


def versions() -> dict[str, str]:
    """Each extra and the version of its library, or how to install it."""
    return {extra: _version(extra, package) for extra, (_, package) in EXTRAS.items()}


def _version(extra: str, package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"not installed: pip install 'vitscope[{extra}]'"
