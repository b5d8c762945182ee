"""Which patches matter: those of the annotated object, or those that a model attends to.

What is salient is marked as the foreground of a view, patch by patch; `drop_patches(among="foreground")` and
`"background"` then drop among the salient patches and among all others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from vitscope.arrays import Pixels
from vitscope.data.foregrounds import shares
from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue, Unsuited
from vitscope.flow import attention_view
from vitscope.interventions.patches import COVERED, grid_of
from vitscope.models.vision_model import Site, VisionModel
from vitscope.tap import read

MASS = 0.6
"""Salient are the fewest patches that get so much of the attention that goes to patches (Caron et al. 2021,
"Emerging Properties in Self-Supervised Vision Transformers", figure 4)."""


class Attention:
    """What a model attends to: in its last block with attention, by CLS, or by all places without one.

    It is asked once for each image, as others show it: a byte a place and image is kept.

    Args:
        model: one with attention.

    Raises:
        Unsuited: it has none.
    """

    def __init__(self, model: VisionModel) -> None:
        self.model = model
        self._site = attention_site(model)
        self._known: dict[str, Bool[Tensor, "high wide"]] = {}

    def of(self, batch: ImageBatch) -> Bool[Tensor, "image high wide"]:
        """The places that are attended to, on the grid of the keys."""
        new = [place for place, name in enumerate(batch.ids) if name not in self._known]
        if new:
            marked = attended(self._mass(batch.pixels[new]))
            self._known |= {batch.ids[place]: one for place, one in zip(new, marked, strict=True)}
        return torch.stack([self._known[name] for name in batch.ids])

    def _mass(self, pixels: Pixels) -> Float[Tensor, "image high wide"]:
        """The mean over heads, of a view of any size."""
        size = self.model.preprocessing.size
        if tuple(pixels.shape[2:]) != size:
            pixels = interpolate(pixels, size, mode="bilinear", antialias=True)
        with torch.no_grad():
            weights = read(self.model, pixels.to(self.model.device), [self._site])[self._site.name]
        return attention_view(self._site, weights).mean(1).double().cpu()


def attention_site(model: VisionModel) -> Site:
    """The last site of attention weights.

    Raises:
        Unsuited: the model has none.
    """
    found = [site for site in model.sites if site.keys and site.keys.grid != (1, 1)]
    if not found:
        raise Unsuited(f"{model.name} has no attention: give one such as vit_tiny_patch16_224")
    return found[-1]


def attended(mass: Float[Tensor, "image high wide"]) -> Bool[Tensor, "image high wide"]:
    """The fewest places that together have `MASS` of an image's attention, the most attended first."""
    flat = mass.flatten(1)
    values, order = flat.sort(dim=1, descending=True, stable=True)
    before = values.cumsum(1) - values
    taken = before < MASS * values.sum(1, keepdim=True)
    found = torch.zeros_like(taken).scatter(1, order, taken)
    return found.view(mass.shape)


@dataclass(frozen=True)
class Salient:
    """Marks the salient patches of each view as its foreground, whole patches of 1 and 0.

    A patch is salient where more than 0.15 of it is on the annotated object, or, where nothing is known of
    the object or attention is asked for always, on what is attended to.

    Attributes:
        patch: side of a patch, in pixels of the view.
        attention: what is attended to; None where all images have annotations.
        always: whether attention counts for annotated images, too.
    """

    patch: int
    attention: Attention | None
    always: bool = False

    def on_view(self, batch: ImageBatch) -> ImageBatch:
        """The batch, with that foreground.

        Raises:
            BadValue: an image has no annotation and there is no attention, or patches do not tile the view.
        """
        grid = grid_of(batch.pixels, self.patch)
        known = torch.full((len(batch), *batch.pixels.shape[2:]), torch.nan)
        if batch.foreground is not None and not self.always:
            known = batch.foreground.cpu()
        marked = shares(known.double(), grid) > COVERED  # NaN is not
        unknown = known.isnan().flatten(1).any(1)
        if unknown.any():
            if self.attention is None:
                raise BadValue("what is salient needs boxes, masks or a model with attention")
            seen = shares(self.attention.of(batch).double(), grid) > COVERED
            marked[unknown] = seen[unknown]
        whole = repeat(
            marked.view(len(batch), *grid).float(),
            "image row column -> image (row tall) (column wide)",
            tall=self.patch,
            wide=self.patch,
        )
        return replace(batch, foreground=whole)
