"""Whether a unit's map says where its response comes from: deletion and insertion (Petsiuk et al. 2018).

The map of a unit is its activation at every place of its best image. Patches are filled with black in the
order of the map, the largest first (deletion), or all others are (insertion), and the unit's mean activation
is read again, as a share of the way from a black image, 0, to the whole one, 1. A map that tells where the
response comes from lowers the curve of deletion and raises that of insertion, against a random order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from vitscope.arrays import Pixels
from vitscope.data.source import ImageSource
from vitscope.draws import generator
from vitscope.meters.reading import Array
from vitscope.meters.topk import TopK
from vitscope.models.vision_model import Site, VisionModel
from vitscope.scan import scan
from vitscope.studies.exemplars import views
from vitscope.studies.result import Row
from vitscope.tap import read

STEPS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Shares of the places that are deleted, or inserted: our choice."""
KINDS = ("deletion", "insertion")
ORDERS = ("map", "random")
CURVES = tuple((kind, order) for kind in KINDS for order in ORDERS)


@dataclass(frozen=True, eq=False)
class Faithful:
    """The curves of some units of one site.

    Attributes:
        site: the site.
        units: which ones.
        curves: of each kind and order of `CURVES`, the response at each of `STEPS`; NaN of a unit whose
            response to its image is not above that to a black one.
    """

    site: str
    units: Int[Array, " unit"]
    curves: Float64[Array, "unit curve step"]

    @property
    def areas(self) -> Float64[Array, "unit curve"]:
        """The mean height of every curve, by the trapezoid rule."""
        found: Array = np.trapezoid(self.curves, STEPS, axis=2)
        return found

    def row(self) -> Row:
        """Columns of a table: medians over units, and of how many units the map does better than chance."""
        known = self.areas[np.isfinite(self.areas).all(axis=1)]
        row: Row = {"site": self.site, "units": len(known), "units_without": len(self.areas) - len(known)}
        for place, (kind, order) in enumerate(CURVES):
            name = kind if order == "map" else f"{kind}_random"
            row[name] = float(np.median(known[:, place])) if len(known) else float("nan")
        for kind, better in zip(KINDS, (known[:, 0] < known[:, 1], known[:, 2] > known[:, 3]), strict=True):
            row[f"{kind}_better"] = 100 * float(better.mean()) if len(known) else float("nan")
        return row


def faithfulness(
    model: VisionModel,
    source: ImageSource,
    pattern: str,
    *,
    units: int,
    seed: int,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[Faithful]:
    """The curves of some units of every site that has a grid whose cells tile what the model is shown.

    One pass finds the best image of every unit, by its mean over places; each unit costs 16 more images.

    Args:
        model: the model.
        source: the images.
        pattern: which sites.
        units: how many units of a site are drawn.
        seed: of the draw and of random orders.
        batch_size: images a forward pass.
        on_progress: told how many images of the first pass are done.
    """
    meter = TopK(pattern, k=1, rank="mean")
    scanned = scan(model, source, [meter], batch_size=batch_size, on_progress=on_progress)
    names = {image.id: image.path for image in reversed(scanned.images)}
    for name, exemplars in scanned["topk_mean"].items():
        site = model.site(name)
        if site.grid is None or any(
            length % count for length, count in zip(_size(model), site.grid, strict=True)
        ):
            continue
        order = generator(seed, name).permutation(len(exemplars))[:units]
        chosen = np.sort([unit for unit in order if exemplars.count[unit]]).astype(np.int64)
        best = [names[exemplars.image[unit, 0].tobytes().hex()] for unit in chosen]
        seen = views(source, best, model.preprocessing)
        parts = [
            _curves(model, site, int(unit), _pixels(seen, path), seed=seed)
            for unit, path in zip(chosen, best, strict=True)
        ]
        if parts:
            yield Faithful(name, chosen, np.stack(parts))


def _size(model: VisionModel) -> tuple[int, int]:
    return model.preprocessing.size


def _pixels(seen: Mapping[str, Array], path: str) -> Pixels:
    return rearrange(torch.from_numpy(seen[path].copy()).float() / 255, "row column rgb -> 1 rgb row column")


def _curves(
    model: VisionModel, site: Site, unit: int, pixels: Pixels, *, seed: int
) -> Float64[Array, "curve step"]:
    """The response of one unit to its image under all masks, from that to black to that to the whole."""
    plain = _maps(model, site, unit, pixels)[0]
    orders = np.argsort(-plain, kind="stable"), generator(seed, f"{site.name}:{unit}").permutation(len(plain))
    masks = np.stack([_left(order, kind, step) for kind in KINDS for order in orders for step in STEPS])
    distinct, which = np.unique(masks, axis=0, return_inverse=True)
    shown = pixels * _spread(distinct, site, pixels)
    response = _maps(model, site, unit, shown).mean(axis=1)[which.ravel()].reshape(len(CURVES), len(STEPS))
    black, whole = response[0, -1], response[0, 0]
    if not whole > black:
        return np.full_like(response, np.nan)
    return np.asarray((response - black) / (whole - black))


def _left(order: Int[Array, " place"], kind: str, step: float) -> Bool[Array, " place"]:
    """Which places are left."""
    first = np.zeros(len(order), bool)
    first[order[: round(step * len(order))]] = True
    return ~first if kind == "deletion" else first


def _spread(
    masks: Bool[Array, "mask place"], site: Site, pixels: Pixels
) -> Float[Tensor, "mask 1 row column"]:
    rows, columns = site.grid or (1, 1)
    return repeat(
        torch.from_numpy(masks).float(),
        "mask (row column) -> mask 1 (row tall) (column wide)",
        row=rows,
        tall=pixels.shape[2] // rows,
        wide=pixels.shape[3] // columns,
    )


def _maps(model: VisionModel, site: Site, unit: int, pixels: Pixels) -> Float64[Array, "image place"]:
    """The activations of one unit at the places on the image."""
    with torch.no_grad():
        seen = read(model, pixels.to(model.device), [site])[site.name]
    found: Array = seen[:, site.prefix_tokens :, unit].double().cpu().numpy()
    return found
