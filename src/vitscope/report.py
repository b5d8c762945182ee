"""Results as HTML: one self-contained page a study and an index, without network, for screen and print."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscope.atlas.commit import file_name, write
from vitscope.errors import BadValue
from vitscope.front import callable_as
from vitscope.house import svg, thumbnail
from vitscope.notebook import data_uri
from vitscope.pages import rendered
from vitscope.spots import spots_of
from vitscope.studies import STUDIES, open_result
from vitscope.studies.result import SEEN, Result, Row, columns_of, csv_of, shown
from vitscope.studies.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INDEX = "index.html"

CARD = 960
"""Width of a figure on a card of the index, in pixels: twice what a card is wide, for sharp screens."""


@dataclass(frozen=True)
class Embedded:
    """A file inside a page: its name and its bytes as a `data:` address; of a figure, what it shows."""

    name: str
    source: str
    alt: str = ""
    caption: str = ""
    spots: str = ""


@dataclass(frozen=True)
class Column:
    """A column of the table on a page."""

    name: str
    numeric: bool


@dataclass(frozen=True)
class Group:
    """Rows of the table on a page that belong together: ours, or a paper's."""

    title: str
    rows: Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Page:
    """What the page of one result shows, ready for its template."""

    file: str
    name: str
    question: str
    method: str
    citation: str
    models: Sequence[str]
    images: int | None
    figures: Sequence[Embedded]
    notes: Sequence[str]
    caveats: Sequence[str]
    caption: str
    columns: Sequence[Column]
    groups: Sequence[Group]
    files: Sequence[Embedded]
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Front:
    """What stands above the studies in an index, where there is more to say than their names.

    Attributes:
        title: the heading.
        lead: a sentence below it.
        models: heads of the table's columns.
        lines: of each line of the table: what it is, the study it comes from, and a cell for each model.
        notes: what a reader must know, such as studies that were left out.
    """

    title: str
    lead: str
    models: Sequence[str]
    lines: Sequence[tuple[str, str, Sequence[str]]]
    notes: Sequence[str]


def report(results: Result | str | Path | Sequence[Result | str | Path], *, out: str | Path) -> Path:
    """Write a page for every result, and an index of them; the index's path.

    A page needs no other file: figures, numbers as CSV and JSON, and style are inside it. The index links
    to the pages beside it.

    Args:
        results: results, or folders in which they were saved.
        out: the folder; pages of the same names in it are replaced.

    Raises:
        BadValue: there is no result.
        MissingPath: a folder holds no result.
        UnknownName: a result is of a study that is not installed.
        NotWritable: the folder cannot be written.

    >>> report(["out/frequency", "out/last_layer"], out="report")   # doctest: +SKIP
    """
    given = [results] if isinstance(results, (Result, str, Path)) else list(results)
    if not given:
        raise BadValue("a report needs at least one result")
    found = [one if isinstance(one, Result) else open_result(one) for one in given]
    return pages_of(found, Path(out), front=None)


def pages_of(results: Sequence[Result], folder: Path, *, front: Front | None) -> Path:
    """Write a page for every result, and an index that begins with `front`; the index's path.

    Raises:
        UnknownName, NotWritable: as `report`.
    """
    drawn = [result.figures() for result in results]
    pages = list(map(_page, results, drawn, _names(results)))
    for page in pages:
        write(folder / page.file, rendered("report_study.html", page=page, index=INDEX))
    files = {page.name: page.file for page in pages}
    cards = list(zip(pages, map(_thumbnail, drawn), strict=True))
    write(folder / INDEX, rendered("report_index.html", cards=cards, front=front, files=files))
    return folder / INDEX


def page_of(result: Result, *, file: str) -> Page:
    """What the page of one result shows.

    Raises:
        UnknownName: the result is of a study that is not installed.
    """
    return _page(result, result.figures(), file)


def _page(result: Result, figures: Mapping[str, Figure], file: str) -> Page:
    study: Study = STUDIES.get(result.study)
    made = result.provenance
    seen = made.settings.get(SEEN) or {}
    return Page(
        file=file,
        name=study.name,
        question=study.question,
        method=study.method,
        citation=study.citation,
        models=result.models,
        images=seen.get("images"),
        figures=[_figure(result, name, figure) for name, figure in figures.items()],
        notes=[*seen.get("notes", ()), *_skipped(seen)],
        caveats=study.caveats,
        caption=_caption(result),
        columns=_columns([*result.table, *result.published]),
        groups=[
            Group("Measured here", shown(result.table)),
            *([Group("Published", shown(result.published))] if result.published else []),
        ],
        files=_files(result),
        facts=_facts(result),
    )


