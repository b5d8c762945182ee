"""Random changes to a canvas, drawn anew for every step, so that a dream excites its unit robustly.

All random numbers are drawn per unit, so a unit's dream does not depend on its batch mates, their order or
the worker. Every augmentation keeps the shape of the views; `Crops` alone makes the copies, out of a larger
canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from vitscope.dream.numbers import Numbers
from vitscope.dream.rolls import Rolls, shown

Draws: TypeAlias = npt.NDArray[Any]
"""Random numbers: "copy ..." as drawn for one unit, "unit copy ..." as applied."""

Canvases: TypeAlias = Float[Tensor, "unit rgb height width"]
"""One image per unit, in [0, 1], not yet at the size the model wants."""

GREY = 0.5
"""What lies outside a canvas: lucid pads with it (`transform.standard_transforms`)."""


@dataclass(frozen=True)
class Moment:
    """When and for what an augmentation is drawn.

    Attributes:
        step, steps: which step of how many, from 0.
        copies: how many copies of each canvas the model sees.
        size: rows and columns of what the model sees, in pixels.
    """

    step: int
    steps: int
    copies: int
    size: tuple[int, int]


Colour: TypeAlias = Float[Tensor, "unit copy rgb"]
"""A number per copy and channel."""


@dataclass(frozen=True)
class Views:
    """The augmented copies of each unit's canvas that the model is shown: gain * base + offset, rolled.

    Colours and rolls are kept apart from what they change. So several changes of colour cost one, all is done
    in one go, and what copies share (the norms of a penalty) is done once and not once a copy.

    Attributes:
        base: of each unit one image, or one for each copy.
        gain, offset: how each copy's channels are stretched and shifted.
        rolls: by how many rows and columns each copy is rolled, or all copies of a unit alike.
    """

    base: Float[Tensor, "unit shared rgb row column"]
    gain: Colour
    offset: Colour
    rolls: Rolls

    @classmethod
    def of(cls, base: Float[Tensor, "unit shared rgb row column"], copies: int) -> Views:
        """Views as they are: one image a unit, shown `copies` times, or an image for each copy."""
        gain = base.new_ones(len(base), copies, base.shape[2])
        return cls(base, gain, torch.zeros_like(gain), np.zeros((len(base), 1, 2), dtype=np.int64))

    @property
    def pixels(self) -> Float[Tensor, "unit copy rgb row column"]:
        """What the model is shown."""
        return shown(self.base, self.gain, self.offset, self.rolls)

    def coloured(self, *, gain: Colour | float, offset: Colour) -> Views:
        """Stretched by a gain, and then shifted."""
        return replace(self, gain=self.gain * gain, offset=self.offset * gain + offset)

    def rolled(self, rolls: Rolls) -> Views:
        """Rolled by so many rows and columns more. Colours do not move."""
        return replace(self, rolls=self.rolls + rolls)


@runtime_checkable
class Augmentation(Protocol):
    """A random, differentiable change that keeps the shape."""

    def draw(self, source: Numbers, moment: Moment) -> Draws:
        """The random numbers for all copies of one unit: "copy ...", or "1 ..." where the copies share
        them.
        """
        ...

    def apply(self, views: Views, draws: Draws) -> Views:
        """Change the views by the numbers of all units: "unit copy ...", or "unit 1 ..."."""
        ...


@dataclass(frozen=True)
class Jitter:
    """A circular shift by whole pixels, each axis uniform on [-limit, limit].

    Attributes:
        limit: the largest shift. It wraps, so an image smaller than that turns more than once.
        shared: one shift per step for all copies of a canvas, rather than one per copy.
    """

    limit: int
    shared: bool = True

    def draw(self, source: Numbers, moment: Moment) -> Draws:
        """Shifts of rows and columns: "copy 2", or "1 2" where the copies share them."""
        count = 1 if self.shared else moment.copies
        return source.integers(-self.limit, self.limit, size=(count, 2), endpoint=True)

    def apply(self, views: Views, draws: Draws) -> Views:
        """Roll rows and columns."""
        return views.rolled(draws)


@dataclass(frozen=True)
class ColourShift:
    """A random offset and contrast per copy and channel: mu uniform on [-offset, offset], sigma =
    exp(U(-spread, spread)).

    `form="code"` is (x - mu) / sigma, as the authors' code computes it; `form="paper"` is sigma * x + mu.
    """

    offset: float = 1.0
    spread: float = 1.0
    form: Literal["code", "paper"] = "code"

    def draw(self, source: Numbers, moment: Moment) -> Draws:
        """mu and sigma: "copy 2 rgb"."""
        uniform = source.uniform(-1, 1, size=(moment.copies, 2, 3))
        return np.stack([self.offset * uniform[:, 0], np.exp(self.spread * uniform[:, 1])], axis=1)

    def apply(self, views: Views, draws: Draws) -> Views:
        """Shift and stretch the channels."""
        mu, sigma = rearrange(draws, "unit copy law rgb -> law unit copy rgb")
        gain, offset = (1 / sigma, -mu / sigma) if self.form == "code" else (sigma, mu)
        return views.coloured(gain=_like(views.base, gain), offset=_like(views.base, offset))


@dataclass(frozen=True)
class ChannelNoise:
    """One Gaussian number per copy and channel, its deviation falling linearly from `std` to 0 over the
    dream.

    The authors' code counts down from two less than the number of steps T, and wraps: at step t the
    deviation is std * ((T - 2 - t) mod T) / T, so the very last step, whose learning rate is next to
    nothing, is as noisy as the first.
    """

    std: float = 0.5

    def deviation(self, moment: Moment) -> float:
        """The standard deviation at a moment."""
        return self.std * ((moment.steps - 2 - moment.step) % moment.steps) / moment.steps

    def draw(self, source: Numbers, moment: Moment) -> Draws:
        """The offsets: "copy rgb"."""
        return self.deviation(moment) * source.standard_normal((moment.copies, 3))

    def apply(self, views: Views, draws: Draws) -> Views:
        """Add the offsets."""
        return views.coloured(gain=1.0, offset=_like(views.base, draws))


@dataclass(frozen=True)
class PixelNoise:
    """Gaussian noise of deviation `std` on every pixel, and on top of it uniform noise on [-uniform,
    uniform].
    """

    std: float = 1.0
    uniform: float = 0.0

    def draw(self, source: Numbers, moment: Moment) -> Draws:
        """The noise: "copy rgb row column"."""
        shape = (moment.copies, 3, *moment.size)
        noise = self.std * source.standard_normal(shape, dtype=np.float32)
        if self.uniform:
            noise += self.uniform * (2 * source.random(shape, dtype=np.float32) - 1)
        return noise

    def apply(self, views: Views, draws: Draws) -> Views:
        """Add the noise."""
        return Views.of(views.pixels + _like(views.base, draws), draws.shape[1])


@dataclass(frozen=True)
class Affine:
    """Shift, scale and turn each copy about its centre, with what comes in from outside grey.

    Attributes:
        jitters: sizes d of successive random crops; each shifts by whole pixels, uniform on 0..d, centred.
        scales: factors to choose from, larger than 1 magnifies.
        angles: degrees to choose from.
    """

    jitters: tuple[int, ...]
    scales: tuple[float, ...]
    angles: tuple[float, ...]

    def draw(self, source: Numbers, moment: Moment) -> Draws:
        """The map from output to canvas in coordinates of [-1, 1], "copy 2 3", as `affine_grid` wants it."""
        rows, columns = moment.size
        shift = sum(
            (source.integers(0, d, size=(2, moment.copies), endpoint=True) - d / 2 for d in self.jitters),
            start=np.zeros((2, moment.copies)),
        )
        zoom = 1 / source.choice(self.scales, size=moment.copies)
        turn = np.deg2rad(source.choice(self.angles, size=moment.copies))
        along, across = zoom * np.cos(turn), zoom * np.sin(turn)
        across_x = [along, -across * rows / columns, 2 * shift[1] / columns]
        across_y = [across * columns / rows, along, 2 * shift[0] / rows]
        return np.moveaxis(np.array([across_x, across_y]), -1, 0)

    def apply(self, views: Views, draws: Draws) -> Views:
        """Sample the moved views bilinearly."""
        maps = _like(views.base, rearrange(draws, "unit copy to given -> (unit copy) to given"))
        images = rearrange(views.pixels, "unit copy rgb row column -> (unit copy) rgb row column")
        grid = F.affine_grid(maps, list(images.shape), align_corners=False)
        moved = F.grid_sample(images - GREY, grid, align_corners=False) + GREY
        return Views.of(rearrange(moved, "(unit copy) ... -> unit copy ...", unit=len(draws)), draws.shape[1])


@dataclass(frozen=True)
class Crops:
    """Square boxes of a canvas, resized to what the model sees; the sides shrink over the dream.

    Attributes:
        first, last: mean side at the first and the last step, as a share of the canvas.
        side_std: deviation of the sides.
        centre_std: deviation of the centres about the middle of the canvas.
        smallest: sides are at least this long, and at most 1.
    """

    first: float = 0.5
    last: float = 0.05
    side_std: float = 0.05
    centre_std: float = 0.15
    smallest: float = 0.05

    def side(self, moment: Moment) -> float:
        """The mean side at a moment, falling linearly."""
        return self.first + (self.last - self.first) * moment.step / max(1, moment.steps - 1)

    def draw(self, source: Numbers, moment: Moment) -> Draws:
        """Centre x, centre y and side, as shares of the canvas: "copy 3"."""
        centres = 0.5 + self.centre_std * source.standard_normal((moment.copies, 2))
        sides = self.side(moment) + self.side_std * source.standard_normal((moment.copies, 1))
        return np.concatenate([centres, sides.clip(self.smallest, 1)], axis=1)

    def cut(
        self, pixels: Canvases, draws: Draws, *, size: tuple[int, int]
    ) -> Float[Tensor, "unit copy rgb row column"]:
        """Cut the boxes of all units, "unit copy 3", out of their canvases; outside a canvas all is grey.

        The boxes of one canvas are sampled as one tall image, so that the canvas is not repeated.
        """
        copies = draws.shape[1]
        boxes = _like(pixels, draws)
        rows, columns = (_cell_centres(length, pixels) for length in size)
        x = (2 * boxes[..., 0:1] - 1) + boxes[..., 2:] * columns
        y = (2 * boxes[..., 1:2] - 1) + boxes[..., 2:] * rows
        grid = torch.stack(
            [
                repeat(x, "unit copy column -> unit (copy row) column", row=size[0]),
                repeat(y, "unit copy row -> unit (copy row) column", column=size[1]),
            ],
            dim=-1,
        )
        tall = F.grid_sample(pixels - GREY, grid, align_corners=False) + GREY
        return rearrange(tall, "unit rgb (copy row) column -> unit copy rgb row column", copy=copies)


def augment(
    pixels: Canvases,
    augmentations: Sequence[Augmentation],
    *,
    sources: Sequence[Numbers],
    moment: Moment,
    crops: Crops | None = None,
) -> Views:
    """The copies of every unit's canvas that the model sees at one moment.

    Args:
        pixels: the canvases.
        augmentations: applied in this order.
        sources: one generator per unit; each is drawn from in the same order whatever the other units do.
        moment: the step, the number of copies and the size the model wants.
        crops: how to cut the copies; without it every copy shows the whole canvas.
    """
    if crops is None:
        base: Tensor = rearrange(whole(pixels, moment.size), "unit ... -> unit 1 ...")
    else:
        base = crops.cut(
            pixels, np.stack([crops.draw(source, moment) for source in sources]), size=moment.size
        )
    views = Views.of(base, moment.copies)
    for augmentation in augmentations:
        views = augmentation.apply(views, np.stack([augmentation.draw(source, moment) for source in sources]))
    return views


def whole(pixels: Canvases, size: tuple[int, int]) -> Float[Tensor, "unit rgb row column"]:
    """Canvases at the size that the model sees: untouched where they have it already."""
    if pixels.shape[-2:] == size:
        return pixels
    return F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False).clamp(0, 1)


def _cell_centres(length: int, like: Tensor) -> Float[Tensor, " cell"]:
    half = 1 / length
    return torch.linspace(-1 + half, 1 - half, length, dtype=like.dtype, device=like.device)


def _like(views: Tensor, draws: Draws) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(draws)).to(device=views.device, dtype=views.dtype)
