"""What a dream pays for: penalties on the augmented images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from vitscope.arrays import Scores
from vitscope.dream.augment import Views
from vitscope.dream.rolls import Rolls

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
        return self.weight * (roughness(views.base, views.rolls) * views.gain.abs()).mean(dim=-1)


def total_variation(images: Float[Tensor, "image rgb row column"]) -> Scores:
    """How rough each image is: zero when it is constant, and proportional to its contrast.

    Four difference images (vertical, horizontal, both diagonals); the Euclidean norm of each over its rows
    and columns, per channel; summed over the four and averaged over channels. Neither squared nor divided
    by the number of pixels. Averaged over images it is the penalty of Ghiasi et al. 2022
    (`loss/regularizers/image.py` of their code).
    """
    unrolled = np.zeros((len(images), 1, 2), dtype=np.int64)
    return rearrange(roughness(images[:, None], unrolled), "image 1 rgb -> image rgb").mean(dim=-1)


def roughness(
    images: Float[Tensor, "unit shared rgb row column"], rolls: Rolls
) -> Float[Tensor, "unit copy rgb"]:
    """The total variation of each channel, once the images are rolled; differentiable once.

    Rolling moves the edges, across which neighbours are not compared. So the differences are taken once, as
    if images went on round the edges, and of every copy those that are across are left out.
    """
    copies = max(images.shape[1], rolls.shape[1])
    if images.shape[1] > 1:  # then each copy has an image of its own, and is the only one to show it
        rolls = np.broadcast_to(rolls, (len(rolls), copies, 2)).reshape(-1, 1, 2)
    found: Tensor = _Roughness.apply(images.flatten(0, 1), rolls)
    return found.reshape(len(images), copies, -1)


TOWARDS = ((1, 0), (0, 1), (1, 1), (1, -1))
"""Which neighbours are compared: so many rows and columns further."""

SQUARES = "image rgb row column, image copy row, image copy column -> image copy rgb"
"""Squares summed over the rows and columns that are inside a copy."""

WEIGHTS = "image copy rgb, image copy row, image copy column -> image rgb row column"
"""What copies ask of every pixel, where it is inside them."""


class _Roughness(torch.autograd.Function):
    """With its slope written out: the differences are kept, and one buffer is filled."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, rolls: Rolls) -> Tensor:
        differences = [
            torch.roll(images, (-down, -across), dims=(-2, -1)) - images for down, across in TOWARDS
        ]
        ctx.inside = [_inside(images, rolls, towards) for towards in TOWARDS]
        norms = [
            einsum(change.square(), rows, columns, SQUARES).sqrt()
            for change, (rows, columns) in zip(differences, ctx.inside, strict=True)
        ]
        ctx.save_for_backward(*differences, *norms)
        return torch.stack(norms).sum(dim=0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        differences, norms = ctx.saved_tensors[:4], ctx.saved_tensors[4:]
        found = torch.zeros_like(differences[0])
        for towards, (rows, columns), difference, norm in zip(
            TOWARDS, ctx.inside, differences, norms, strict=True
        ):
            share = torch.where(norm > 0, slope / norm, 0.0)  # a flat image has no direction to go
            weight = einsum(share, rows, columns, WEIGHTS)
            change = difference * weight
            found += torch.roll(change, towards, dims=(-2, -1)) - change
        return found, None


def _inside(
    images: Float[Tensor, "image rgb row column"], rolls: Rolls, towards: tuple[int, int]
) -> tuple[Float[Tensor, "image copy row"], Float[Tensor, "image copy column"]]:
    """Of every copy the rows, and the columns, that have such a neighbour in the rolled image: 1, and 0 for
    the one that is across the edge."""
    found = []
    for length, step, shifts in zip(images.shape[-2:], towards, np.moveaxis(rolls, -1, 0), strict=True):
        inside = images.new_ones(*shifts.shape, length)
        if step:
            last = torch.from_numpy(((length - 1 if step > 0 else 0) - shifts) % length)
            inside.scatter_(-1, last[..., None].to(images.device), 0.0)
        found.append(inside)
    return found[0], found[1]
