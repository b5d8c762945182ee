"""What meters of accuracy share: which k count, which labels can be right, and how classes are ranked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32
from torch import Tensor

from vitscope.errors import BadValue
from vitscope.models.vision_model import Site, Sites

NEVER = int(np.iinfo(np.int32).max)
"""Rank of a class among logits that are not finite: it is not among any first k."""


@dataclass(frozen=True)
class Ranked:
    """What a meter of accuracy is told.

    Args:
        top: the k that count.
        site: where the logits are read.

    Raises:
        BadValue: no k, or one below 1.
    """

    top: tuple[int, ...] = (1, 5)
    site: str = field(default="logits", kw_only=True)

    def __post_init__(self) -> None:
        if not self.top or min(self.top) < 1:
            raise BadValue(f"top lists the first k classes that count, each at least 1, not {self.top}")

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The logits."""
        return [sites.named(self.site)]


def labelled(labels: Int[Tensor, " image"], site: Site) -> Bool[Tensor, " image"]:
    """Which images have a label.

    Raises:
        BadValue: one has a label that is no class of the site.
    """
    if labels.numel() and labels.max() >= site.units:
        raise BadValue(
            f"an image has the label {labels.max()}, but {site.name} has {site.units} classes "
            f"(0..{site.units - 1}): these labels are not those of this model. Give --labels FILE "
            "with the model's own numbers"
        )
    return labels >= 0


def no_accuracy(unlabelled: int) -> BadValue:
    """The error where no image has a label."""
    return BadValue(
        f"none of the {unlabelled} images has a label, so there is no accuracy. Give "
        "--labels FILE, a CSV with the columns path and label"
    )


def ranks_of(
    logits: Float[Tensor, "image answer class"], labels: Int[Tensor, " image"]
) -> Int32[Tensor, "image answer"]:
    """How many classes come before the label: those with a larger logit, and equal ones of lower index.

    `NEVER` where a logit of the answer is not finite.
    """
    own = logits.gather(-1, labels.long()[:, None, None].expand(-1, logits.shape[1], 1))
    before = torch.arange(logits.shape[-1], device=logits.device) < labels[:, None, None]
    ranks = ((logits > own) | ((logits == own) & before)).sum(-1)
    return ranks.masked_fill(~logits.isfinite().all(-1), NEVER).int()
