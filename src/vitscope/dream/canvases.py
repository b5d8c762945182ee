"""Differentiable image parameterisations: what the optimiser holds, and how it becomes pixels in [0, 1].

The leading axis of every parameter tensor is "unit". The statistics of natural images that two of them need
(average spectrum and colour correlation) are ours: `training/spectrum.py` computed them and `spectrum.md`
tells how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from vitscope.arrays import Pixels
from vitscope.dream.numbers import Numbers

Size = tuple[int, int]
"""Rows and columns of a canvas, in pixels."""

TINY = 1e-5
"""Keeps a standard deviation from being zero where MACO divides by it (Xplique,
`maco_image_parametrization`).
"""


BRINK = 0.5 / 255
"""How near a squashed image can come to black and white: half a level of 8 bits."""


@runtime_checkable
class Canvas(Protocol):
    """An image as something else, one per unit."""

    @property
    def bounds(self) -> tuple[float, float] | None:
        """What the parameters are clamped to after every step, if anything."""
        ...

    def start(self, sources: Sequence[Numbers], size: Size) -> Float[Tensor, "unit ..."]:
        """Fresh parameters, one canvas per generator."""
        ...

    def to_pixels(self, parameters: Float[Tensor, "unit ..."], size: Size) -> Pixels:
        """The images in [0, 1], differentiable; the image axis counts units."""
        ...


@runtime_checkable
class FromPixels(Protocol):
    """A canvas that can show any image."""

    def from_pixels(self, pixels: Pixels) -> Float[Tensor, "unit ..."]:
        """The parameters whose images these are: the inverse of `to_pixels`."""
        ...


@dataclass(frozen=True)
class PixelCanvas:
    """The pixels themselves, from uniform noise, clamped to [0, 1] after every step.

    Ghiasi et al. 2022, code `inversion/`.
    """

    bounds: tuple[float, float] | None = (0.0, 1.0)

    def start(self, sources: Sequence[Numbers], size: Size) -> Float[Tensor, "unit rgb row column"]:
        """Uniform on [0, 1) per pixel and channel."""
        return torch.from_numpy(np.stack([source.random((3, *size), dtype=np.float32) for source in sources]))

    def to_pixels(self, parameters: Float[Tensor, "unit rgb row column"], size: Size) -> Pixels:
        """The parameters themselves, after checking their size."""
        return rearrange(
            parameters, "unit rgb row column -> unit rgb row column", row=size[0], column=size[1]
        )

    def from_pixels(self, pixels: Pixels) -> Float[Tensor, "unit rgb row column"]:
        """The pixels."""
        return pixels.clone()


@dataclass(frozen=True)
class FourierCanvas:
    """Fourier coefficients with energy 1 / frequency, decorrelated colours and a sigmoid (Olah et al. 2017,
    lucid).

    Attributes:
        deviation: of the coefficients at the start (lucid `spatial.py`, `sd or 0.01`).
        decay: power of 1 / frequency (lucid `spatial.py`, `decay_power=1`).
        contrast: the image is divided by it before the colours are mixed (lucid `spatial.py`, the `4.0`).
    """

    deviation: float = 0.01
    decay: float = 1.0
    contrast: float = 4.0
    bounds: tuple[float, float] | None = None

    def start(self, sources: Sequence[Numbers], size: Size) -> Float[Tensor, "unit part rgb row frequency"]:
        """Gaussian real and imaginary parts."""
        shape = (2, 3, size[0], size[1] // 2 + 1)
        drawn = np.stack([source.standard_normal(shape, dtype=np.float32) for source in sources])
        return torch.from_numpy(self.deviation * drawn)

    def to_pixels(self, parameters: Float[Tensor, "unit part rgb row frequency"], size: Size) -> Pixels:
        """Scale the coefficients, transform back, mix the colours, squash."""
        spectrum = torch.complex(parameters[:, 0], parameters[:, 1]) * self._scale(size).to(parameters)
        return torch.sigmoid(correlated(torch.fft.irfft2(spectrum, s=size) / self.contrast))

    def from_pixels(self, pixels: Pixels) -> Float[Tensor, "unit part rgb row frequency"]:
        """Undo the squash, the mixture of colours, the transform and the scale; black and white are taken for
        next to black and white (`BRINK`), which lie at finite numbers.
        """
        values = torch.logit(pixels, eps=BRINK)
        unmixed = correlated(values, backwards=True) * self.contrast
        size = (pixels.shape[-2], pixels.shape[-1])
        spectrum = torch.fft.rfft2(unmixed) / self._scale(size).to(pixels)
        return torch.stack([spectrum.real, spectrum.imag], dim=1)

    def _scale(self, size: Size) -> Float[Tensor, "row frequency"]:
        floor = torch.tensor(1 / max(size))
        scale: Tensor = (size[0] * size[1]) ** 0.5 / torch.maximum(frequencies(size), floor) ** self.decay
        return scale


@dataclass(frozen=True)
class MacoCanvas:
    """Phases alone; magnitudes are those of the average natural image (MACO, Fel et al. 2023, section 3).

    Phases and image are standardised as in the authors' code (Xplique `preconditioning.py`).

    Attributes:
        deviation: of the phases at the start, in radians (Xplique `init_maco_buffer`, `std=1.0`).
    """

    deviation: float = 1.0
    bounds: tuple[float, float] | None = None

    def start(self, sources: Sequence[Numbers], size: Size) -> Float[Tensor, "unit rgb row frequency"]:
        """Gaussian phases."""
        shape = (3, size[0], size[1] // 2 + 1)
        drawn = np.stack([source.standard_normal(shape, dtype=np.float32) for source in sources])
        return torch.from_numpy(self.deviation * drawn)

    def to_pixels(self, parameters: Float[Tensor, "unit rgb row frequency"], size: Size) -> Pixels:
        """Put the phases on the natural magnitudes, transform back, mix the colours, squash."""
        spectrum = torch.polar(
            magnitudes(size).to(parameters).expand_as(parameters), _standardised(parameters)
        )
        return torch.sigmoid(correlated(_standardised(torch.fft.irfft2(spectrum, s=size))))


@dataclass(frozen=True)
class NaturalImages:
    """Averages over real photographs; see `spectrum.md`.

    Attributes:
        colours: mixes decorrelated channels into red, green and blue: eigenvectors of the colour covariance
            times the roots of its eigenvalues, divided by the longest column.
        magnitudes: mean absolute Fourier coefficient of each decorrelated channel, for the frequencies 0 ..
            1/2 per pixel along rows and columns; horizontal and vertical mirror images count alike.
    """

    colours: Float[Tensor, "rgb channel"]
    magnitudes: Float[Tensor, "channel row column"]


@cache
def natural_images() -> NaturalImages:
    """The bundled averages."""
    with resources.files("vitscope.dream").joinpath("spectrum.npz").open("rb") as file:
        arrays = np.load(file, allow_pickle=False)
        return NaturalImages(
            *(torch.from_numpy(arrays[name].astype(np.float32)) for name in ("colours", "magnitudes"))
        )


@cache
def magnitudes(size: Size) -> Float[Tensor, "channel row frequency"]:
    """The natural magnitudes at any size.

    A canvas smaller than the photographs takes those of the same cycles per image, as if they were scaled
    down; a larger one those of the same cycles per pixel, interpolated.
    """
    table = natural_images().magnitudes
    side = 2 * (table.shape[-1] - 1)
    rows, columns = (axis.abs() * min(length, side) for axis, length in zip(_axes(size), size, strict=True))
    return _between(_between(table, rows, axis=1), columns, axis=2)


def frequencies(size: Size) -> Float[Tensor, "row frequency"]:
    """Absolute frequency of every coefficient of a half spectrum, in cycles per pixel."""
    rows, columns = _axes(size)
    return torch.hypot(rows[:, None], columns[None])


def correlated(
    image: Float[Tensor, "unit channel row column"], *, backwards: bool = False
) -> Float[Tensor, "unit rgb row column"]:
    """From decorrelated channels to red, green and blue, or backwards."""
    mixing = natural_images().colours
    mixing = (torch.linalg.inv(mixing) if backwards else mixing).to(image)
    return einsum(mixing, image, "rgb channel, unit channel row column -> unit rgb row column")


def _axes(size: Size) -> tuple[Tensor, Tensor]:
    return torch.fft.fftfreq(size[0]), torch.fft.rfftfreq(size[1])


def _between(table: Tensor, position: Tensor, *, axis: int) -> Tensor:
    """Linear interpolation of a table along one axis."""
    below = position.floor().long().clamp(0, table.shape[axis] - 2)
    share = (position - below).view([-1 if a == axis else 1 for a in range(table.ndim)])
    return torch.lerp(table.index_select(axis, below), table.index_select(axis, below + 1), share)


def _standardised(values: Float[Tensor, "unit ..."]) -> Float[Tensor, "unit ..."]:
    axes = tuple(range(1, values.ndim))
    centred = values - values.mean(dim=axes, keepdim=True)
    return centred / (centred.std(dim=axes, keepdim=True, unbiased=False) + TINY)
