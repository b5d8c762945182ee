"""Dreams of units drawn by lot, for studies: which units, by which recipe, and kept in a folder if asked."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image

from vitscope.atlas.commit import file_name
from vitscope.draws import generator
from vitscope.dream import recipe_named
from vitscope.dream.objectives import unit
from vitscope.dream.optimize import optimize
from vitscope.dream.recipe import Recipe
from vitscope.dream.result import Dream
from vitscope.errors import BadValue, NotWritable
from vitscope.models.vision_model import Site, VisionModel
from vitscope.provenance import explain
from vitscope.studies.appearance import Picture

AT_ONCE = 8
"""Dreams begun together; what was finished before a run was stopped is lost by at most so many."""
STATUS = "status"
"""The setting in a kept dream's provenance that holds its status."""


@dataclass(frozen=True)
class Dreamt:
    """One dream as a study looks at it: in bytes, as its PNG has it.

    Attributes:
        site, unit: whose dream it is.
        pixels: 0 to 255.
        status: "ok"; "dead" and "diverged" dreams say nothing of their unit.
    """

    site: str
    unit: int
    pixels: Picture = field(repr=False)
    status: str


def short(recipe: str, *, steps: int, copies: int) -> Recipe:
    """The recipe of that name with fewer steps and copies; 0 leaves its own.

    Raises:
        UnknownName: there is no such recipe.
        BadValue: a number below 0.
    """
    for name, number in (("steps", steps), ("copies", copies)):
        if number < 0:
            raise BadValue(f"{name} must be at least 0, which leaves the recipe's own, not {number}")
    changes = {name: number for name, number in (("steps", steps), ("copies", copies)) if number}
    found = recipe_named(recipe)
    return found.replace(**changes) if changes else found


def drawn(site: Site, *, units: int, seed: int) -> list[int]:
    """So many units of a site, drawn without repeats and in order; all of them where there are fewer.

    They depend on the seed and on the site's name and size only. With more units asked for, those of fewer
    are among them.

    Raises:
        BadValue: fewer than one unit.
    """
    if units < 1:
        raise BadValue(f"units is how many are drawn from every site: at least 1, not {units}")
    order = generator(seed, f"units of {site.name}").permutation(site.units)
    return sorted(order[:units].tolist())


def dreams_of(
    model: VisionModel,
    wanted: Mapping[str, Sequence[int]],
    *,
    recipe: Recipe,
    seed: int,
    keep: str = "",
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, list[Dreamt]]:
    """A dream of every unit asked for, by site.

    Args:
        model: the model to dream with.
        wanted: the units of each site.
        recipe: every setting.
        seed: fixes, with the address, all random numbers.
        keep: a folder in which each dream is kept as a PNG as soon as it is there, and found again; "" keeps
            none. A dream of other weights, another recipe or another seed is another file.
        on_progress: told how many dreams are done, and of how many.

    Raises:
        NotWritable: a dream cannot be kept.
    """
    total = sum(map(len, wanted.values()))
    found: dict[str, dict[int, Dreamt]] = {}
    for site, units in wanted.items():
        names = {number: _name(model, f"{site}:{number}", recipe, seed) for number in units}
        files = {number: Path(keep, name) for number, name in names.items()} if keep else {}
        found[site] = {
            number: _opened(site, number, file) for number, file in files.items() if file.is_file()
        }
        missing = [number for number in units if number not in found[site]]
        for start in range(0, len(missing), AT_ONCE):
            part = missing[start : start + AT_ONCE]
            before = sum(map(len, found.values()))
            told = _steps_told(on_progress, before, total, recipe.steps)
            objectives = [unit(f"{site}:{number}") for number in part]
            made = optimize(model, objectives, recipe=recipe, seed=seed, on_step=told)
            for number, dream in zip(part, made, strict=True):
                if keep:
                    _save(dream, files[number])
                found[site][number] = Dreamt(site, number, _bytes(dream), dream.trust["status"])
        if on_progress:
            on_progress(sum(map(len, found.values())), total)
    return {site: [found[site][number] for number in units] for site, units in wanted.items()}


def _steps_told(
    on_progress: Callable[[int, int], None] | None, before: int, total: int, steps: int
) -> Callable[[int, int], None] | None:
    """From unit-steps to dreams, so that a bar moves while the first of them are made."""
    if on_progress is None:
        return None
    return lambda done, _: on_progress(before + done // steps, total)


def _bytes(dream: Dream) -> Picture:
    levels = (dream.pixels.cpu() * 255).round().numpy().astype(np.uint8)
    return rearrange(levels, "rgb row column -> row column rgb")


def _name(model: VisionModel, address: str, recipe: Recipe, seed: int) -> str:
    """The file of a kept dream: its address, and a hash of all that it depends on."""
    facts = [model.fingerprint, model.preprocessing.describe(), recipe.describe(), seed, address]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return f"{file_name(address)}.{digest}.png"


def _save(dream: Dream, file: Path) -> None:
    """Whole or not at all, with the status in its provenance."""
    settings = {**dream.provenance.settings, STATUS: dream.trust["status"]}
    waiting = file.with_name(f".{file.stem}.{os.getpid()}.png")
    replace(dream, provenance=replace(dream.provenance, settings=settings)).save(waiting)
    try:
        waiting.replace(file)
    except OSError as error:
        raise NotWritable(f"cannot write {file}: {error.strerror}") from error


def _opened(site: str, number: int, file: Path) -> Dreamt:
    status = explain(file).settings.get(STATUS, "ok")
    with Image.open(file) as image:
        return Dreamt(site, number, np.asarray(image.convert("RGB")), status)
