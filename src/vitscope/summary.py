"""What results of studies say of their models in one number each: the table on top of a comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vitscope.notebook import cell
from vitscope.studies.overview import BLOCK
from vitscope.studies.result import Result, Row


class Reading(NamedTuple):
    """One number of one model, and the range beside it: an interval, or the extremes."""

    value: Any
    low: Any = None
    high: Any = None

    @property
    def text(self) -> str:
        """As people read it: "72.1 (70 to 74)", and a dash for what is not there."""
        told = f"{self.value:,}" if isinstance(self.value, int) else cell(self.value, figures=3)
        low, high = (cell(end, figures=3) for end in (self.low, self.high))
        return told if "–" in (told, low, high) else f"{told} ({low} to {high})"


@dataclass(frozen=True)
class Fact:
    """One line of the summary.

    Attributes:
        quantity: what it is, with its unit.
        study: whose result it is read off.
        readings: of each model, by name; one without is not there.
    """

    quantity: str
    study: str
    readings: Mapping[str, Reading]

    def describe(self) -> dict[str, Any]:
        """As JSON: the numbers, `null` where there is none."""
        values = {name: _number(reading.value) for name, reading in self.readings.items()}
        return {"quantity": self.quantity, "study": self.study, "values": values}


Read = Callable[[Sequence[Row]], Reading | None]
"""What a model's rows say."""


def facts(results: Mapping[str, Result]) -> list[Fact]:
    """The lines that these results allow, in order; one of which no model has anything is left out.

    Args:
        results: by study; of the same models.
    """
    found = []
    for study, quantity, read in LINES:
        if study in results:
            result = results[study]
            readings = {name: read(_own(result, name)) for name in result.models}
            known = {name: reading for name, reading in readings.items() if reading is not None}
            if any(_number(reading.value) is not None for reading in known.values()):
                found.append(Fact(quantity, study, known))
    return found


def _own(result: Result, model: str) -> list[Row]:
    return result.rows(model=model)


def _column(name: str) -> Read:
    """A column of the model's first row, with its interval where it has one."""

    def read(rows: Sequence[Row]) -> Reading | None:
        row = rows[0] if rows else {}
        return Reading(row[name], row.get(f"{name}_low"), row.get(f"{name}_high")) if name in row else None

    return read


def _cka(reading: str) -> Read:
    """A row of `similarity`, with two standard errors to either side."""

    def read(rows: Sequence[Row]) -> Reading | None:
        for row in rows:
            if row["reading"] == reading:
                value, error = row["cka"], row["cka_error"]
                ends = (value - 2 * error, value + 2 * error) if _number(error) is not None else ()
                return Reading(value, *ends)
        return None

    return read


def _at(place: int, value: str, *, low: str = "", high: str = "") -> Read:
    """A column of the first or last of the model's blocks."""

    def read(rows: Sequence[Row]) -> Reading | None:
        blocks = [row for row in rows if BLOCK.fullmatch(row["site"].removesuffix(".attn.pattern"))]
        if not blocks:
            return None
        row = blocks[place]
        return Reading(row[value], row.get(low), row.get(high))

    return read


def _of_patches(half: int) -> Read:
    """The median over one half of the blocks of the norm ratios of patches."""

    def read(rows: Sequence[Row]) -> Reading | None:
        own = [row for row in rows if row["tokens"] == "patches"]
        blocks = list(dict.fromkeys(row["block"] for row in own))
        middle = len(blocks) // 2
        chosen = blocks[middle:] if half else blocks[:middle]
        values = sorted(_finite(row["median_ratio"] for row in own if row["block"] in chosen))
        return Reading(_median(values), values[0], values[-1]) if values else None

    return read


def _probed(depth: float) -> Read:
    """The probe of the mean over places, which all models have, at the block nearest to a depth."""

    def read(rows: Sequence[Row]) -> Reading | None:
        known = [row for row in rows if row["reading"] == "patches"]
        if not known:
            return None
        row = min(known, key=lambda each: abs(float(each["depth"]) - depth))
        return Reading(row["top1"], row["top1_low"], row["top1_high"])

    return read


def _finite(values: Any) -> Iterator[float]:
    return (float(value) for value in values if _number(value) is not None)


def _median(values: Sequence[float]) -> float:
    middle = len(values) // 2
    return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2


def _number(value: Any) -> Any:
    """The value, or None where it is a number that is not finite, as it was or as a file gives it back."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


LINES: tuple[tuple[str, str, Read], ...] = (
    ("overview", "parameters", _column("parameters")),
    ("overview", "blocks", _column("blocks")),
    ("overview", "input (px)", _column("input")),
    ("overview", "top-1 on these images (%)", _column("top1")),
    ("similarity", "CKA of the first quarter of blocks with the last", _cka("quarters")),
    ("similarity", "CKA of neighbouring blocks", _cka("neighbouring")),
    ("similarity", "CKA of a block with its best match in the other model", _cka("matched")),
    (
        "attention_distance",
        "attention distance, first block, of its heads (px)",
        _at(0, "distance", low="nearest", high="farthest"),
    ),
    (
        "attention_distance",
        "attention distance, last block, of its heads (px)",
        _at(-1, "distance", low="nearest", high="farthest"),
    ),
    ("receptive_field", "90 % of the receptive field within, first block (px)", _at(0, "radius90")),
    ("receptive_field", "90 % of the receptive field within, last block (px)", _at(-1, "radius90")),
    ("skips", "skip / branch, first half of the blocks (median, extremes)", _of_patches(0)),
    ("skips", "skip / branch, second half of the blocks (median, extremes)", _of_patches(1)),
    ("probe", "linear probe of the mean over places, middle block, top-1 (%)", _probed(0.5)),
    ("probe", "linear probe of the mean over places, last block, top-1 (%)", _probed(1.0)),
)
"""Study, what the line is called, and how it is read off the rows of one model."""
