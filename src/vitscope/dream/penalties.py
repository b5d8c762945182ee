"""What a dream pays for: penalties on the augmented images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor
from torch.linalg import vector_norm

from vitscope.arrays import Scores

Images = Float[Tensor, "image rgb row column"]


@runtime_checkable
class Penalty(Protocol):
    """A price per image, to be subtracted from its score."""

    def price(self, images: Images) -> Scores:
        """What each image pays, weight included."""
        ...


@dataclass(frozen=True)
class TotalVariation:
    """`weight` times the total variation of an image.

    It is measured on the augmented image, so a colour shift that stretches the colours raises it.
    """

    weight: float

    def price(self, images: Images) -> Scores:
        """What each image pays."""
        return self.weight * total_variation(images)


def total_variation(images: Images) -> Scores:
    """How rough each image is: zero when it is constant, and proportional to its contrast.

    Four difference images (vertical, horizontal, both diagonals); the Euclidean norm of each over its rows
    and columns, per channel; summed over the four and averaged over channels. Neither squared nor divided
    by the number of pixels. Averaged over images it is the penalty of Ghiasi et al. 2022
    (`loss/regularizers/image.py` of their code).
    """
    differences = (
        images[..., 1:, :] - images[..., :-1, :],
        images[..., :, 1:] - images[..., :, :-1],
        images[..., 1:, 1:] - images[..., :-1, :-1],
        images[..., 1:, :-1] - images[..., :-1, 1:],
    )
    return sum(
        (vector_norm(d, dim=(-2, -1)).mean(dim=1) for d in differences), start=images.new_zeros(len(images))
    )
