"""Every error of vitscope, in one tree. Each says what was asked, what exists and the nearest fit.

VitscopeError
├── UsageError              the request itself is wrong               (exit 2)
│   ├── BadAddress          'blocks..6' is not an address
│   ├── BadValue            --k 0
│   ├── UnknownName         no such model, site, recipe, source, ...
│   │   ├── UnknownModel
│   │   ├── UnknownSite
│   │   └── UnknownAddress  a unit or place outside its site
│   ├── MissingPath         a folder or file that is not there
│   ├── MissingExtra        an optional library is not installed
│   ├── Unsuited            an intervention that makes no sense for this model
│   └── NotWritable         the output cannot be written
└── Failure                 the request is right, the world is not   (exit 1)
    ├── WeightsError        unreadable, unsafe, mismatched or non-finite weights
    ├── NotCached           pretrained weights are not on this machine and it is offline
    ├── SiteError           a site did not fire, fired more than once, or has an unexpected shape
    ├── DeviceError         the device is not there
    ├── SourceError         no image, or too many unreadable ones
    ├── Diverged            an optimisation left the finite numbers
    └── AtlasError          an atlas is missing, damaged, newer, or made with other settings
        └── NotBuilt        a part of it that no build has written yet
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VitscopeError(Exception):
    """The root of every error that vitscope raises on purpose."""

    exit_code = 1


class UsageError(VitscopeError):
    """The request itself is wrong; nothing was started."""

    exit_code = 2


class BadAddress(UsageError):
    """Text that does not follow the grammar of an address."""


class BadValue(UsageError):
    """A value outside its range, such as `--k 0`."""


class UnknownName(UsageError):
    """A name that a registry does not hold."""


class UnknownModel(UnknownName):
    """A model name that no library knows."""


class UnknownSite(UnknownName):
    """A site that this model does not have."""


class UnknownAddress(UnknownName):
    """A unit or a place that its site does not have."""


class MissingPath(UsageError):
    """A file or folder that does not exist."""


class MissingExtra(UsageError):
    """A feature whose optional library is not installed."""


class Unsuited(UsageError):
    """An intervention, or a study, that makes no sense for this model; the message says why."""


class NotWritable(UsageError):
    """An output path that cannot be written."""


class Failure(VitscopeError):
    """The request is right, but the world is not as it should be."""


class WeightsError(Failure):
    """Weights that cannot be read, may not be read, do not fit or are not finite."""


class NotCached(Failure):
    """Pretrained weights that are not on this machine while it is offline."""


class SiteError(Failure):
    """A site that did not fire, fired more often than expected, or has an unexpected shape."""


class DeviceError(Failure):
    """A device that this machine does not have."""


class SourceError(Failure):
    """A source without images, or with too many that cannot be read."""


class Diverged(Failure):
    """An optimisation that left the finite numbers."""


class AtlasError(Failure):
    """An atlas that is missing, damaged, newer than this version, or made with other settings."""


class NotBuilt(AtlasError):
    """A part of an atlas that no build has written yet."""


def nearest(asked: str, known: Iterable[str], *, count: int = 3) -> list[str]:
    """The known names most like the asked one, best first (by `difflib` ratio of at least 0.5)."""
    names = list(known)
    hits = difflib.get_close_matches(asked, names, n=count, cutoff=0.5)
    return hits or [name for name in names if asked and asked.lower() in name.lower()][:count]


def suggestion(asked: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest fits, or nothing where there is none."""
    hits = nearest(asked, known)
    return f" Nearest: {', '.join(repr(hit) for hit in hits)}." if hits else ""
