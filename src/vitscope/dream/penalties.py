"""What a dream pays for: penalties on the augmented images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
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
    """The total variation of each channel; differentiable once."""
    found: Tensor = _Roughness.apply(images)
    return found


class _Roughness(torch.autograd.Function):
    """With its slope written out: one buffer is filled, where torch fills eight, in a third of the time."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        differences = [ahead - behind for ahead, behind in _neighbours(images)]
        norms = [vector_norm(difference, dim=(-2, -1)) for difference in differences]
        ctx.save_for_backward(*differences, *norms)
        return torch.stack(norms).sum(dim=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        differences, norms = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        down, across = differences[:2]
        found: Tensor = down.new_zeros(*across.shape[:-1], down.shape[-1])
        for (ahead, behind), difference, norm in zip(_neighbours(found), differences, norms, strict=True):
            share = torch.where(norm > 0, slope / norm, 0.0)  # a flat image has no direction to go
            change = difference * share[..., None, None]
            ahead.add_(change)
            behind.sub_(change)
        return found


def _neighbours(images: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Views of every pixel that has a neighbour below, to the right, and on both diagonals; and of these."""
    return (
        (images[..., 1:, :], images[..., :-1, :]),
        (images[..., :, 1:], images[..., :, :-1]),
        (images[..., 1:, 1:], images[..., :-1, :-1]),
        (images[..., 1:, :-1], images[..., :-1, 1:]),
    )
