"""The command line: parse, call one function, print. No logic of its own; torch is imported only when work
starts."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from vitscope.errors import BadValue, VitscopeError
from vitscope.progress import Progress
from vitscope.tables import dream_table, facts_table, unit_table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="A microscope for vision models: point it at one neuron, or at all of them.",
)


def _console(*, stderr: bool = False) -> Console:
    """As wide as the terminal; elsewhere wide enough that no table loses a name."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 160
    return Console(stderr=stderr, width=width, markup=False, highlight=False)


out = _console()
err = _console(stderr=True)
_BadCommand: Any = typer.BadParameter.__mro__[2]
"""Click's root of usage errors, wherever this version of typer keeps its click."""

ModelName = Annotated[
    str, typer.Argument(help="timm:NAME, tv:NAME, vitscope:NAME, hf-hub:REPO; a bare name means timm.")
]
Source = Annotated[str, typer.Argument(help="folder:PATH, tar:PATH or demo:")]
AtlasPath = Annotated[Path, typer.Argument(help="An atlas folder.")]
Weights = Annotated[str, typer.Option(help="pretrained, random, or a .safetensors or .pt file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="Type of the weights: float32, bfloat16 or float16.")]
Seed = Annotated[int, typer.Option(help="Seed of dreams, and of random weights.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in one forward pass.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]


def say(sentence: str) -> None:
    """What people should know while they wait; never on standard output."""
    err.print(sentence, style="dim", soft_wrap=True)


def emit(data: Any, as_json: bool, *, shown: Callable[[], Any]) -> None:
    """Print a result: as JSON, or as people like to read it."""
    if as_json:
        sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")
    else:
        out.print(shown(), soft_wrap=True)


@app.command()
def models(
    query: Annotated[str, typer.Argument(help="Part of a name, or a glob.")], as_json: AsJson = False
) -> None:
    """Find model names across the libraries."""
    from vitscope.models import find

    found = find(query)
    emit(found, as_json, shown=lambda: "\n".join(found) or f"no model matches {query!r}")


@app.command()
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


@app.command()
def dream(
    model: ModelName,
    addresses: Annotated[
        list[str], typer.Argument(metavar="ADDRESS...", help="Such as blocks.5.ffn:40 or logits:207.")
    ],
    output: Annotated[Path, typer.Option("-o", "--out", help="A .png file, or a folder for several.")] = Path(
        "dreams"
    ),
    recipe: Annotated[str, typer.Option(help="One of `vitscope recipes`.")] = "vitscope",
    seed: Seed = 0,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Units in one batch; chosen by device where it is not given.")
    ] = None,
    weights: Weights = "pretrained",
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Synthesise the images that excite units."""
    from vitscope.dream import dream as make
    from vitscope.models import load

    paths = _picture_paths(output, addresses, recipe, seed)
    opened = load(model, weights=weights, seed=seed, device=device, dtype=dtype)
    with Progress(err) as progress:
        made = make(
            opened,
            list(addresses),
            recipe=recipe,
            seed=seed,
            batch_size=batch_size,
            on_plan=lambda plan: say(plan.sentence(len(addresses))),
            on_step=progress.stage("dreaming"),
        )
    rows = []
    for result, path in zip(made, paths, strict=True):
        result.save(path)
        rows.append({**result.describe(), "path": str(path)})
    emit(rows, as_json, shown=lambda: dream_table(rows))


@app.command()
def recipes(as_json: AsJson = False) -> None:
    """List the recipes for dreams, with the papers they come from."""
    from vitscope.dream import RECIPES

    found = {name: RECIPES.get(name) for name in RECIPES}
    emit(
        {name: recipe.describe() for name, recipe in found.items()},
        as_json,
        shown=lambda: "\n".join(f"{name:24} {recipe.citation}" for name, recipe in found.items()),
    )


@app.command()
def build(
    model: ModelName,
    source: Source,
    output: Annotated[
        Path, typer.Option("--out", help="The atlas folder; if it is there already, the work goes on.")
    ],
    sites: Annotated[str, typer.Option(help="Glob of sites.")] = "blocks.*.ffn",
    dreams: Annotated[str, typer.Option(help="Units a site to dream of, or all.")] = "0",
    k: Annotated[int, typer.Option(min=1, help="Exemplars a unit.")] = 9,
    recipe: Annotated[str, typer.Option(help="One of `vitscope recipes`.")] = "vitscope",
    labels: Annotated[Path | None, typer.Option(help="CSV with a path and a label column.")] = None,
    accept_truncated: Annotated[
        bool, typer.Option("--accept-truncated", help="Complete JPEGs that end early with grey.")
    ] = False,
    weights: Weights = "pretrained",
    seed: Seed = 0,
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
    with Progress(err) as progress:
        built = make(
            opened,
            images(source, labels=labels, accept_truncated=accept_truncated or None),
            sites=sites,
            dreams=_count(dreams),
            k=k,
            recipe=recipe,
            seed=seed,
            out=output,
            batch_size=batch_size,
            max_skip=max_skip,
            on_progress=progress,
            on_plan=say,
        )
    emit(built.describe(), as_json, shown=built.sentence)


@app.command()
def show(
    atlas: AtlasPath,
    address: Annotated[str, typer.Argument(help="Such as blocks.5.ffn:40")],
    as_json: AsJson = False,
) -> None:
    """Show what an atlas knows of one unit."""
    from vitscope.atlas.read import Atlas

    found = Atlas.open(atlas)[address]
    emit(found.describe(), as_json, shown=lambda: unit_table(found))


@app.command()
def verify(atlas: AtlasPath, as_json: AsJson = False) -> None:
    """Check every file of an atlas; exit 1 where something is damaged."""
    from vitscope.atlas.verify import verify as check

    report = check(atlas)
    emit(report.describe(), as_json, shown=report.sentence)
    if not report.ok:
        raise typer.Exit(1)


@app.command()
def explain(
    file: Annotated[Path, typer.Argument(help="A PNG, a JSON or an atlas that vitscope wrote.")],
    as_json: AsJson = False,
) -> None:
    """Print how a result was made."""
    from dataclasses import asdict

    from vitscope.provenance import explain as read

    found = asdict(read(file))
    emit(found, as_json, shown=lambda: facts_table(found))


@app.command()
def serve(
    atlases: Annotated[list[Path], typer.Argument(metavar="ATLAS...", help="Atlas folders.")],
    host: Annotated[
        str, typer.Option(help="Address to bind to; only this machine can reach the default.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The next free port is taken where it is in use.")
    ] = 8000,
) -> None:
    """Browse atlases in a web page."""
    from vitscope.atlas.read import Atlas
    from vitscope.viewer.app import find_port
    from vitscope.viewer.app import serve as run

    opened = [Atlas.open(path) for path in atlases]
    free = find_port(host, port)
    err.print(f"http://{host}:{free}   (Ctrl-C ends)", soft_wrap=True)
    run(opened, host=host, port=free)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check this installation; exit 1 where something is wrong."""
    from vitscope.doctor import checkup

    findings = checkup()
    emit(findings, as_json, shown=lambda: facts_table(findings))
    if not findings["ok"]:
        raise typer.Exit(1)


@app.command()
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
        recipe="olah_2017:short",
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


def _picture_paths(output: Path, addresses: list[str], recipe: str, seed: int) -> list[Path]:
    """One file an address; checked before any work."""
    from vitscope.atlas.store import check_writable

    single = output.suffix.lower() == ".png"
    if single and len(addresses) > 1:
        raise BadValue(f"{len(addresses)} dreams do not fit into one file: give -o a folder")
    check_writable(output.parent if single else output)
    if single:
        return [output]
    names = [address.replace(":", "_").replace("@", "_at_").replace(",", "_") for address in addresses]
    return [output / f"{name}.{recipe.replace(':', '_')}.{seed}.png" for name in names]


INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended: 128 and the number of the signal."""


def main() -> None:
    """Run the command line. Exit codes: 0 success, 1 failure, 2 usage, 130 interrupt."""
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    try:
        code = int(app(args=arguments, standalone_mode=False) or 0)
        sys.stdout.flush()
    except VitscopeError as error:
        _complain(f"{type(error).__name__}: {error}")
        return error.exit_code
    except _BadCommand as error:
        _complain(error.format_message())
        return 2
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except BrokenPipeError:  # the reader, `head` for instance, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if code == INTERRUPTED:  # some versions of typer turn the interrupt into this code themselves
        _complain("interrupted; run the same command again to go on where it stopped")
    return code


def _complain(message: str) -> None:
    """An error, as plain text, on standard error; nothing where the message was printed already."""
    if message:
        err.print(message, style="red", soft_wrap=True)
