"""What the viewer knows of all units of a site at once: statistics, trust and exemplars, in columns.

A leaf never changes, so what is read of its units is kept: about 10 numbers each. Exemplars are a hundred
numbers a unit, of which whoever asks keeps what he needs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vitscope.atlas.store import Store
from vitscope.atlas.unit import SiteEntry
from vitscope.errors import AtlasError, NotBuilt

Floats = NDArray[np.float64]
NUMBERS = ("peak", "mean", "sparsity", "trust")
"""The numbers of every unit by which it can be compared with others; NaN where there is none.

peak: its largest activation. mean: over all images and places. sparsity: 1 - mean² / mean square, near 1 for
a unit that is silent most of the time (Treves and Rolls 1991). trust: what its dream reaches under
augmentations over what the best image reaches under the same; above 1 the dream is better.
"""
UNIT_COLUMNS = ("status", "mean", "variance", "maximum", "labels", "dreams")
EXEMPLAR_COLUMNS = ("unit", "ranking", "rank", "image", "label", "value")
"""What is read of the tables of a leaf: a tenth of them, without histograms, maps and paths."""
WAITING, DAMAGED = "not built yet", "damaged"
"""In place of the status of a unit whose leaf cannot be read."""


@dataclass(frozen=True)
class UnitFacts:
    """The units of one leaf, or of all leaves of a site, one after another.

    Attributes:
        status: of each unit.
        numbers: one array for each of `NUMBERS`.
        dreams: how many each has.
        weak: whether the best of a unit's dreams is not "ok", or it has none that is.
        labels: the names that each was given.
        faults: what keeps leaves from being read, in words.
        damaged: leaves that were written but cannot be read.
    """

    status: tuple[str, ...]
    numbers: Mapping[str, Floats]
    dreams: NDArray[np.int64]
    weak: NDArray[np.bool_]
    labels: tuple[tuple[str, ...], ...]
    faults: tuple[str, ...] = ()
    damaged: int = 0

    @property
    def statuses(self) -> Counter[str]:
        """How many units have which status."""
        return Counter(self.status)

    @property
    def first(self) -> int | None:
        """The first unit that can be read; None without one."""
        return next((at for at, status in enumerate(self.status) if status not in (WAITING, DAMAGED)), None)

    @property
    def shown(self) -> int | None:
        """The unit that stands for the site: the first with a dream, or else the first that can be read."""
        return int(self.dreams.argmax()) if self.dreams.any() else self.first

    def median(self, name: str) -> float | None:
        """The middle of one number over the units that have it."""
        values = self.numbers[name]
        found = values[np.isfinite(values)]
        return float(np.median(found)) if found.size else None


@dataclass(frozen=True)
class ExemplarFacts:
    """The exemplars of many units, without their maps: row i says that unit `unit[i]` is excited by an image.

    Attributes:
        unit: index at the site.
        by_maximum: which of the two rankings.
        rank: 0 is the best.
        image: 32 hexadecimal digits.
        value: what it was ranked by.
        label: index into `classes`, -1 without one.
    """

    unit: NDArray[np.int64]
    by_maximum: NDArray[np.bool_]
    rank: NDArray[np.int64]
    image: NDArray[Any]
    value: Floats
    label: NDArray[np.int64]
    classes: tuple[str, ...]


class Facts:
    """Reads them from the leaves of one atlas, the units of each once.

    Args:
        store: the files of the atlas.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._units: dict[tuple[str, int], UnitFacts] = {}

    def units(self, entry: SiteEntry) -> UnitFacts:
        """The units of a site; those of leaves that cannot be read say so in their status."""
        return joined_units([self._leaf_or_fault(entry, leaf) for leaf in range(entry.leaves)])

    def _leaf_or_fault(self, entry: SiteEntry, leaf: int) -> UnitFacts:
        try:
            return self.leaf(entry.name, leaf)
        except AtlasError as error:
            units = len(self.store.layout(entry.name).members(leaf))
            return _unknown(units, WAITING if isinstance(error, NotBuilt) else DAMAGED, str(error))

    def leaf(self, site: str, leaf: int) -> UnitFacts:
        """The units of one leaf.

        Raises:
            AtlasError: it is not built yet, or damaged.
        """
        if (site, leaf) not in self._units:
            self._units[site, leaf] = unit_facts(self._table(site, leaf, "units.parquet", UNIT_COLUMNS))
        return self._units[site, leaf]

    def exemplars(self, entry: SiteEntry) -> ExemplarFacts:
        """The exemplars of a site, of the leaves that can be read."""
        found = []
        for leaf in range(entry.leaves):
            try:
                table = self._table(entry.name, leaf, "exemplars.parquet", EXEMPLAR_COLUMNS)
            except AtlasError:
                continue
            found.append(exemplar_facts(table))
        return joined_exemplars(found)

    def _table(self, site: str, leaf: int, part: str, columns: Sequence[str]) -> pa.Table:
        try:
            content = pa.BufferReader(self.store.read_leaf(site, leaf, part))
            return pq.read_table(content, columns=list(columns), use_threads=False).select(list(columns))
        except (pa.ArrowException, KeyError) as error:
            raise AtlasError(
                f"{self.store.leaf_name(site, leaf)} is damaged: {part} is not a table of an atlas"
            ) from error
        except OSError as error:  # it was there a moment ago
            raise AtlasError(
                f"{self.store.leaf_name(site, leaf)} cannot be read: {error.strerror}"
            ) from error


