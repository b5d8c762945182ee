"""What is left of a model's answers under a change: agreement with the unchanged model, and accuracy."""

from __future__ import annotations

from vitscope.meters.share import Share, paired_ratio
from vitscope.parts import Scanned
from vitscope.studies.result import Row

LEFT = ("agreement", "top1", "relative_top1")
"""Columns, each with `_low` and `_high`; those of accuracy only where images have labels."""


def left_of(plain: Scanned, found: Scanned, *, seed: int = 0) -> Row:
    """The columns of `LEFT`, in per cent: images that get the plain model's class, the right one, and the
    latter in per cent of what the plain model has right.

    Args:
        plain: predictions of the unchanged model.
        found: predictions under the change, over the same images.
        seed: of resampling.

    Raises:
        BadValue: the two have not seen the same images.
    """
    labels = {image.id: image.label for image in plain.images}
    ours, theirs = found["predictions"], plain["predictions"]
    same = ours.same(theirs)
    row: Row = Share(int(same.sum()), len(same)).row("agreement")
    if any(label >= 0 for label in labels.values()):
        right, before = ours.right(labels), theirs.right(labels)
        ratio = paired_ratio(right, before, seed=seed)
        row |= Share(int(right.sum()), len(right)).row("top1")
        row |= {
            "relative_top1": ratio.value,
            "relative_top1_low": ratio.low,
            "relative_top1_high": ratio.high,
        }
    return row
