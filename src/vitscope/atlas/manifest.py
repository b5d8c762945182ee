"""What an atlas says of itself, `atlas.json`: its settings, its sites, and how they are cut into leaves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vitscope.address import Address
from vitscope.errors import AtlasError, BadAddress
from vitscope.provenance import Provenance

SCHEMA = 1
"""Version of everything on disk. A reader refuses what is newer."""
LEAF_UNITS = 256
"""Units a leaf: its overview is 16 x 16, and its files stay in the low megabytes."""
FILE = "atlas.json"
_UNBOUND = {"provenance.versions", "provenance.device", "source"}
"""Facts that may change between two runs of one build: the source is known by its fingerprint."""


@dataclass(frozen=True)
class SiteLayout:
    """One site of an atlas: what its addresses mean, and how its units are cut into leaves."""

    name: str
    axes: str
    units: int
    grid: tuple[int, int] | None = None
    prefix_tokens: int = 0

    @property
    def leaves(self) -> int:
        """How many leaves its units fill."""
        return -(-self.units // LEAF_UNITS)

    def members(self, leaf: int) -> range:
        """The units of one leaf."""
        return range(leaf * LEAF_UNITS, min((leaf + 1) * LEAF_UNITS, self.units))

    def place_name(self, place: int) -> str:
        """The text of one place, as addresses write it; "" where the site has no places to choose from."""
        if place < self.prefix_tokens:
            return "cls" if place == 0 else ""
        if self.grid is None:
            return ""
        return "{},{}".format(*divmod(place - self.prefix_tokens, self.grid[1]))


@dataclass(frozen=True)
class Manifest:
    """The settings of one atlas. Two runs work on one atlas only if theirs are equal.

    Attributes:
        provenance: model, weights, preprocessing, fingerprint of the source, versions.
        source: the source's own description, licences included where it knows them.
        sites: in the order of the forward pass.
        k: exemplars a unit and ranking.
        meters: the meters of its scan, as their `repr`.
        histogram_edges: lower edge of the first bin to upper edge of the last; two open bins lie outside.
        dreams: {"count": units a site or "all", "recipe": ..., "seed": ..., "seeds": ...}, or None; with
            "beside", the other recipes, and "repeats", dreams of a unit by each, where there are several.
        shard_size: images a shard.
        images: entries of the source, readable or not.
    """

    provenance: Provenance
    source: Mapping[str, Any]
    sites: tuple[SiteLayout, ...]
    k: int
    meters: tuple[str, ...]
    histogram_edges: tuple[float, ...]
    dreams: Mapping[str, Any] | None
    shard_size: int
    images: int
    schema: int = field(default=SCHEMA)

    def to_json(self) -> str:
        """Indented JSON, keys sorted: equal settings are equal bytes."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, path: Path) -> Manifest:
        """The inverse of `to_json`.

        Raises:
            AtlasError: not JSON, not ours, or of a newer schema.
        """
        try:
            document = json.loads(text)
            schema = document["schema"]
        except (ValueError, KeyError, TypeError) as error:
            raise AtlasError(f"{path} is not the manifest of an atlas: {_first_line(error)}") from error
        if schema != SCHEMA:
            raise AtlasError(
                f"{path} has schema version {schema}, this vitscope reads version {SCHEMA}: "
                "use the vitscope that made the atlas, or a newer one"
            )
        try:
            return cls._from_document(document)
        except (ValueError, KeyError, TypeError, BadAddress) as error:
            raise AtlasError(f"{path} is a damaged manifest: {_first_line(error)}") from error

    @classmethod
    def _from_document(cls, document: dict[str, Any]) -> Manifest:
        sites = tuple(
            SiteLayout(**{**site, "grid": tuple(site["grid"]) if site["grid"] else None})
            for site in document["sites"]
        )
        for site in sites:
            if Address.parse(site.name).unit is not None or not (0 < site.units < 1 << 31):
                raise ValueError(f"no such site can be: {site.name!r} with {site.units} units")
        return cls(
            **{
                **document,
                "provenance": Provenance(**document["provenance"]),
                "sites": sites,
                "meters": tuple(document["meters"]),
                "histogram_edges": tuple(document["histogram_edges"]),
            }
        )

    @property
    def ways(self) -> int:
        """How many dreams a unit that is dreamt of has."""
        plan = self.dreams or {}
        return (1 + len(plan.get("beside", ()))) * int(plan.get("repeats", 1))

    @property
    def folders(self) -> dict[str, str]:
        """Site name -> name of its folder; computed, never read from a file, so no manifest can point
        elsewhere."""
        return folder_names([site.name for site in self.sites])

    def differences(self, other: Manifest) -> list[str]:
        """One line for each setting in which the two differ, "k: 9 there, 5 asked"."""
        there, asked = _flat(json.loads(self.to_json())), _flat(json.loads(other.to_json()))
        return [
            f"{key}: {there.get(key, 'absent')} there, {asked.get(key, 'absent')} asked"
            for key in sorted({*there, *asked})
            if there.get(key) != asked.get(key)
            and not any(key == fact or key.startswith(f"{fact}.") for fact in _UNBOUND)
        ]


def folder_names(names: Sequence[str]) -> dict[str, str]:
    """Names under which folders sort as the sites do: numbers get two digits.

    Two sites never share a folder, not even where the file system ignores case: whoever comes later gets a
    number.
    """
    found: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for name in names:
        folder = ".".join(part.zfill(2) if part.isdigit() else part for part in name.split("."))
        taken[folder.casefold()] += 1
        copy = taken[folder.casefold()]
        found[name] = folder if copy == 1 else f"{folder}={copy}"  # "=" is in no site's name
    return found


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        rows = [_flat(item, f"{prefix}.{key}" if prefix else key) for key, item in value.items()]
        return {key: text for row in rows for key, text in row.items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return _flat({str(item.get("name", index)): item for index, item in enumerate(value)}, prefix)
    return {prefix: json.dumps(value)}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
