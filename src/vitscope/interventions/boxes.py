"""The object without its background, and the background without its object (Ghiasi et al. 2022, Table 2).

Both work on the picture at its original size, before a model's resize and crop, and take the foreground from
boxes or masks alike: `images(..., boxes=...)`, `images(...).annotated(...)`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, sqrt
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageFilter

from vitscope.data.source import Picture
from vitscope.draws import generator
from vitscope.errors import BadValue, suggestion

FILLS = ("black", "mean", "blur")
"""What may stand where pixels were."""
WHICH = ("given", "random")
"""The boxes of the image, or one in their stead."""
BLUR = 1 / 16
"""Standard deviation of a blur that hides objects, as a share of the shorter side: about one patch of a
ViT/16 at 224 pixels. Our choice; the paper fills with black only."""


@dataclass(frozen=True, repr=False)
class Kept:
    """Keeps the pixels on one side of the boxes and fills the others.

    Attributes:
        side: which pixels stay: the "foreground" inside the boxes or the "background" outside.
        fill: what the others become: "black", the "mean" colour of the picture, or its "blur".
        boxes: those that were "given", or for control one "random" box, of the same area to the pixel.
        seed: of the random box.
    """

    side: Literal["foreground", "background"]
    fill: str
    boxes: str
    seed: int

    def __post_init__(self) -> None:
        for asked, known in ((self.fill, FILLS), (self.boxes, WHICH)):
            if asked not in known:
                raise BadValue(f"no {asked!r} here.{suggestion(asked, known)} There are: {', '.join(known)}.")

    def on_original(self, picture: Picture) -> Picture:
        """The picture, of which one side is left.

        Raises:
            BadValue: nothing is known of its foreground.
        """
        if picture.foreground is None:
            raise BadValue(f"{self!r} needs to know the foreground: the image has no boxes and no mask")
        inside = picture.foreground
        if self.boxes == "random":
            inside = random_box(inside, seed=self.seed, name=picture.id)
        stays = inside if self.side == "foreground" else ~inside
        pixels = np.where(stays[:, :, None], picture.pixels, _filling(picture.pixels, self.fill))
        return replace(picture, pixels=pixels)

    def __repr__(self) -> str:
        verb = "keep_boxes" if self.side == "foreground" else "drop_boxes"
        boxes = f", boxes='random', seed={self.seed}" if self.boxes == "random" else ""
        return f"{verb}(fill={self.fill!r}{boxes})"


def keep_boxes(*, fill: str = "black", boxes: str = "given", seed: int = 0) -> Kept:
    """Keep what lies in the boxes (or on the mask) of each image and fill the rest.

    An image without a box becomes all fill; one without any annotation is skipped, as "no_annotation". Filled
    with black, it and `drop_boxes` add up to the picture, to the bit.

    Args:
        fill: "black" as in the paper (after a model's normalisation that is its lowest value), "mean" for
            the mean colour of the picture, "blur" for a Gaussian blur of it.
        boxes: "random" takes, instead of the given boxes, one box anywhere in the picture, with as many
            pixels as they cover together and about their proportions: what the area alone does.
        seed: of the random box, which depends on it and on the image's id alone.

    Raises:
        BadValue: there is no such fill, or no such boxes.

    >>> vs.images("folder:photos", boxes="boxes.csv").map(keep_boxes())   # doctest: +SKIP
    """
    return Kept("foreground", fill, boxes, seed)


def drop_boxes(*, fill: str = "black", boxes: str = "given", seed: int = 0) -> Kept:
    """Fill what lies in the boxes (or on the mask) of each image; arguments and errors as of `keep_boxes`.

    >>> vs.images("folder:photos", masks="masks").map(drop_boxes(fill="mean"))   # doctest: +SKIP
    """
    return Kept("background", fill, boxes, seed)


def random_box(
    inside: Bool[np.ndarray, "row column"], *, seed: int, name: str
) -> Bool[np.ndarray, "row column"]:
    """One box with exactly as many pixels as a foreground, anywhere in the picture.

    It has the proportions of the smallest box around the foreground, as far as the picture allows; where the
    area is not a product its last column is shorter. Its place is uniform.
    """
    rows, columns = inside.shape
    area = int(inside.sum())
    found = np.zeros_like(inside)
    if not area:
        return found
    down, across = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    ratio = (down[-1] - down[0] + 1) / (across[-1] - across[0] + 1)
    height = int(np.clip(round(sqrt(area * ratio)), ceil(area / columns), rows))
    width = ceil(area / height)
    numbers = generator(seed, name)
    top = int(numbers.integers(0, rows - height + 1))
    left = int(numbers.integers(0, columns - width + 1))
    found[top : top + height, left : left + width] = True
    found[top + height - (height * width - area) : top + height, left + width - 1] = False
    return found


def _filling(pixels: UInt8[np.ndarray, "row column rgb"], fill: str) -> UInt8[np.ndarray, "row column rgb"]:
    if fill == "blur":
        radius = BLUR * min(pixels.shape[:2])
        return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(radius)))
    colour = np.zeros(3) if fill == "black" else pixels.mean((0, 1))
    return np.broadcast_to(np.rint(colour).astype(np.uint8), pixels.shape)
