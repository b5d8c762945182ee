"""Commands for atlases: build, show, verify and browse them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vitscope.commands.console import (
    AsJson,
    AtlasPath,
    BatchSize,
    Device,
    Dtype,
    Labels,
    ModelName,
    Seed,
    Seeds,
    Source,
    Weights,
    announce,
    emit,
    progress,
    say,
)
from vitscope.errors import BadValue
from vitscope.tables import unit_table


def build(
    model: ModelName,
    source: Source,
    output: Annotated[
        Path, typer.Option("--out", help="The atlas folder; if it is there already, the work goes on.")
    ],
    sites: Annotated[str, typer.Option(help="Glob of sites.")] = "blocks.*.ffn",
    dreams: Annotated[str, typer.Option(help="Units a site to dream of, or all.")] = "0",
    k: Annotated[int, typer.Option(min=1, help="Exemplars a unit.")] = 9,
    recipe: Annotated[
        list[str],
        typer.Option(help="One of `vitscope recipes`; given again, dreams by each stand side by side."),
    ] = ("vitscope",),  # type: ignore[assignment]  # as the library's; typer makes a list of it
    labels: Labels = None,
    accept_truncated: Annotated[
        bool, typer.Option("--accept-truncated", help="Complete JPEGs that end early with grey.")
    ] = False,
    weights: Weights = "pretrained",
    seed: Seed = 0,
    seeds: Seeds = 1,
    repeats: Annotated[
        int, typer.Option(min=1, help="Dreams of a unit by each recipe, side by side, each from other seeds.")
    ] = 1,
    batch_size: BatchSize = 8,
    max_skip: Annotated[
        float, typer.Option(min=0, max=1, help="Share of unreadable images to put up with.")
    ] = 0.05,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Build an atlas: what every unit responds to. Run it again to resume."""
    from vitscope.atlas import build as make
    from vitscope.atlas.store import check_writable
    from vitscope.data import images
    from vitscope.models import load

    check_writable(output)
    opened = load(model, weights=weights, seed=seed, device=device, dtype=dtype)
    with progress() as shown:
        built = make(
            opened,
            images(source, labels=labels, accept_truncated=accept_truncated or None),
            sites=sites,
            dreams=_count(dreams),
            k=k,
            recipe=recipe,
            seed=seed,
            seeds=seeds,
            repeats=repeats,
            out=output,
            batch_size=batch_size,
            max_skip=max_skip,
            on_progress=shown,
            on_plan=say,
        )
    emit(built.describe(), as_json, shown=built.sentence)


def show(
    atlas: AtlasPath,
    address: Annotated[str, typer.Argument(help="Such as blocks.5.ffn:40")],
    as_json: AsJson = False,
) -> None:
    """Show what an atlas knows of one unit."""
    from vitscope.atlas.read import Atlas

    found = Atlas.open(atlas)[address]
    emit(found.describe(), as_json, shown=lambda: unit_table(found))


def verify(atlas: AtlasPath, as_json: AsJson = False) -> None:
    """Check every file of an atlas; exit 1 where something is damaged."""
    from vitscope.atlas.verify import verify as check

    report = check(atlas)
    emit(report.describe(), as_json, shown=report.sentence)
    if not report.ok:
        raise typer.Exit(1)


Studies = Annotated[
    list[Path] | None,
    typer.Option(help="A folder with a result of a study, or with several; may be given again."),
]
Atlases = Annotated[list[Path], typer.Argument(metavar="ATLAS...", help="Atlas folders.")]


def serve(
    atlases: Atlases,
    host: Annotated[
        str, typer.Option(help="Address to bind to; only this machine can reach the default.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The next free port is taken where it is in use.")
    ] = 8000,
    studies: Studies = None,
    live: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="What dreams and looks at dropped pictures: auto is each atlas's own model, off none.",
        ),
    ] = "auto",
    weights: Weights = "pretrained",
    device: Device = "auto",
) -> None:
    """Browse atlases in a web page; where their model can be loaded, watch it dream."""
    from vitscope.atlas.read import Atlas
    from vitscope.viewer.app import find_port
    from vitscope.viewer.app import serve as run

    opened = [Atlas.open(path) for path in atlases]
    free = find_port(host, port)
    announce(f"http://{host}:{free}   (Ctrl-C ends)")
    run(opened, host=host, port=free, studies=studies, live=live, weights=weights, device=device)


def export(
    atlases: Atlases,
    output: Annotated[
        Path, typer.Option("--out", help="The folder of the site: new, empty, or of an earlier export.")
    ],
    studies: Studies = None,
    as_json: AsJson = False,
) -> None:
    """Write the web pages of atlases as plain files, for any static host."""
    from vitscope.atlas.read import Atlas
    from vitscope.viewer.export import export as write

    opened = [Atlas.open(path) for path in atlases]
    with progress() as shown:
        written = write(opened, out=output, studies=studies, on_progress=shown)
    emit(written.describe(), as_json, shown=written.sentence)


def demo(
    output: Annotated[Path, typer.Option("--out", help="Where the atlas goes.")] = Path("demo.atlas"),
    dreams: Annotated[int, typer.Option(min=0, help="Dreams a site.")] = 16,
    no_serve: Annotated[bool, typer.Option("--no-serve", help="Build and end.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    as_json: AsJson = False,
) -> None:
    """Build an atlas of the bundled vit_mini over bundled photographs, without network, and browse it."""
    build(
        "vitscope:vit_mini",
        "demo:",
        output,
        dreams=str(dreams),
        recipe=["olah_2017:short"],
        batch_size=32,
        as_json=as_json,
    )
    if not no_serve:
        serve([output], port=port)


def _count(text: str) -> int | Literal["all"]:
    if text == "all":
        return "all"
    if not text.isdigit():
        raise BadValue(f"--dreams takes a number or 'all', not {text!r}")
    return int(text)
