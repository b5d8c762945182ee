"""What Ghiasi et al. 2022 and their repository report of objects and backgrounds, as rows of `foreground`."""

from __future__ import annotations

from collections.abc import Iterator

from vitscope.studies.result import Row

_TABLE = "Ghiasi et al. 2022, Table 2 (ImageNet training images with boxes; ViTs 384 px, CNNs 224 px)"
_CODE = "authors' repository hamidkazemi22/vit-visualization @ a36922a, it13/FBAcc.txt"

TABLE_2 = {
    "vit_base_patch32_384": (98.44, 93.91, 28.10),
    "vit_large_patch16_384": (99.57, 96.18, 33.69),
    "vit_large_patch32_384": (99.32, 93.89, 31.07),
    "vit_base_patch16_384": (99.22, 95.64, 31.59),
    "resnet50": (98.00, 89.69, 18.69),
    "resnet152": (98.85, 90.74, 19.68),
    "mobilenet_v2": (96.09, 86.84, 15.94),
    "densenet121": (96.55, 89.58, 17.53),
}
"""Model -> top-5 on whole images, normalised top-5 on foreground and background, in per cent."""
RAW = {
    "vit_base_patch32_384": ((89.25, 98.44), (81.69, 92.44), (13.43, 27.66)),
    "vit_large_patch16_384": ((95.00, 99.57), (89.19, 95.77), (18.13, 33.55)),
    "vit_large_patch32_384": ((94.64, 99.32), (85.77, 93.25), (16.73, 30.81)),
    "vit_base_patch16_384": ((92.37, 99.22), (86.55, 94.89), (15.69, 31.34)),
    "resnet50": ((87.67, 98.00), (75.04, 87.89), (8.11, 18.32)),
    "resnet152": ((90.58, 98.85), (78.39, 89.69), (8.81, 19.45)),
    "mobilenet_v2": ((82.92, 96.09), (68.03, 83.44), (6.83, 15.32)),
    "densenet121": ((83.77, 96.55), (71.70, 86.50), (7.34, 16.93)),
}
"""Model -> raw top-1 and top-5 on whole images, on foreground and on background, in per cent."""


def _rows() -> Iterator[Row]:
    fills = {"full": None, "foreground": "black", "background": "black"}
    for model, values in TABLE_2.items():
        for (region, fill), value in zip(fills.items(), values, strict=True):
            column = "top5" if region == "full" else "normalised_top5"
            yield {"model": model, "region": region, "fill": fill, column: value, "source": _TABLE}
    for model, pairs in RAW.items():
        for (region, fill), (top1, top5) in zip(fills.items(), pairs, strict=True):
            row = {"model": model, "region": region, "fill": fill}
            yield {**row, "top1": top1, "top5": top5, "source": _CODE}


PUBLISHED: tuple[Row, ...] = tuple(_rows())
"""All of them, each with its source."""
