"""What attention flow says level by level: how far it reaches, and whether it keeps to the object."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vitscope.meters.localisation import LEAST, soft_auc
from vitscope.meters.reading import Array

LEVELS = (
    *("own", "effective", "effective_cls", "prefix"),
    *("from_object", "from_object_turned", "from_background", "from_cls"),
)
"""What is told of every level, in order."""
GOOD = 0.75
"""A filter tells the object from the rest where its AUC is at least this, or at most 1 less this (our
threshold: the paper judges by eye)."""


def of_flow(
    flow: Float[Tensor, "level image head query key"],
    inside: Float[Tensor, "image place"],
    *,
    prefix: int,
) -> Float[Array, "image level measure"]:
    """The measures of `LEVELS`, of each image, averaged over heads.

    Args:
        flow: as `flow.rolled` gives it.
        inside: the share of foreground in every patch, NaN of an image where nothing is known of it.
        prefix: tokens before the patches.

    Returns:
        own: the share that a patch keeps of itself, mean over patches.
        effective: the share of all patches that a patch effectively holds: exp(entropy) / patches.
        effective_cls: the same of CLS; NaN at level 0 and without CLS.
        prefix: the share that came from prefix tokens, mean over patches.
        from_object: of what came from patches, the share that came from the object, mean over the patches
            of the object; a patch counts by its share of foreground.
        from_object_turned: the same of the object turned by half a turn: what a region of its shape and size
            gets by lying together.
        from_background: as from_object, mean over the patches of the background.
        from_cls: the same at CLS; NaN at level 0 and without CLS.
    """
    patches = flow.double()[..., prefix:]
    mass = patches.sum(-1, keepdim=True)
    shares = patches / mass  # CLS has none at level 0: NaN
    own = patches[..., prefix:, :].diagonal(dim1=-2, dim2=-1).mean(-1)
    effective = torch.special.entr(shares).sum(-1).exp() / shares.shape[-1]
    lost = 1 - mass[..., prefix:, 0].mean(-1)
    known = inside.double()
    known = torch.where(_usable(known)[:, None], known, torch.nan)
    turned = known.flip(-1)
    on, on_turned = (torch.einsum("lihqk,ik->lihq", shares, mask) for mask in (known, turned))
    sides = [
        (flowed[..., prefix:] * mask[:, None]).sum(-1) / mask.sum(-1)[:, None]
        for flowed, mask in ((on, known), (on_turned, turned), (on, 1 - known))
    ]
    none = torch.full_like(own, torch.nan)
    cls, spread = (on[..., 0], effective[..., 0]) if prefix else (none, none)
    within = effective[..., prefix:].mean(-1)
    found: Array = torch.stack([own, within, spread, lost, *sides, cls]).mean(-1).numpy()
    return np.moveaxis(found, 0, -1).swapaxes(0, 1)


def aucs(
    values: Float[Tensor, "image place filter"], inside: Float[Tensor, "image place"]
) -> Float[Array, "side image filter"]:
    """How well each filter's values tell the object from the rest, against the foreground and against the
    same turned by half a turn. In [0, 1], equal values counting half, so that a map that is the same
    everywhere has 0.5; NaN for an image without foreground and background."""
    found = np.full((2, len(values), values.shape[-1]), np.nan)
    known = inside.double()
    for image in torch.nonzero(_usable(known)).flatten().tolist():
        maps = values[image].T.double().cpu().numpy()
        own = known[image].numpy()
        for side, mask in enumerate((own, own[::-1])):
            found[side, image] = soft_auc(maps, np.broadcast_to(mask, maps.shape))
        found[:, image] = np.where(np.isnan(found[:, image]), 0.5, found[:, image])
    return found


def good(found: Float[Array, "*any filter"]) -> Array:
    """Which filters tell the object from the rest; never where there is no AUC."""
    return np.asarray(abs(found - 0.5) >= GOOD - 0.5)


def drawn_levels(levels: int, count: int = 4) -> list[int]:
    """The levels that figures show: the first, the last and some between, evenly."""
    return sorted({round(place) for place in np.linspace(0, levels - 1, count)})


def clearest(found: Float[Array, " filter"]) -> int:
    """The filter with the highest AUC on one image; the first where nothing is known of its object."""
    return int(np.nan_to_num(found, nan=-1.0).argmax())


def foremost(values: Shaped[Tensor, " place"]) -> int:
    """The place with the largest value; of several the middle one, as the first is often a corner."""
    found = torch.nonzero(values == values.max()).flatten()
    return int(found[len(found) // 2])


def _usable(inside: Float[Tensor, "image place"]) -> Tensor:
    """Which images have a foreground that is neither nothing nor everything."""
    return torch.minimum(inside.sum(-1), (1 - inside).sum(-1)) > LEAST
