"""Commands that look something up: models, their sites, how a file was made, this installation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitscope.commands.console import AsJson, ModelName, Weights, emit, say
from vitscope.tables import facts_table


def models(
    query: Annotated[str, typer.Argument(help="Part of a name, or a glob.")], as_json: AsJson = False
) -> None:
    """Find model names across the libraries."""
    from vitscope.models import find

    found = find(query)
    emit(found, as_json, shown=lambda: "\n".join(found) or f"no model matches {query!r}")


def sites(
    model: ModelName,
    pattern: Annotated[
        str, typer.Option("--filter", help="Glob: * is one name, ** any number of them.")
    ] = "**",
    weights: Weights = "random",
    as_json: AsJson = False,
) -> None:
    """List the places where a model can be read. Weights do not matter for that, so none are loaded unless
    named."""
    from vitscope.models import load

    found = load(model, weights=weights).sites(pattern)
    emit([site.describe() for site in found], as_json, shown=lambda: found)
    for note in found.notes:
        say(note)


def explain(
    file: Annotated[Path, typer.Argument(help="A PNG, a JSON or an atlas that vitscope wrote.")],
    as_json: AsJson = False,
) -> None:
    """Print how a result was made."""
    from dataclasses import asdict

    from vitscope.provenance import explain as read

    found = asdict(read(file))
    emit(found, as_json, shown=lambda: facts_table(found))


def doctor(as_json: AsJson = False) -> None:
    """Check this installation; exit 1 where something is wrong."""
    from vitscope.doctor import checkup

    findings = checkup()
    emit(findings, as_json, shown=lambda: facts_table(findings))
    if not findings["ok"]:
        raise typer.Exit(1)
