"""What all commands share: what they print on, and the arguments that mean the same everywhere."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from vitscope.progress import Progress


def _console(*, stderr: bool = False) -> Console:
    """As wide as the terminal; elsewhere wide enough that no table loses a name."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else 160
    return Console(stderr=stderr, width=width, markup=False, highlight=False)


out = _console()
err = _console(stderr=True)

ModelName = Annotated[
    str, typer.Argument(help="timm:NAME, tv:NAME, vitscope:NAME, hf-hub:REPO; a bare name means timm.")
]
Source = Annotated[str, typer.Argument(help="folder:PATH, tar:PATH or demo:")]
AtlasPath = Annotated[Path, typer.Argument(help="An atlas folder.")]
Weights = Annotated[str, typer.Option(help="pretrained, random, or a .safetensors or .pt file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="Type of the weights: float32, bfloat16 or float16.")]
Seeds = Annotated[
    int, typer.Option(min=1, help="Seeds to try for every dream, from --seed on; the most robust is kept.")
]
Seed = Annotated[int, typer.Option(help="Seed of dreams, and of random weights.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in one forward pass.")]
RecipeName = Annotated[str, typer.Option(help="One of `vitscope recipes`.")]
Labels = Annotated[Path | None, typer.Option(help="CSV with a path and a label column.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on standard output.")]


def say(sentence: str) -> None:
    """What people should know while they wait; never on standard output."""
    err.print(sentence, style="dim", soft_wrap=True)


def announce(sentence: str) -> None:
    """What people wait for; never on standard output."""
    err.print(sentence, soft_wrap=True)


def complain(message: str) -> None:
    """An error, as plain text, on standard error; nothing where the message was printed already."""
    if message:
        err.print(message, style="red", soft_wrap=True)


def progress() -> Progress:
    """Bars, or lines, on standard error: `with progress() as shown: ...`."""
    return Progress(err)


def emit(data: Any, as_json: bool, *, shown: Callable[[], Any]) -> None:
    """Print a result: as JSON, or as people like to read it."""
    if as_json:
        sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")
    else:
        out.print(shown(), soft_wrap=True)
