"""What Ghiasi et al. 2022 and their repository report of the last layer, as rows of the study `last_layer`.

Rows whose `reading` is "isolation" or "dropping" are points of the sweeps over depth, at k = `blocks`.
"""

from __future__ import annotations

from collections.abc import Iterator

from vitscope.studies.result import Row

B16, B32 = "vit_base_patch16_384", "vit_base_patch32_384"
"""The models of the paper."""
_TABLE = "Ghiasi et al. 2022, Table 1 (ImageNet validation, 384 px)"
_CODE = "authors' repository hamidkazemi22/vit-visualization @ a36922a"


def _rows() -> Iterator[Row]:
    table = {
        "natural": (84.20, 97.16),
        "isolating_cls": (78.61, 94.18),
        "patch_average": (75.75, 90.99),
        "patch_maximum": (80.16, 95.65),
    }
    for reading, (top1, top5) in table.items():
        yield {"model": B16, "reading": reading, "top1": top1, "top5": top5, "source": _TABLE}
    stored = [
        (B16, "average_features", 83.404, 96.974),
        (B32, "natural", 81.730, 96.130),
        (B32, "average_features", 80.874, 95.802),
    ]
    for model, reading, top1, top5 in stored:
        yield {"model": model, "reading": reading, "top1": top1, "top5": top5, "source": _CODE}
    isolation = {0: 84.20, 1: 83.73, 2: 82.98, 4: 83.22, 5: 83.03, 6: 82.98}
    isolation |= {9: 81.10, 10: 80.32, 11: 78.61, 12: 0.10}
    dropping_b16 = (0.10, 0.08, 0.16, 0.09, 0.14, 0.22, 1.66, 3.95, 8.99, 19.89, 36.85, 71.24, 84.20)
    dropping_b32 = (*[0.10] * 8, 11.64, 28.33, 52.09, 72.72, 81.73)
    sweeps = [
        (B16, "isolation", isolation.items(), "it17/Acc.txt"),
        (B16, "dropping", enumerate(dropping_b16), "it16/Acc.txt"),
        (B32, "dropping", enumerate(dropping_b32), "it16/Acc.txt"),
    ]
    for model, sweep, points, file in sweeps:
        for blocks, top1 in points:
            source = f"{_CODE}, {file}"
            yield {"model": model, "reading": sweep, "blocks": blocks, "top1": top1, "source": source}


PUBLISHED: tuple[Row, ...] = tuple(_rows())
"""All of them, each with its source."""
