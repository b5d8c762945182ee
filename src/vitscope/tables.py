"""What people see of results in a terminal, where machines get JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vitscope.notebook import printable

ALIKE_SHOWN = 2
"""Units told as being like one, by each measure."""


def dream_table(rows: Sequence[dict[str, Any]]) -> Table:
    """What `vitscope dream` made."""
    table = Table("address", "recipe", "seed", "score", "robust", "status", "path", box=SIMPLE_HEAD)
    table.columns[-1].overflow = "fold"  # a path is for copying
    for row in rows:
        trust = row["trust"]
        told = (*(row[name] for name in ("address", "recipe", "seed", "score")), trust["robust"])
        table.add_row(*map(_number, (*told, trust["status"], row["path"])))
    return table


def unit_table(unit: Any) -> Table:
    """What an atlas knows of a unit."""
    facts = [f"{name} {_number(value)}" for name, value in unit.statistics.items()]
    dreams = [f"dream by {dream.recipe}: score {_number(dream.score)}" for dream in unit.dreams]
    alike = _alike(unit.sampled.alike) if unit.sampled else []
    table = Table(
        *("rank", "value", "place", "label", "image"),
        title=f"{unit.address}: {unit.status}",
        caption="\n".join([", ".join(facts), *dreams, *alike]),
        box=SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for exemplar in unit.exemplars:
        label, path = printable(exemplar.label or ""), printable(exemplar.path)
        table.add_row(str(exemplar.rank), _number(exemplar.value), exemplar.place, label, path)
    return table


def _alike(alike: Mapping[str, Sequence[Any]]) -> list[str]:
    """A line that names the units most like one; none where none is."""
    told = [
        f"by {measure} "
        + ", ".join(f"{other.unit} ({_number(other.value)})" for other in others[:ALIKE_SHOWN])
        for measure, others in alike.items()
        if others
    ]
    return [f"like it {'; '.join(told)}"] if told else []


def study_table(found: Sequence[dict[str, Any]]) -> Table:
    """What studies there are."""
    table = Table("study", "question", "needs", "settings", box=SIMPLE_HEAD)
    for facts in found:
        settings = [f"{name}={_setting(value)}" for name, value in facts["settings"].items()]
        told = facts["name"], facts["question"], ", ".join(facts["needs"]), " ".join(settings)
        table.add_row(*map(printable, told))
    return table


def _setting(value: Any) -> str:
    """A default as `--set` would take it."""
    return ",".join(map(_setting, value)) if isinstance(value, list) else _number(value)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def facts_table(found: dict[str, Any]) -> Table:
    """Facts by name."""
    table = Table.grid(padding=(0, 2))
    for name, value in found.items():
        table.add_row(name, value if isinstance(value, str) else json.dumps(value))
    return table
