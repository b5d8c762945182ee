"""What a study returns: a table, arrays, figures, what the paper reports, and how it was made."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from vitscope.atlas.commit import file_name, write
from vitscope.errors import BadValue, Failure, MissingPath, UnknownName, suggestion
from vitscope.notebook import Picture, card, cell, pictures, table
from vitscope.provenance import Provenance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[Any]
Row = dict[str, Any]
"""One row of a table: column -> text, number, truth value or None."""

RESULT_FILE = "result.json"
"""Everything but the figures; written last, so that a folder that has it is complete."""
SEEN = "seen"
"""The setting of a provenance that holds what a run met: images read, skipped, notes."""
IDLE = (SEEN, "batch_size", "keep")
"""Settings that ask for nothing: results do not depend on them."""


@dataclass(frozen=True, eq=False)
class Result:
    """What one study found out about one or more models over the same images.

    Attributes:
        study: the study's name.
        models: the models' names, in the order in which they were given; each differs.
        table: rows of plain values; every row names its `model`. Accuracies are in per cent.
        arrays: what does not fit a row, by name; `by_model` hands it out. With one model each is an array;
            with several it is {model: array}, without the models that have no such thing.
        published: what the paper reports: rows of the same columns, each with its `source`.
        provenance: everything needed to make it again; of several models as `joined` says.
        draw: makes the figures, by name; the first is the one that `plot` shows.
    """

    study: str
    models: tuple[str, ...]
    table: tuple[Row, ...]
    arrays: Mapping[str, Array | Mapping[str, Array]] = field(repr=False)
    published: tuple[Row, ...] = field(repr=False)
    provenance: Provenance = field(repr=False)
    draw: Callable[[Result], Mapping[str, Figure]] | None = field(default=None, repr=False)

    def by_model(self, name: str) -> dict[str, Array]:
        """One of the arrays, of each model that has it.

        Raises:
            UnknownName: there is no such array; the nearest is named.
        """
        if name not in self.arrays:
            known = ", ".join(self.arrays) or "none"
            raise UnknownName(
                f"the study {self.study!r} has no array {name!r}.{suggestion(name, self.arrays)} "
                f"There are: {known}."
            )
        found = self.arrays[name]
        return dict(found) if isinstance(found, Mapping) else {self.models[0]: found}

    def rows(self, **facts: Any) -> list[Row]:
        """The rows of the table in which every given column has the given value.

        >>> result.rows(model="timm:vit_tiny_patch16_224", filter="disk")   # doctest: +SKIP
        """
        return [row for row in self.table if all(row.get(name) == value for name, value in facts.items())]

    def describe(self) -> dict[str, Any]:
        """The JSON of `vitscope study`: plain values, with None for numbers that are not finite."""
        return {
            "study": self.study,
            "models": list(self.models),
            "table": plain(self.table),
            "arrays": plain(self.arrays),
            "published": plain(self.published),
            "provenance": plain(asdict(self.provenance)),
        }

    def figures(self) -> dict[str, Figure]:
        """All figures, by name."""
        return dict(self.draw(self)) if self.draw else {}

    def plot(self) -> Figure:
        """The study's main figure.

        Raises:
            BadValue: the study has no figure.
        """
        found = self.figures()
        if not found:
            raise BadValue(f"the study {self.study!r} has no figure")
        return next(iter(found.values()))

    def save(self, folder: str | Path) -> Path:
        """Write `result.json`, `table.csv`, `arrays/*.csv` (one or two axes), and figures as SVG and PNG.

        Each file is written whole or not at all, `result.json` last. The same result written again leaves the
        same bytes.

        Raises:
            Failure: the folder holds a result that was made otherwise; the message says what differs.
            NotWritable: the folder cannot be written.
        """
        folder = Path(folder)
        check_free(folder, self.provenance)
        for name, content in self._files():
            write(folder / name, content)
        return folder

    @classmethod
    def open(
        cls, folder: str | Path, *, draw: Callable[[Result], Mapping[str, Figure]] | None = None
    ) -> Result:
        """The result that was saved in a folder; numbers that were not finite are NaN in its arrays.

        Raises:
            MissingPath: there is no result.
            BadValue: the file is none of ours.
        """
        path = Path(folder) / RESULT_FILE
        if not path.is_file():
            raise MissingPath(f"no result of a study in {str(folder)!r}: it has no {RESULT_FILE}")
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                facts["study"],
                tuple(facts["models"]),
                tuple(facts["table"]),
                {name: _as_arrays(value) for name, value in facts["arrays"].items()},
                tuple(facts["published"]),
                Provenance(**facts["provenance"]),
                draw,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadValue(f"{path} is not the result of a study: {error}") from error

    def _files(self) -> Iterable[tuple[str, bytes]]:
        from vitscope.house import png, svg

        for name, figure in self.figures().items():
            yield f"{name}.svg", svg(figure, self.provenance)
            yield f"{name}.png", png(figure, self.provenance)
        for name in self.arrays:
            for model, array in self.by_model(name).items():
                if 1 <= array.ndim <= 2:
                    stem = name if len(self.models) == 1 else f"{name}.{file_name(model)}"
                    yield f"arrays/{stem}.csv", _csv(np.atleast_2d(array.T).T.tolist())
        yield "table.csv", csv_of(self.table)
        document = json.dumps(self.describe(), indent=1, allow_nan=False, ensure_ascii=False)
        yield RESULT_FILE, (document + "\n").encode()

    def __rich__(self) -> Table:
        table = Table(title=f"{self.study}: {', '.join(self.models)}", title_justify="left", box=SIMPLE_HEAD)
        rows = shown(self.table)
        columns = columns_of(rows, without=("model",) if len(self.models) == 1 else ())
        for name in columns:
            numeric = all(isinstance(row.get(name), (int, float, type(None))) for row in self.table)
            table.add_column(
                name, justify="right" if numeric else "left", overflow="fold", no_wrap=name == "model"
            )
        for row in rows:
            table.add_row(*(row.get(name, "") for name in columns))
        return table

    def _repr_html_(self) -> str:
        rows = shown(self.table)
        columns = columns_of(rows, without=("model",) if len(self.models) == 1 else ())
        numbers = table(columns, ([row.get(name, "") for name in columns] for row in rows))
        return card(f"{self.study}: {', '.join(self.models)}", pictures(self._pictures()), numbers)

    def _pictures(self) -> list[Picture]:
        """The main figure, if there is one."""
        from vitscope.house import png

        alt = f"The main figure of the study {self.study}; its numbers are in the table"
        return [Picture(png(self.plot()), alt, width=720)] if self.draw else []

    def __repr__(self) -> str:
        arrays = f", arrays {', '.join(self.arrays)}" if self.arrays else ""
        return f"<Result of {self.study!r} on {', '.join(self.models)}: {len(self.table)} rows{arrays}>"


def joined(made: Mapping[str, Provenance]) -> Provenance:
    """One provenance of a study from those of its models, by name.

    Names, fingerprints of weights and devices are listed with commas, in order; `preprocessing` is by model.

    Raises:
        BadValue: there is none.
    """
    if not made:
        raise BadValue("a study needs at least one model")
    first = next(iter(made.values()))
    return Provenance(
        kind=first.kind,
        model=", ".join(made),
        weights=", ".join(one.weights for one in made.values()),
        preprocessing={name: one.preprocessing for name, one in made.items()},
        source=first.source,
        settings=first.settings,
        device=", ".join(dict.fromkeys(one.device for one in made.values())),
        versions=first.versions,
    )


def check_free(folder: str | Path, provenance: Provenance) -> None:
    """Refuse a folder that holds a result made in another way, before the work or before writing.

    Raises:
        Failure: it differs in study, models, weights, images or settings; the message says in which.
    """
    if not (Path(folder) / RESULT_FILE).is_file():
        return
    ours, theirs = (_asked(one) for one in (provenance, Result.open(folder).provenance))
    differing = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    if "model" in differing and "weights" in differing:
        differing.remove("weights")  # other models have others
    if differing:
        told = "; ".join(f"{name}: {theirs.get(name)!r} there, {ours.get(name)!r} now" for name in differing)
        raise Failure(f"{folder} holds a result that was made otherwise ({told}). Choose another folder")


def plain(value: Any) -> Any:
    """The value as JSON takes it: lists for arrays, None for what is not finite.

    Raises:
        BadValue: it holds something that JSON has no word for.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    raise BadValue(f"results hold text, numbers, truth values and None, not {type(value).__name__}")


