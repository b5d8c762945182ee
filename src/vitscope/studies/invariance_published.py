"""What the repository of Ghiasi et al. 2022 reports of turned and shifted images, as rows of `invariance`."""

from __future__ import annotations

from collections.abc import Iterator

from vitscope.studies.result import Row

_CODE = "authors' repository hamidkazemi22/vit-visualization @ a36922a, it13 (ViT-B/16, 384 px)"
SOURCES = {
    "rotation": _CODE,
    "shift": f"{_CODE}; its shifts move channels for columns, and are of 11 units a layer",
}
"""Where the numbers of each movement stand, and what is wrong with them."""
RATIOS = {
    "rotation": (0.41, 0.37, 0.43, 0.48, 0.51, 0.53, 0.58, 0.62, 0.61, 0.58, 0.58, 0.57),
    "shift": (0.96, 0.64, 0.83, 0.91, 0.86, 0.92, 0.97, 0.94, 0.95, 0.93, 0.92, 0.95),
}
"""Movement -> the mean of ratios over positive units, by block."""
ACTIVATION = (0.30, 0.32, 0.47, 0.62, 0.73, 0.99, 1.20, 1.56, 2.18, 4.12, 10.0, 6.8)
"""The mean activation of units in their best images, by block."""


def _rows() -> Iterator[Row]:
    for movement, ratios in RATIOS.items():
        for block, (ratio, activation) in enumerate(zip(ratios, ACTIVATION, strict=True)):
            yield {
                "model": "vit_base_patch16_384",
                "site": f"blocks.{block}.ffn",
                "movement": movement,
                "ratio": ratio,
                "activation": activation,
                "source": SOURCES[movement],
            }


PUBLISHED: tuple[Row, ...] = tuple(_rows())
"""All of them, each with its source."""
