"""Pictures that are shown coloured and rolled, in one go."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

Rolls: TypeAlias = Int[np.ndarray[Any, Any], "unit rolled 2"]
"""By how many rows and columns each copy of a unit's picture is rolled, or once for all copies."""


def shown(
    base: Float[Tensor, "unit shared rgb row column"],
    gain: Float[Tensor, "unit copy rgb"],
    offset: Float[Tensor, "unit copy rgb"],
    rolls: Rolls,
) -> Float[Tensor, "unit copy rgb row column"]:
    """gain * base + offset, rolled; differentiable once, by the base alone.

    Args:
        base: of each unit one picture, or one for each copy.
        gain, offset: of every copy's channels.
        rolls: by how many rows and columns.
    """
    found: Tensor = _Shown.apply(base, gain, offset, rolls)
    return found


class _Shown(torch.autograd.Function):
    """A picture is read and written piece by piece while it is in the cache; by whole pictures, every roll,
    product and sum goes through memory, which took as long as a block of a small model."""

    @staticmethod
    def forward(ctx: Any, base: Tensor, gain: Tensor, offset: Tensor, rolls: Rolls) -> Tensor:
        ctx.save_for_backward(gain)
        ctx.rolls, ctx.shape = rolls, base.shape
        found = base.new_empty(*gain.shape[:2], *base.shape[2:])
        for unit, copy, here, there in _pieces(base.shape, gain.shape[1], rolls):
            source, piece = _one(base, unit, copy)[here], found[unit, copy][there]
            torch.mul(source, gain[unit, copy, :, None, None], out=piece).add_(
                offset[unit, copy, :, None, None]
            )
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None, None, None]:
        (gain,) = ctx.saved_tensors
        found = slope.new_zeros(ctx.shape)
        for unit, copy, here, there in _pieces(ctx.shape, gain.shape[1], ctx.rolls):
            piece = _one(found, unit, copy)[here]
            piece.addcmul_(slope[unit, copy][there], gain[unit, copy, :, None, None])
        return found, None, None, None


_Window: TypeAlias = tuple[slice, slice, slice]
"""Channels, rows and columns of a picture."""


def _pieces(shape: torch.Size, copies: int, rolls: Rolls) -> Iterator[tuple[int, int, _Window, _Window]]:
    """Of every copy of every unit the pieces that move as one: where from, where to."""
    for unit in range(shape[0]):
        for copy in range(copies):
            down, across = rolls[unit, min(copy, rolls.shape[1] - 1)].tolist()
            for rows in _halves(shape[-2], down):
                for columns in _halves(shape[-1], across):
                    here, there = zip(rows, columns, strict=True)
                    yield unit, copy, (slice(None), *here), (slice(None), *there)


def _halves(length: int, roll: int) -> list[tuple[slice, slice]]:
    """The one or two runs of an axis that a roll keeps together: where from, where to."""
    roll %= length
    stay = length - roll
    kept = [(slice(0, stay), slice(roll, length))]
    return kept if roll == 0 else [*kept, (slice(stay, length), slice(0, roll))]


def _one(pictures: Tensor, unit: int, copy: int) -> Tensor:
    """The picture that a copy shows."""
    return pictures[unit, min(copy, pictures.shape[1] - 1)]