def columns_of(rows: Sequence[Row], *, without: Sequence[str] = ()) -> list[str]:
    """The columns of a table: `model` first, then in the order in which rows bring them."""
    names = dict.fromkeys(name for row in rows for name in row)
    first = ["model"] if "model" in names else []
    return [name for name in dict.fromkeys([*first, *names]) if name not in without]


def shown(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The rows as people read them: a value with its interval in one cell, "72.1 (70.3 to 73.8)"."""
    names = columns_of(rows)
    bounded = [name for name in names if {f"{name}_low", f"{name}_high"} <= {*names}]
    bounds = {f"{name}_{end}" for name in bounded for end in ("low", "high")}
    found = []
    for row in rows:
        cells = {name: cell(row[name]) for name in names if name in row and name not in bounds}
        for name in bounded:
            low, high = (row.get(f"{name}_{end}") for end in ("low", "high"))
            if name in row and "–" not in (cell(low), cell(high)):
                cells[name] += f" ({cell(low, figures=3)} to {cell(high, figures=3)})"
        found.append(cells)
    return found


def csv_of(rows: Sequence[Row]) -> bytes:
    """The table as CSV, with all columns; empty where a row has no such value."""
    columns = columns_of(rows)
    return _csv([columns, *([row.get(name) for name in columns] for row in rows)])


def _asked(provenance: Provenance) -> dict[str, Any]:
    """What was asked for, as JSON would give it back; not what the run met, nor the versions."""
    settings = {name: value for name, value in provenance.settings.items() if name not in IDLE}
    facts = {**settings, "model": provenance.model, "weights": provenance.weights}
    found: dict[str, Any] = plain({**facts, "source": provenance.source})
    return found


def _as_arrays(value: Any) -> Array | dict[str, Array]:
    if isinstance(value, dict):
        return {model: _as_array(inner) for model, inner in value.items()}
    return _as_array(value)


def _as_array(value: Any) -> Array:
    """An array from nested lists; None among numbers is NaN."""
    array: Array = np.array(value)
    if array.dtype != object:
        return array
    return np.array(value, dtype=np.float64)


def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([["" if inner is None else inner for inner in plain(row)] for row in rows])
    return text.getvalue().encode()