def unit_facts(table: pa.Table) -> UnitFacts:
    """The facts of a table of units."""
    mean, variance = (table[name].to_numpy().astype(np.float64) for name in ("mean", "variance"))
    square = variance + mean**2
    with np.errstate(invalid="ignore", divide="ignore"):
        sparsity = np.where(square > 0, 1 - mean**2 / square, np.nan)
    dreams = _filled(table["dreams"])
    trust, weak = np.full(len(table), np.nan), np.zeros(len(table), np.bool_)
    for unit, found in dreams.items():
        trust[unit] = max((value for value in map(trust_of, found) if value == value), default=np.nan)
        weak[unit] = all(dream["status"] != "ok" for dream in found)
    labels = _filled(table["labels"])
    return UnitFacts(
        tuple(table["status"].to_pylist()),
        {
            "peak": table["maximum"].to_numpy().astype(np.float64),
            "mean": mean,
            "sparsity": sparsity,
            "trust": trust,
        },
        np.array([len(dreams.get(unit, ())) for unit in range(len(table))], np.int64),
        weak,
        tuple(tuple(labels.get(unit, ())) for unit in range(len(table))),
    )


def _filled(lists: pa.ChunkedArray) -> dict[int, list[Any]]:
    """Of a column of lists those that hold something, by row; most units have neither dreams nor labels."""
    rows = np.flatnonzero(pc.list_value_length(lists).to_numpy())
    return dict(zip(rows.tolist(), lists.take(pa.array(rows)).to_pylist(), strict=True))


def trust_of(dream: Mapping[str, Any]) -> float:
    """How a dream does against the best image: under augmentations, else as it is; NaN where unknown."""
    facts = json.loads(dream["trust"])
    for reached, best in (("robust", "natural_robust"), ("natural_ratio", None)):
        value, unit = facts.get(reached), facts.get(best, 0.0) if best else 1.0
        if value is not None and unit is not None and unit > 0:
            return float(value / unit)
    return float("nan")


def exemplar_facts(table: pa.Table) -> ExemplarFacts:
    """The facts of a table of exemplars."""
    labels = pc.dictionary_encode(table["label"].combine_chunks())
    codes = labels.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return ExemplarFacts(
        table["unit"].to_numpy().astype(np.int64),
        pc.equal(table["ranking"], "maximum").to_numpy(),
        table["rank"].to_numpy().astype(np.int64),
        np.array(table["image"].to_pylist(), dtype="S32"),
        table["value"].to_numpy().astype(np.float64),
        codes.astype(np.int64),
        tuple(labels.dictionary.to_pylist()),
    )


def joined_units(parts: Sequence[UnitFacts]) -> UnitFacts:
    """The facts of several leaves as those of one site."""
    return UnitFacts(
        tuple(status for part in parts for status in part.status),
        {name: np.concatenate([part.numbers[name] for part in parts]) for name in NUMBERS},
        np.concatenate([part.dreams for part in parts]),
        np.concatenate([part.weak for part in parts]),
        tuple(labels for part in parts for labels in part.labels),
        tuple(fault for part in parts for fault in part.faults),
        sum(part.damaged for part in parts),
    )


def joined_exemplars(parts: Sequence[ExemplarFacts]) -> ExemplarFacts:
    """The exemplars of several leaves, with one list of classes."""
    classes = tuple(dict.fromkeys(name for part in parts for name in part.classes))
    index = {name: at for at, name in enumerate(classes)}
    labels = [
        np.array([*(index[name] for name in part.classes), -1], dtype=np.int64)[part.label] for part in parts
    ]
    return ExemplarFacts(
        np.concatenate([np.zeros(0, np.int64), *(part.unit for part in parts)]),
        np.concatenate([np.zeros(0, np.bool_), *(part.by_maximum for part in parts)]),
        np.concatenate([np.zeros(0, np.int64), *(part.rank for part in parts)]),
        np.concatenate([np.zeros(0, "S32"), *(part.image for part in parts)]),
        np.concatenate([np.zeros(0, np.float64), *(part.value for part in parts)]),
        np.concatenate([np.zeros(0, np.int64), *labels]),
        classes,
    )


def commonest(facts: ExemplarFacts, units: int) -> tuple[NDArray[np.int64], Floats]:
    """The commonest class among each unit's best images by maximum, and its share of those that have a class.

    A class that only one of several images has is none: -1, with a share of NaN where nothing has a class.
    """
    top, share = np.full(units, -1, np.int64), np.full(units, np.nan)
    counted = facts.by_maximum & (facts.label >= 0)
    if not counted.any():
        return top, share
    table = np.zeros((units, len(facts.classes)), np.int32)
    np.add.at(table, (facts.unit[counted], facts.label[counted]), 1)
    total, most = table.sum(1), table.max(1)
    share[total > 0] = most[total > 0] / total[total > 0]
    kept = (most > 1) | (total == 1)
    top[kept] = table.argmax(1)[kept]
    return top, share


def _unknown(units: int, status: str, fault: str) -> UnitFacts:
    return UnitFacts(
        (status,) * units,
        {name: np.full(units, np.nan) for name in NUMBERS},
        np.zeros(units, np.int64),
        np.zeros(units, np.bool_),
        ((),) * units,
        (fault,),
        int(status == DAMAGED),
    )