def alt_text(figure: Figure) -> str:
    """What a figure shows, in words: its panels, axes and series."""
    axes = [each for each in figure.axes if each.get_title(loc="left")]
    panels = ", ".join(dict.fromkeys(each.get_title(loc="left") for each in axes))
    series = dict.fromkeys(label for each in axes for label in each.get_legend_handles_labels()[1])
    labels = [_first(figure, get) for get in (_x_label, _y_label)]
    told = [f"Panels: {panels}."] if panels else []
    told += [f"{what}: {text}." for what, text in zip(("Across", "Upwards"), labels, strict=True) if text]
    told += [f"Series: {', '.join(series)}."] if series else []
    return " ".join([*told, "The numbers are in the table."])


def _first(figure: Figure, get: Callable[[Any], str]) -> str:
    """The first text that one of the figure's axes has."""
    return next((text for each in figure.axes if (text := get(each))), "")


def _x_label(axes: Any) -> str:
    return str(axes.get_xlabel())


def _y_label(axes: Any) -> str:
    return str(axes.get_ylabel())


def _names(results: Sequence[Result]) -> list[str]:
    """A file for each result, named for its study; the second of a study is "NAME-2.html"."""
    met: dict[str, int] = {}
    names = []
    for result in results:
        met[result.study] = count = met.get(result.study, 0) + 1
        names.append(f"{file_name(result.study)}{'' if count == 1 else f'-{count}'}.html")
    return names


def _figure(result: Result, name: str, figure: Figure) -> Embedded:
    content = svg(figure, result.provenance)
    x, y = (_first(figure, get) for get in (_x_label, _y_label))
    told = f"{y} against {x}." if x and y else f"{name.replace('_', ' ').capitalize()}."
    bands = " Bands are 95 % intervals." if _bounded(result) and figure.axes[0].collections else ""
    caption = told[0].upper() + told[1:] + bands
    return Embedded(
        f"{name}.svg", data_uri("image/svg+xml", content), alt_text(figure), caption, spots_of(figure)
    )


def _thumbnail(figures: Mapping[str, Figure]) -> str:
    """The first figure, small: an index of pages full of pictures must open at once."""
    first = next(iter(figures.values()), None)
    return data_uri("image/png", thumbnail(first, width=CARD)) if first is not None else ""


def _bounded(result: Result) -> bool:
    return any(name.endswith("_low") for name in columns_of(result.table))


def _columns(rows: Sequence[Row]) -> list[Column]:
    """The columns that are shown; a number in every row that has one is aligned at its right."""
    names = list(dict.fromkeys(name for row in shown(rows) for name in row))
    return [
        Column(name, all(isinstance(row.get(name), (int, float, type(None))) for row in rows))
        for name in columns_of(rows)
        if name in names
    ]


def _caption(result: Result) -> str:
    told = [f"{len(result.table)} rows"]
    if _bounded(result):
        told.append("95 % intervals in brackets")
    if result.published:
        told.append("published numbers below ours, each with its source")
    return ", ".join(told) + "."


def _skipped(seen: Mapping[str, Any]) -> list[str]:
    reasons = seen.get("skipped") or {}
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return [f"{sum(reasons.values())} entries could not be used: {told}."] if reasons else []


def _files(result: Result) -> list[Embedded]:
    document = json.dumps(result.describe(), indent=1, allow_nan=False, ensure_ascii=False).encode()
    stem = file_name(result.study)
    return [
        Embedded(f"{stem}.csv", data_uri("text/csv", csv_of(result.table))),
        Embedded(f"{stem}.json", data_uri("application/json", document)),
    ]


def _facts(result: Result) -> list[tuple[str, str]]:
    made = result.provenance
    settings = {name: value for name, value in made.settings.items() if name not in (SEEN, "study", "images")}
    return [
        ("images", f"{made.settings.get('images', '')} ({made.source})"),
        *zip((f"weights of {model}" for model in result.models), made.weights.split(", "), strict=False),
        *((f"preprocessing of {model}", _text(facts)) for model, facts in made.preprocessing.items()),
        *((name.replace("_", " "), _text(value)) for name, value in settings.items()),
        ("device", made.device),
        ("versions", ", ".join(f"{name} {version}" for name, version in made.versions.items())),
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


callable_as(__name__, report)
