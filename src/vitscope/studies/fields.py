"""Effective receptive fields: how much every pixel of an image weighs in the centre place of a site.

The field is the mean over images and channels of the size of the gradient of a channel at the centre place,
summed over colours (Luo et al. 2016; Raghu et al. 2021, section 4, Figure 6), by pixels in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vitscope.arrays import Activations, Pixels
from vitscope.meters.reading import Array
from vitscope.models.vision_model import Site, VisionModel
from vitscope.tap import tap

MAP = 56
"""Cells of a map along each axis, at most."""


@dataclass(frozen=True, eq=False)
class Field:
    """The receptive field of the centre place of one site.

    Attributes:
        site: the site.
        mass: of every pixel, summing to 1; all NaN where no pixel has any weight.
    """

    site: Site
    mass: Float64[Array, "row column"]

    @property
    def cell(self) -> tuple[slice, slice]:
        """The pixels of the place itself: those whose centres lie in its cell of the grid."""
        slices = []
        for cells, length in zip(self.site.grid or (1, 1), self.mass.shape, strict=True):
            start, stop = ((cells // 2 + step) * length / cells - 0.5 for step in (0, 1))
            slices.append(slice(max(0, int(np.ceil(start))), int(np.ceil(stop))))
        return slices[0], slices[1]

    @property
    def centre_share(self) -> float:
        """The share of the mass on the place itself, 0 to 1."""
        return float(self.mass[self.cell].sum())

    @property
    def effective_share(self) -> float:
        """Pixels that count, as a share of all: exp of the entropy of the mass, over their number."""
        known = self.mass[self.mass > 0]
        return float(np.exp(-(known * np.log(known)).sum()) / self.mass.size) if known.size else float("nan")

    def radius(self, share: float) -> float:
        """The least radius around the centre of the place that holds so much of the mass, in pixels."""
        if not np.isfinite(self.mass).all():
            return float("nan")
        away = self._away().ravel()
        order = np.argsort(away, kind="stable")
        within = np.cumsum(self.mass.ravel()[order])
        place = min(int(np.searchsorted(within, share * within[-1] * (1 - 1e-12))), len(order) - 1)
        return float(away[order[place]])

    def picture(self) -> Float64[Array, "row column"]:
        """The mass in cells of several pixels, at most `MAP` along each axis; it sums to 1."""
        rows, columns = (
            max(count for count in range(1, MAP + 1) if not length % count) for length in self.mass.shape
        )
        tall, wide = self.mass.shape[0] // rows, self.mass.shape[1] // columns
        cells: Array = self.mass.reshape(rows, tall, columns, wide).sum(axis=(1, 3))
        return cells

    def _away(self) -> Float64[Array, "row column"]:
        """From the centre of every pixel to that of the place."""
        axes = [
            np.arange(length) + 0.5 - (cells // 2 + 0.5) * length / cells
            for cells, length in zip(self.site.grid or (1, 1), self.mass.shape, strict=True)
        ]
        found: Array = np.hypot(axes[0][:, None], axes[1])
        return found


def weights(
    model: VisionModel, pixels: Pixels, channels: Mapping[Site, Sequence[int]], *, summed: bool = False
) -> dict[str, Float64[Tensor, "image row column"]]:
    """How much every pixel weighs in the centre place of each site, of every image by itself.

    Costs one forward pass, and a backward pass for each channel of each site; summed, one for each site.

    Args:
        model: the model.
        pixels: images in [0, 1].
        channels: which units of which sites; the mean is over them.
        summed: whether the gradient is that of the sum of these channels, in which they cancel one another:
            cheap, and another thing. Without, it is the mean of the sizes of their own gradients.
    """
    shown = pixels.detach().clone().requires_grad_(True)
    kept: dict[str, Float[Tensor, "image unit"]] = {}

    def keep(site: Site, activations: Activations) -> None:
        kept[site.name] = activations[:, site.place_index("center"), list(channels[site])].clone()

    with torch.enable_grad(), tap(model, list(channels), on_read=keep) as run:
        run(shown)
    found = {}
    for name, units in kept.items():
        targets = [units.sum()] if summed else list(units.sum(0))
        total = torch.zeros_like(shown[:, 0], dtype=torch.float64, device="cpu")
        for target in targets:
            (gradient,) = torch.autograd.grad(target, shown, retain_graph=True)
            total += gradient.abs().double().sum(1).cpu()
        found[name] = total / len(targets)
    return found


def field_of(site: Site, total: Float64[Tensor, "row column"]) -> Field:
    """A field from the sum of weights over images."""
    mass = total.numpy()
    return Field(site, mass / mass.sum() if mass.sum() > 0 else np.full(mass.shape, np.nan))
