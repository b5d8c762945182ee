"""A natural image as a value: what some objectives compare with and some dreams start from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitscope.data.decode import decode_file, view
from vitscope.errors import BadValue
from vitscope.models.vision_model import Preprocessing


@dataclass(frozen=True)
class Picture:
    """An image of any size, compared by its mark.

    Attributes:
        pixels: in [0, 1].
        mark: the first 8 hexadecimal digits of the hash of its size and pixels.
    """

    pixels: Float[Tensor, "rgb row column"] = field(compare=False, repr=False)
    mark: str

    def fitted(
        self, preprocessing: Preprocessing, size: tuple[int, int] | None = None
    ) -> Float[Tensor, "1 rgb row column"]:
        """As the model's own evaluation transform shows it, or the same view at another size; untouched where
        it has that size already.
        """
        return _fitted(self, preprocessing, size or preprocessing.size)

    def __repr__(self) -> str:
        return f"image #{self.mark}"


ImageLike: TypeAlias = Picture | str | Path | Image.Image | Float[Tensor, "rgb row column"]
"""A file, a Pillow image, or pixels in [0, 1] such as those of a dream."""


def picture(image: Any) -> Picture:
    """An image as a value.

    Args:
        image: a file, a Pillow image, or pixels "rgb row column" in [0, 1].

    Raises:
        MissingPath: there is no such file.
        BadValue: it is no image, or its pixels are not "rgb row column" in [0, 1].
    """
    if isinstance(image, Picture):
        return image
    pixels = image if isinstance(image, Tensor) else _of_levels(image)
    if pixels.ndim != 3 or len(pixels) != 3:
        raise BadValue(
            f"an image is a file, a Pillow image or pixels with axes 'rgb row column'; "
            f"these have the shape {tuple(pixels.shape)}"
        )
    pixels = pixels.detach().cpu().float().contiguous()
    if not (pixels.isfinite().all() and pixels.min() >= 0 and pixels.max() <= 1):
        raise BadValue(f"pixels lie in [0, 1]; these reach from {pixels.min():.3g} to {pixels.max():.3g}")
    digest = hashlib.sha256(f"{tuple(pixels.shape)}".encode() + pixels.numpy().tobytes())
    return Picture(pixels, digest.hexdigest()[:8])


@lru_cache(maxsize=64)
def _fitted(
    shown: Picture, preprocessing: Preprocessing, size: tuple[int, int]
) -> Float[Tensor, "1 rgb row column"]:
    if tuple(shown.pixels.shape[1:]) == size:
        return shown.pixels[None]
    scale = size[0] / preprocessing.size[0]
    short = None if preprocessing.resize is None else round(scale * preprocessing.resize)
    levels = rearrange((shown.pixels * 255).round().to(torch.uint8), "rgb row column -> row column rgb")
    seen = view(Image.fromarray(levels.numpy()), replace(preprocessing, size=size, resize=short))
    return torch.from_numpy(rearrange(seen, "row column rgb -> 1 rgb row column").copy()).float() / 255


def _of_levels(image: Any) -> Float[Tensor, "rgb row column"]:
    if isinstance(image, (str, Path)):
        image = decode_file(Path(image))[0].image
    if not isinstance(image, Image.Image):
        raise BadValue(f"an image is a file, a Pillow image or a tensor, not {type(image).__name__}")
    levels = np.array(image.convert("RGB"))
    return torch.from_numpy(rearrange(levels, "row column rgb -> rgb row column").copy()).float() / 255
