"""`vitscope.look`: one picture, as a model sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image

from vitscope.arrays import Pixels
from vitscope.atlas.read import Atlas
from vitscope.atlas.thumbnails import finer
from vitscope.data.decode import Decoded, decode_file, view
from vitscope.data.source import image_id
from vitscope.errors import AtlasError, BadValue, Unsuited
from vitscope.flow import rolling_sites
from vitscope.front import callable_as
from vitscope.look.glance import Groups, glanced, grids, groups, guesses, heads, reaches
from vitscope.look.result import Look
from vitscope.look.units import check, firing
from vitscope.models.vision_model import Preprocessing, Site, VisionModel
from vitscope.provenance import Provenance
from vitscope.studies.depth import PATTERNS

STREAMS = ("blocks.*", "stages.*.*")
"""What leaves the blocks: of a transformer or Mixer, or of a CNN."""
SHOWN = 448
"""Pixels of the shown picture's shorter side, at least."""

__all__ = ["Look", "look", "opened"]


def look(
    model: VisionModel,
    image: str | Path | Image.Image,
    *,
    atlas: str | Path | Atlas | None = None,
    units: int = 4,
    kinds: int = 5,
) -> Look:
    """What a model makes of one picture: its answer, where each head looks, which units fire most and where,
    and which patches are alike. One forward pass.

    Args:
        model: any; a part that it has nothing for is left out, with a note.
        image: a file, or an upright Pillow image.
        atlas: of the same model. Units are then those that fire more than in most of its images, and their
            dreams and exemplars stand beside them; its sites are looked at.
        units: how many units of each site.
        kinds: how many groups of patches that are alike, 2 to 8.

    Raises:
        MissingPath: there is no such file.
        BadValue: it is no image that can be read, the atlas is of other weights, or a number is out of range.
        AtlasError: there is no atlas, or it is damaged.

    Example:
        >>> import vitscope as vs
        >>> seen = vs.look(vs.load("vitscope:vit_mini"), "dog.jpg")     # doctest: +SKIP
        >>> seen.guesses[0].name, seen.save("looks/dog")                # doctest: +SKIP
    """
    if units < 1 or not 2 <= kinds <= 8:
        raise BadValue(f"units is at least 1 and kinds 2 to 8, not {units} and {kinds}")
    book = Atlas.open(atlas) if isinstance(atlas, (str, Path)) else atlas
    if book is not None:
        check(model, book)
    decoded, name, mark = opened(image)
    notes = _told(decoded, model.preprocessing)
    sites = _unit_sites(model, book, notes)
    streams, patterns = _first(model, STREAMS), [site for site in model.sites if site.keys]
    answer = [site for site in model.sites if site.name == "logits"]
    wanted = {site.name: site for site in (*patterns, *sites, *streams, *answer)}
    notes += [] if answer else [f"no answer: {model.name} has no logits"]
    notes += [] if patterns else [f"no heads: {model.name} has no attention weights"]
    rolling = _rolling(model, notes) if patterns else []
    shown = _pixels(decoded, model.preprocessing)
    found = glanced(model, shown, list(wanted.values()), rolling=rolling)
    alike = groups(streams, found, count=kinds)
    notes += _strange(alike)
    settings = {"image": name, "units": units, "kinds": kinds, "atlas": book.name if book else None}
    return Look(
        picture=Image.fromarray(view(decoded.image, finer(model.preprocessing, side=SHOWN))),
        guesses=guesses(model, found) if answer else (),
        heads=heads(found),
        rollout=reaches(rolling, found) if rolling else (),
        units=firing(sites, found.values, count=units, atlas=book),
        groups=alike,
        notes=tuple(notes),
        provenance=Provenance(
            kind="look",
            model=model.name,
            weights=model.fingerprint,
            preprocessing=model.preprocessing.describe(),
            source=mark,
            settings=settings,
            device=model.device.type,
        ),
        thumbnail=_thumbnails(book),
    )


def opened(image: str | Path | Image.Image) -> tuple[Decoded, str, str | None]:
    """A picture upright, the name of its file, and its identity.

    Raises:
        MissingPath, BadValue: as `look`.
    """
    if isinstance(image, Image.Image):
        return Decoded(image.convert("RGB")), "image", None
    path = Path(image)
    decoded, content = decode_file(path)
    return decoded, path.name, image_id(content)


def _pixels(decoded: Decoded, preprocessing: Preprocessing) -> Pixels:
    levels = np.array(view(decoded.image, preprocessing))
    return rearrange(torch.from_numpy(levels), "row column rgb -> 1 rgb row column").float() / 255


def _first(model: VisionModel, patterns: tuple[str, ...]) -> list[Site]:
    """The sites of the first pattern that has any on the picture."""
    return next((found for pattern in patterns if (found := grids(model, pattern))), [])


def _unit_sites(model: VisionModel, atlas: Atlas | None, notes: list[str]) -> list[Site]:
    """Where units are looked at: the finished sites of the atlas, or the hidden layers of the MLPs."""
    if atlas is None:
        found = _first(model, PATTERNS)
        notes += [] if found else [f"no units: {model.name} has no site that matches {' or '.join(PATTERNS)}"]
        return found
    half = [entry.name for entry in atlas.sites if entry.finished < entry.leaves]
    notes += [f"{atlas.name} is not finished: without {', '.join(half)}"] if half else []
    whole = [entry.name for entry in atlas.sites if entry.name not in half]
    return [site for name in whole if (site := model.sites.named(name)).grid and site.places > 1]


def _rolling(model: VisionModel, notes: list[str]) -> list[Site]:
    """The attention that can be rolled out."""
    try:
        return rolling_sites(model)
    except Unsuited as error:
        notes.append(f"no rollout: {error}")
        return []


def _told(decoded: Decoded, preprocessing: Preprocessing) -> list[str]:
    """What was done to the picture before the model saw it."""
    rows, columns = preprocessing.size
    size = f"{decoded.image.width} x {decoded.image.height}"
    crop = "squashed to" if preprocessing.resize is None else "cut to its middle, as the model is shown it:"
    changed = f" ({', '.join(decoded.notes).replace('_', ' ')})" if decoded.notes else ""
    return [f"the picture of {size} pixels{changed} was {crop} {columns} x {rows}"]


def _strange(alike: tuple[Groups, ...]) -> list[str]:
    """Artefacts, where there are any (Darcet et al. 2024)."""
    odd = [one for one in alike if one.outliers]
    if not odd:
        return []
    most = max(one.outliers for one in odd)
    return [
        f"from {odd[0].site} on, up to {most} places carry norms far above all others: artefacts, which say "
        "little of what lies there and may draw attention to themselves (Darcet et al. 2024)"
    ]


def _thumbnails(atlas: Atlas | None) -> Callable[[str], bytes | None]:
    """An exemplar's picture by its identity; None where the atlas has none."""

    def get(identity: str) -> bytes | None:
        try:
            return atlas.thumbnail(identity) if atlas else None
        except AtlasError:
            return None

    return get


callable_as(__name__, look)
