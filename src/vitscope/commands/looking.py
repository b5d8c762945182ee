"""Commands that look at something: a photograph, models, their sites, how a file was made, this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitscope.commands.console import AsJson, Device, Dtype, ModelName, Seed, Weights, emit, say
from vitscope.tables import facts_table


def look(
    model: ModelName,
    image: Annotated[Path, typer.Argument(help="A photograph: JPEG, PNG, WebP, BMP, GIF or TIFF.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--out", help="Where the page goes; looks/NAME if not given.")
    ] = None,
    atlas: Annotated[
        Path | None, typer.Option(help="An atlas of this model: for dreams and exemplars of the units.")
    ] = None,
    units: Annotated[int, typer.Option(min=1, help="Units a site.")] = 4,
    kinds: Annotated[int, typer.Option(min=2, max=8, help="Groups of places that are alike.")] = 5,
    weights: Weights = "pretrained",
    seed: Seed = 0,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Show a photograph as a model sees it: its answer, where heads look, which units fire, what is alike."""
    from vitscope.atlas.commit import check_writable
    from vitscope.look import look as seen_by
    from vitscope.look import opened
    from vitscope.models import load

    folder = output or Path("looks") / image.stem
    check_writable(folder)
    opened(image)  # a file that is none is told before the model is loaded
    loaded = load(model, weights=weights, seed=seed, device=device, dtype=dtype)
    found = seen_by(loaded, image, atlas=atlas, units=units, kinds=kinds)
    page = found.save(folder)
    emit({**found.describe(), "page": str(page)}, as_json, shown=lambda: f"{found.sentence()}\n{page}")


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
