"""What a dream pays for: penalties on the augmented images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from vitscope.arrays import Scores
from vitscope.dream.augment import Views

Prices = Float[Tensor, "unit copy"]


@runtime_checkable
class Penalty(Protocol):
    """A price per copy, to be subtracted from its score."""

    def price(self, views: Views) -> Prices:
        """What each copy pays, weight included."""
        ...


@dataclass(frozen=True)
class TotalVariation:
    """`weight` times the total variation of an image.

    It is measured on the augmented image, so a colour shift that stretches the colours raises it.
    """

    weight: float

    def price(self, views: Views) -> Prices:
        """What each copy pays. Stretching colours stretches it, so it is measured before they are."""
        return self.weight * (roughness(views.base) * views.gain.abs()).mean(dim=-1)


def total_variation(images: Float[Tensor, "image rgb row column"]) -> Scores:
    """How rough each image is: zero when it is constant, and proportional to its contrast.

    Four difference images (vertical, horizontal, both diagonals); the Euclidean norm of each over its rows
    and columns, per channel; summed over the four and averaged over channels. Neither squared nor divided
    by the number of pixels. Averaged over images it is the penalty of Ghiasi et al. 2022
    (`loss/regularizers/image.py` of their code).
    """
    return roughness(images).mean(dim=-1)


def roughness(images: Float[Tensor, "*image rgb row column"]) -> Float[Tensor, "*image rgb"]:
    """The total variation of each channel."""
    differences = (
        images[..., 1:, :] - images[..., :-1, :],
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, 1:] - images[..., :-1, :-1],
        images[..., 1:, :-1] - images[..., :-1, 1:],
    )
    return torch.stack([vector_norm(d, dim=(-2, -1)) for d in differences]).sum(dim=0)
