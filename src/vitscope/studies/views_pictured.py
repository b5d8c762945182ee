"""One picture through one filter while patches are dropped (Nguyen et al. 2022, figure `all_drops`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitscope.data.source import ImageSource, Shard, ViewIntervention
from vitscope.data.stream import stream
from vitscope.errors import BadValue
from vitscope.flow import rollout
from vitscope.interventions.patches import DroppedPatches
from vitscope.meters.reading import Array
from vitscope.studies.appearance import as_text
from vitscope.studies.exemplars import Few
from vitscope.studies.view_levels import aucs, clearest, foremost
from vitscope.studies.views_dropped import DroppedBatch, WholeImages
from vitscope.views import displayed

DRAWN = 2
"""The last so many of the levels that are compared are drawn: before, a token sees little but itself."""


def pictured(
    images: WholeImages,
    source: ImageSource,
    path: str,
    *,
    salient: ViewIntervention,
    drops: Mapping[str, Sequence[DroppedPatches]],
) -> Array:
    """The picture as it is left, and the view of it at the last levels, by one patch of its object through
    the filter that tells the object best in the whole picture.

    Args:
        images: what is known of whole images.
        source: has the picture.
        path: its name.
        salient: marks the object.
        drops: of every kind, more and more of them.

    Returns:
        Small pictures as text: [kind][none dropped, then each drop][picture, then views].

    Raises:
        BadValue: there is no such picture, or it cannot be read.
    """
    preprocessing = images.model.preprocessing
    batches = stream(
        Few(source, [path]), Shard("one", 0, 1), preprocessing, batch_size=1, on_skip=lambda _: None
    )
    whole = next((salient.on_view(batch) for batch in batches), None)
    if whole is None:
        raise BadValue(f"{path!r} cannot be read: choose another picture")
    every = {
        kind: [images.under(drop).on_view(whole) for drop in (None, *some)] for kind, some in drops.items()
    }
    first = next(iter(every.values()))[0]
    sums = images.filters.sums(whole.pixels.to(images.model.device)).cpu()
    unit = clearest(aucs(sums, first.salient.float())[0, 0])
    place = _place([one for some in every.values() for one in some])
    return np.array([[_row(images, one, unit, place) for one in some] for some in every.values()])


def _place(seen: Sequence[DroppedBatch]) -> int:
    """A patch of the object that is left most often."""
    inside: Bool[Tensor, " place"] = seen[0].salient[0]
    return foremost(torch.stack([one.left[0] for one in seen]).sum(0) * (inside if inside.any() else 1))


def _row(images: WholeImages, batch: DroppedBatch, unit: int, place: int) -> list[str]:
    pixels = batch.pixels.to(images.model.device)
    flow: Float[Tensor, "level query key"] = rollout(images.model, pixels)[:, 0].cpu()
    prefix = flow.shape[-1] - batch.left.shape[-1]
    view = images.filters.views(pixels, [unit])[0, 0].cpu()
    shown = [
        displayed(images.filters.weighted(view, flow[level, prefix + place, prefix:]))
        for level in images.levels[-DRAWN:]
    ]
    return [_text(one) for one in (batch.pixels[0].cpu().movedim(0, -1), *shown)]


def _text(values: Float[Tensor, "row column rgb"]) -> str:
    return as_text((255 * values.numpy()).round().astype(np.uint8))
