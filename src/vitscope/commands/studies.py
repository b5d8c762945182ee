"""Commands that answer the questions of papers: studies, two models compared, and reports of results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Group

from vitscope.commands.console import (
    AsJson,
    BatchSize,
    Device,
    Dtype,
    Labels,
    ModelName,
    RecipeName,
    Seed,
    Source,
    emit,
    progress,
)
from vitscope.errors import BadValue
from vitscope.tables import study_table

_Weights = Annotated[
    list[str] | None,
    typer.Option(
        help="pretrained (the default), random, or a file: once for all models, or once for each, in order."
    ),
]


def study(
    name: Annotated[str, typer.Argument(help="One of `vitscope studies`.")],
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="One or several, compared on the same images.")
    ],
    images: Annotated[str, typer.Option(metavar="SOURCE", help="folder:PATH, tar:PATH or demo:")],
    output: Annotated[
        Path | None, typer.Option("-o", "--out", help="Where results go; results/NAME if not given.")
    ] = None,
    labels: Labels = None,
    boxes: Annotated[
        Path | None, typer.Option(help="Boxes: a CSV, or a folder of ImageNet's XML files.")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="Masks: a folder of PNGs named as the images.")] = None,
    edges: Annotated[
        Literal["between", "pixels"] | None,
        typer.Option(help="What corners of boxes are: between pixels, or pixels that are inside."),
    ] = None,
    mask_values: Annotated[
        str | None, typer.Option(metavar="1-91,95", help="Values of masks that are foreground; all but 0.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many images only.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of the study; several values by commas."),
    ] = None,
    weights: _Weights = None,
    seed: Seed = 0,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images in one forward pass.")] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Answer one question of a paper for one or several models."""
    from vitscope.atlas.commit import check_writable
    from vitscope.data import images as open_images
    from vitscope.models import load
    from vitscope.studies import STUDIES
    from vitscope.studies import study as answer

    asked = STUDIES.get(name)
    given = asked.parse(settings or ())
    if batch_size is not None:
        given["batch_size"] = batch_size
    if "seed" in asked.settings:
        given.setdefault("seed", seed)
    folder = output or Path("results") / name
    check_writable(folder)
    source = open_images(
        images,
        labels=labels,
        boxes=boxes,
        masks=masks,
        edges=edges,
        mask_values=None if mask_values is None else _numbers(mask_values),
        limit=limit,
    )
    opened = [
        load(model, weights=which, seed=seed, device=device, dtype=dtype)
        for model, which in zip(models, _one_each(weights or (), models), strict=True)
    ]
    with progress() as shown:
        result = answer(name, opened, source, out=folder, on_progress=shown, **given)
    emit(result.describe(), as_json, shown=lambda: Group(result, str(folder)))


def studies(as_json: AsJson = False) -> None:
    """List the studies: what they ask, what they need and what can be set."""
    from vitscope.studies import STUDIES

    found = [STUDIES.get(name).describe() for name in STUDIES]
    emit({facts["name"]: facts for facts in found}, as_json, shown=lambda: study_table(found))


def compare(
    model_a: ModelName,
    model_b: ModelName,
    source: Source,
    output: Annotated[
        Path, typer.Option("-o", "--out", help="Where the page and the results go; run again to go on.")
    ] = Path("compared"),
    labels: Labels = None,
    limit: Annotated[
        int, typer.Option(min=1, help="So many images, drawn by --seed; all where there are fewer.")
    ] = 256,
    recipe: RecipeName = "olah_2017:short",
    weights: _Weights = None,
    seed: Seed = 0,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Compare two models over the same images: studies side by side, and one page on top of them."""
    from vitscope.atlas.commit import check_writable
    from vitscope.compare import compare as make
    from vitscope.data import images
    from vitscope.models import load

    check_writable(output)
    opened = images(source, labels=labels)
    names = (model_a, model_b)
    one, other = (
        load(name, weights=which, seed=seed, device=device, dtype=dtype)
        for name, which in zip(names, _one_each(weights or (), names), strict=True)
    )
    with progress() as shown:
        made = make(
            one,
            other,
            opened,
            out=output,
            limit=limit,
            recipe=recipe,
            seed=seed,
            batch_size=batch_size,
            on_progress=shown,
        )
    emit(made.describe(), as_json, shown=lambda: Group(made, str(made.index)))


def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders that `vitscope study` wrote.")
    ],
    output: Annotated[Path, typer.Option("-o", "--out", help="Where the pages go.")] = Path("report"),
    as_json: AsJson = False,
) -> None:
    """Join results of studies into web pages that need no network."""
    from vitscope.report import report as write

    index = write(results, out=output)
    facts: dict[str, Any] = {"report": str(index), "results": [str(result) for result in results]}
    emit(facts, as_json, shown=lambda: str(index))


def _numbers(text: str) -> frozenset[int]:
    """The whole numbers of a text such as "1-91,95"."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise BadValue(f"--mask-values takes numbers and ranges such as 1-91,95, not {text!r}")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _one_each(weights: Sequence[str], models: Sequence[str]) -> list[str]:
    """Which weights each model gets."""
    if len(weights) <= 1:
        return list(weights or ("pretrained",)) * len(models)
    if len(weights) != len(models):
        raise BadValue(
            f"{len(weights)} times --weights for {len(models)} models: give it once for all, or once for each"
        )
    return list(weights)
