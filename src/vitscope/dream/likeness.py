"""Objectives that compare with a natural image: inversion, caricature, and staying near it.

The reference's activations are computed when an objective is bound. Where a recipe shows augmented copies,
the reference is shown beside them under the same augmentations (`ascent.py`), as lucid and faccent do by
putting it into the batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from vitscope.address import Address
from vitscope.arrays import Activations, Scores, widened
from vitscope.dream.objectives import Objective, of, without_unit
from vitscope.dream.pictures import ImageLike, Picture, picture
from vitscope.dream.readouts import Reading, on_grid
from vitscope.errors import BadAddress, BadValue
from vitscope.models.vision_model import VisionModel
from vitscope.tap import read

FLOOR = 0.1
"""Cosines below it count as this (lucid `objectives._dot_cossim`, Horama `losses.dot_cossim`): otherwise a
canvas that begins pointing away would be pushed further."""

POWER = 2.0
"""Of the cosine in a caricature (Horama `losses.dot_cossim`; lucid leaves it to the caller)."""


@dataclass(frozen=True)
class Compared(Reading):
    """Activations compared with those of a picture.

    Attributes:
        shown: the picture.
        reference: its activations: one image, or one for each image that is read.
    """

    shown: Picture
    reference: Activations = field(compare=False, repr=False)

    @property
    def picture(self) -> Picture | None:
        """The image it compares with."""
        return self.shown

    def beside(self, reference: Activations) -> Reading:
        """The same, compared with these activations of its picture."""
        return replace(self, reference=reference)

    def _both(self, activations: Activations) -> tuple[Tensor, Tensor]:
        mine = widened(activations)
        return mine, self.reference.to(mine).expand(len(mine), -1, -1)


@dataclass(frozen=True)
class Apart(Compared):
    """The distance between all activations, places and units alike.

    Attributes:
        relative: whether it is counted in norms of the reference's activations.
    """

    relative: bool = False

    def read(self, activations: Activations) -> Scores:
        """The Frobenius norm of the difference."""
        mine, other = self._both(activations)
        distances = vector_norm(mine - other, dim=(1, 2))
        scores: Tensor = distances / vector_norm(other, dim=(1, 2)) if self.relative else distances
        return scores


@dataclass(frozen=True)
class Along(Compared):
    """The projection on the picture's activations, less what points elsewhere.

    Attributes:
        power: of the cosine similarity that it is multiplied by.
    """

    power: float = POWER

    def read(self, activations: Activations) -> Scores:
        """The mean dot product over the grid, times a power of the cosine similarity over all of it."""
        mine, other = (on_grid(self.site, each) for each in self._both(activations))
        dots = (mine * other).sum(dim=2)
        norms = vector_norm(mine, dim=(1, 2)) * vector_norm(other, dim=(1, 2))
        cosines = dots.sum(dim=1) / norms.clamp(min=torch.finfo(norms.dtype).tiny)
        scores: Tensor = dots.mean(dim=1) * cosines.clamp(min=FLOOR) ** self.power
        return scores


@dataclass(frozen=True)
class Distance:
    """How far a site's activations are from those of a picture."""

    address: Address
    shown: Picture
    relative: bool = False

    def resolve(self, model: VisionModel) -> Reading:
        """Compute the picture's activations."""
        site, reference = model.site(self.address), _reference(model, self.address, self.shown)
        return Apart(site, self.shown, reference, self.relative)

    def __repr__(self) -> str:
        return f"distance({self.address}, {self.shown}{', relative' if self.relative else ''})"


@dataclass(frozen=True)
class Caricature:
    """How much a site's activations are those of a picture, and more of them."""

    address: Address
    shown: Picture
    power: float

    def resolve(self, model: VisionModel) -> Reading:
        """Compute the picture's activations."""
        site, reference = model.site(self.address), _reference(model, self.address, self.shown)
        return Along(site, self.shown, reference, self.power)

    def __repr__(self) -> str:
        return f"caricature({self.address}, {self.shown}, power {self.power:g})"


def distance(site: str | Address, image: ImageLike, *, relative: bool = False) -> Objective:
    """How far all activations of a site, places and units alike, are from those of an image: the Frobenius
    norm of the difference. Subtract it to stay near an image.

    Args:
        site: where they are compared.
        image: a file, a Pillow image or pixels "rgb row column" in [0, 1]; shown as the model's own
            evaluation transform shows it.
        relative: whether it is counted in norms of the image's activations: 0 is the image itself, 1 is as
            far from it as nothing at all.

    Raises:
        BadAddress: the text is not an address, or names a unit or a place.
        MissingPath, BadValue: there is no such image.

    >>> unit("blocks.5.ffn:40") - 0.1 * distance("blocks.1", "dog.jpg")
    1.0*unit(blocks.5.ffn:40) - 0.1*distance(blocks.1, image #3f8a11c2)
    """
    return of(Distance(_whole(site), picture(image), relative))


def inversion(site: str | Address, image: ImageLike) -> Objective:
    """An image with the same activations at a site: minus their `distance` (Ghiasi et al. 2022, their code's
    `it16/reconstruct.py`).

    They add a total variation of weight 1 and use no augmentation: for `GHIASI_2022` that is
    `.replace(copies=1, augmentations=(), penalties=(TotalVariation(weight=1.0),))`.

    Raises:
        BadAddress, MissingPath, BadValue: as of `distance`.
    """
    return -distance(site, image)


def caricature(site: str | Address, image: ImageLike, *, power: float | int = POWER) -> Objective:
    """An image that has what a site sees in another, only more of it: the dot product with that image's
    activations, averaged over the grid, times a power of their cosine similarity (lucid `_dot_cossim`, Horama
    `dot_cossim`).

    Args:
        site: where they are compared.
        image: a file, a Pillow image or pixels "rgb row column" in [0, 1].
        power: how much pointing elsewhere costs; 0 leaves the plain dot product.

    Raises:
        BadAddress: the text is not an address, or names a unit or a place.
        MissingPath, BadValue: there is no such image, or the power is negative.
    """
    if not power >= 0:
        raise BadValue(f"the power of a caricature must be at least 0, not {power}")
    return of(Caricature(_whole(site), picture(image), float(power)))


def _whole(site: str | Address) -> Address:
    address = without_unit(site, "images are compared in all units of a site")
    if address.place is not None:
        raise BadAddress(f"images are compared at all places of a site: write {address.site!r}")
    return address


def _reference(model: VisionModel, address: Address, shown: Picture) -> Float[Tensor, "1 place unit"]:
    site = model.site(address)
    with torch.no_grad():
        return read(model, shown.fitted(model.preprocessing), [site])[site.name]
