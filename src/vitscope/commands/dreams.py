"""Commands for dreams: make them, and list the recipes for it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitscope.commands.console import (
    AsJson,
    Device,
    Dtype,
    ModelName,
    RecipeName,
    Seed,
    Seeds,
    Weights,
    emit,
    progress,
    say,
)
from vitscope.errors import BadValue
from vitscope.tables import dream_table

if TYPE_CHECKING:
    from vitscope.dream import Dream, Objective

NEGATIVE = re.compile(r"-\s*(\d[\d.e+-]*\s*\*\s*)?[A-Za-z_][\w.~]*[:(]")
"""How an objective that begins with a minus begins; no option looks like that."""

NAME_LENGTH = 60
"""Characters of a formula that its file's name shows; a hash tells the rest."""


def dream(
    model: ModelName,
    objectives: Annotated[
        list[str],
        typer.Argument(
            metavar="OBJECTIVE...",
            help="An address (blocks.5.ffn:40, logits:207), or a formula of addresses and functions: "
            "-blocks.5.ffn:40, '0.5*blocks.2.ffn:1 + 2*head(blocks.5, 2)', 'inversion(blocks.5, dog.jpg)'. "
            "docs/objectives.md has them all.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--out", help="A .png file, or a folder for several.")] = Path(
        "dreams"
    ),
    recipe: RecipeName = "vitscope",
    seed: Seed = 0,
    seeds: Seeds = 1,
    start: Annotated[
        Path | None, typer.Option("--from", metavar="IMAGE", help="Start from this image, not from noise.")
    ] = None,
    near: Annotated[
        str | None,
        typer.Option(
            metavar="SITE", help="Stay near the image of --from there: an early block, as blocks.1."
        ),
    ] = None,
    strength: Annotated[
        float | None, typer.Option(min=0, help="What leaving it costs, with --near; 5 if not given.")
    ] = None,
    canvases: Annotated[
        int | None, typer.Option(min=2, help="Several dreams of each objective, pushed apart.")
    ] = None,
    diversity: Annotated[
        float | None, typer.Option(help="What likeness costs, with --canvases; 1 if not given.")
    ] = None,
    differ_at: Annotated[
        str | None,
        typer.Option(
            metavar="SITE", help="Where they differ, with --canvases; where the objective looks if not given."
        ),
    ] = None,
    transparency: Annotated[
        bool, typer.Option("--transparency", help="Save as transparent what the objective ignored.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Units in one batch; chosen by device where it is not given.")
    ] = None,
    weights: Weights = "pretrained",
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: AsJson = False,
) -> None:
    """Synthesise the images that excite units, or that climb any other objective."""
    _check_pairs(
        start=start, near=near, strength=strength, canvases=canvases, diversity=diversity, at=differ_at
    )
    from vitscope.dream import dream as make
    from vitscope.models import load

    asked = [_started(text, start, near, strength) for text in objectives]
    asked = [_apart(objective, canvases, diversity, differ_at) for objective in asked]
    paths = _picture_paths(output, asked, canvases or 1, recipe, seed)
    opened = load(model, weights=weights, seed=seed, device=device, dtype=dtype)
    with progress() as shown:
        made = make(
            opened,
            asked,
            recipe=recipe,
            seed=seed,
            seeds=seeds,
            batch_size=batch_size,
            on_plan=lambda plan: say(plan.sentence(len(paths))),
            on_step=shown.stage("dreaming"),
        )
    rows = [
        {**result.describe(), "path": str(_saved(result, path, transparency))}
        for result, path in zip(made, paths, strict=True)
    ]
    emit(rows, as_json, shown=lambda: dream_table(rows))


def recipes(as_json: AsJson = False) -> None:
    """List the recipes for dreams, with the papers they come from."""
    from vitscope.dream import RECIPES

    found = {name: RECIPES.get(name) for name in RECIPES}
    emit(
        {name: recipe.describe() for name, recipe in found.items()},
        as_json,
        shown=lambda: "\n".join(f"{name:24} {recipe.citation}" for name, recipe in found.items()),
    )


def shielded(arguments: Sequence[str]) -> list[str]:
    """Command-line arguments in which an objective that begins with a minus is not taken for an option."""
    return [f" {each}" if NEGATIVE.match(each) else each for each in arguments]


def _check_pairs(**given: Any) -> None:
    """Options that mean nothing without another."""
    needs = {
        "near": ("--near SITE", "start", "--from IMAGE, the image to stay near"),
        "strength": ("--strength", "near", "--near SITE, where leaving the image of --from costs"),
        "diversity": ("--diversity", "canvases", "--canvases N, how many dreams are pushed apart"),
        "at": ("--differ-at SITE", "canvases", "--canvases N, how many dreams are pushed apart"),
    }
    for name, (option, other, meaning) in needs.items():
        if given[name] is not None and given[other] is None:
            raise BadValue(f"{option} means nothing without {meaning}")


def _started(text: str, start: Path | None, near: str | None, strength: float | None) -> Objective:
    """The objective of a text, climbed from an image if there is one."""
    from vitscope.dream import accentuated
    from vitscope.dream.formula import parse

    objective = parse(text.strip())
    if start is None:
        return objective
    if near is None:
        return objective.starting_from(start)
    return accentuated(objective, start, near=near, **_given(strength=strength))


def _apart(
    objective: Objective, canvases: int | None, diversity: float | None, differ_at: str | None
) -> Objective:
    """The same with several canvases, if more than one is wanted."""
    from vitscope.dream import diverse

    if canvases is None:
        return objective
    return diverse(objective, count=canvases, **_given(weight=diversity, site=differ_at))


def _given(**options: Any) -> dict[str, Any]:
    """The options that were given; the others have the library's defaults."""
    return {name: value for name, value in options.items() if value is not None}


def _saved(result: Dream, path: Path, transparent: bool) -> Path:
    if transparent and result.transparency is None:
        say(f"the dream of {result.address} has no transparency: it is saved opaque")
        return result.save(path)
    return result.save(path, alpha="transparency" if transparent else "opaque")


def _picture_paths(
    output: Path, objectives: Sequence[Objective], canvases: int, recipe: str, seed: int
) -> list[Path]:
    """One file a dream; checked before any work."""
    from vitscope.atlas.store import check_writable

    count = len(objectives) * canvases
    single = output.suffix.lower() == ".png"
    if single and count > 1:
        raise BadValue(f"{count} dreams do not fit into one file: give -o a folder")
    check_writable(output.parent if single else output)
    if single:
        return [output]
    ends = [f"_canvas_{number}" for number in range(1, canvases + 1)] if canvases > 1 else [""]
    names = [f"{_name(objective.text)}{end}" for objective in objectives for end in ends]
    return [output / f"{name}.{recipe.replace(':', '_')}.{seed}.png" for name in names]


def _name(text: str) -> str:
    """A file name for an objective: an address almost as it is, a formula shortened and hashed."""
    spoken = re.sub(r"(^| )-", " minus ", text).replace("@", "_at_")
    name = re.sub(r"[^\w.~]+", "_", spoken).strip("_")
    if re.fullmatch(r"[\w.~:@,]+", text):
        return name
    return f"{name[:NAME_LENGTH]}.{hashlib.sha256(text.encode()).hexdigest()[:8]}"
