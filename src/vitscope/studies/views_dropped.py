"""What becomes of global views when patches are dropped (Nguyen et al. 2022, figure `all_drops`).

The view of a token at a level is that of the image, each patch dimmed to the share of it that flowed there.
Whole images and what is left of them are compared at CLS and at those patches of the object that are left,
through all filters of the patch embedding together:

    cosine        of the view with that of the whole image, over all patches, black ones included
    auc           how well the size of the view, patch by patch, tells the object from the rest, among the
                  patches that are left: 0.5 where it says nothing of the object
    auc_turned    the same of the object turned by half a turn, at its own patches: what lying together gives
    from_object   of what came from patches, the share that came from those of the object that are left
    from_dropped  the share that came from black ones
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vitscope.arrays import Pixels
from vitscope.data.foregrounds import shares
from vitscope.data.source import ImageBatch
from vitscope.errors import Unsuited
from vitscope.flow import rolling_sites, rollout
from vitscope.interventions.patches import DroppedPatches
from vitscope.meters.localisation import soft_auc
from vitscope.meters.reading import Array
from vitscope.models.vision_model import VisionModel
from vitscope.studies.view_levels import drawn_levels
from vitscope.views import Filters, patch_filters

MEASURES = ("cosine", "auc", "auc_turned", "from_object", "from_dropped")
"""What is kept of every image, level and token, in order."""
TOKENS = ("cls", "object")
"""Whose views are compared, in order."""


@dataclass(frozen=True)
class DroppedBatch(ImageBatch):
    """Images without some of their patches, beside what they were.

    Attributes:
        whole: the same images with all patches.
        salient: which patches are on the object.
        left: which patches are left.
        flow: attention rolled out in the whole images, at the levels that are compared.
    """

    whole: Pixels = field(kw_only=True)
    salient: Bool[Tensor, "image place"] = field(kw_only=True)
    left: Bool[Tensor, "image place"] = field(kw_only=True)
    flow: Float[Tensor, "level image query key"] = field(kw_only=True)


class WholeImages:
    """What the views of whole images are made of; a model is asked once for each batch, however many drops
    there are.

    Args:
        model: one with patch filters, whose attention can be rolled out.
        levels: how many levels are compared, the first and the last among them.

    Raises:
        Unsuited: it is none.
    """

    def __init__(self, model: VisionModel, *, levels: int) -> None:
        self.model, self.filters = model, patch_filters(model)
        self.sites = rolling_sites(model)
        if self.sites[0].grid != self.filters.grid:
            raise Unsuited(f"attention of {model.name} is not among the patches of its embedding")
        self.levels = drawn_levels(len(self.sites) + 1, levels)
        self._last: tuple[tuple[str, ...], Tensor] = ((), torch.empty(0))

    def flow(self, batch: ImageBatch) -> Float[Tensor, "level image query key"]:
        """Attention rolled out at the levels that are compared."""
        if self._last[0] != batch.ids:
            self._last = batch.ids, rollout(self.model, batch.pixels.to(self.model.device))[self.levels]
        return self._last[1]

    def under(self, drop: DroppedPatches | None) -> BesideWhole:
        """An intervention that drops patches, or none, and brings what images were before."""
        return BesideWhole(self, drop)


@dataclass(frozen=True)
class BesideWhole:
    """Drops patches, and brings what the images were. See `WholeImages.under`.

    Attributes:
        images: knows them.
        drop: what is dropped; None leaves the images whole. What is salient is their foreground.
    """

    images: WholeImages
    drop: DroppedPatches | None

    def on_view(self, batch: ImageBatch) -> DroppedBatch:
        """The batch without these patches, beside what it was."""
        grid, shown = self.images.filters.grid, torch.ones_like(batch.pixels)
        inside = shown[:, 0] if batch.foreground is None else batch.foreground
        seen = batch
        if self.drop:
            seen = self.drop.on_view(batch)
            shown = self.drop(shown, ids=batch.ids, foreground=batch.foreground)
        return DroppedBatch(
            batch.ids,
            batch.paths,
            seen.pixels,
            batch.labels,
            seen.foreground,
            whole=batch.pixels,
            salient=shares(inside.cpu(), grid) > 0.5,
            left=shares(shown[:, 0].cpu(), grid) > 0.5,
            flow=self.images.flow(batch),
        )


def compared(
    filters: Filters, batch: DroppedBatch, flow: Float[Tensor, "level image query key"]
) -> Float[Array, "image level token measure"]:
    """The measures of one batch.

    Args:
        filters: of the model.
        batch: images without some patches, and what they were.
        flow: attention rolled out in the images as they are, at the levels of `batch.flow`.
    """
    whole, both, now = (
        filters.products(*pair).cpu().double()
        for pair in ((batch.whole, batch.whole), (batch.whole, batch.pixels), (batch.pixels, batch.pixels))
    )
    inside, left = batch.salient.double(), batch.left.double()
    before, after = (_held(one.cpu().double(), inside * left) for one in (batch.flow, flow))
    lengths = [(share**2 * size).sum(-1) for share, size in ((before, whole), (after, now))]
    cosine = (before * after * both).sum(-1) / (lengths[0] * lengths[1]).sqrt()
    turned = inside.flip(-1)
    maps = [after * now.sqrt(), _held(flow.cpu().double(), turned * left) * now.sqrt()]
    told = [_told(one, figure, left) for one, figure in zip(maps, (inside, turned), strict=True)]
    came = [(after * part).sum(-1) / after.sum(-1) for part in (inside * left, 1 - left)]
    found: Array = torch.stack([cosine, *told, *came]).numpy()
    return found.transpose(3, 1, 2, 0)


def _held(
    flow: Float[Tensor, "level image query key"], tokens: Float[Tensor, "image place"]
) -> Float[Tensor, "level token image place"]:
    """What came from every patch, of CLS and on average of some patches; at level 0 from all alike."""
    prefix = flow.shape[-1] - tokens.shape[-1]
    patches = flow[..., prefix:]
    mean = torch.einsum("liqk,iq->lik", patches[:, :, prefix:], tokens / tokens.sum(-1, keepdim=True))
    cls = patches[:, :, 0] if prefix else torch.full_like(mean, torch.nan)
    found = torch.stack([cls, mean], dim=1)
    found[0] = 1.0
    return found


def _told(
    maps: Float[Tensor, "level token image place"],
    figure: Float[Tensor, "image place"],
    left: Float[Tensor, "image place"],
) -> Float[Tensor, "level token image"]:
    """How well maps tell a figure from the rest, of the places that are left."""
    found = torch.full(maps.shape[:-1], torch.nan, dtype=torch.float64)
    for image, kept in enumerate(left > 0):
        rows = maps[:, :, image, kept].flatten(0, 1).numpy()
        inside = np.broadcast_to(figure[image, kept].numpy(), rows.shape)
        if rows.size:
            found[:, :, image] = torch.from_numpy(soft_auc(rows, inside)).view(maps.shape[:2])
    return found
