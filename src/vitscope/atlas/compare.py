"""The natural images that a dream is compared with, as the scan of its atlas found them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vitscope.data.decode import Unreadable, decode, view
from vitscope.data.source import ImageSource, Skipped
from vitscope.dream.natural import Natural
from vitscope.meters.topk import Exemplars
from vitscope.models.vision_model import Preprocessing

SHOWN = 5
"""Exemplars whose pixels are looked at: enough for a mean over pairs, at a hundredth of a dream's
cost."""

OTHERS = 8
"""Images that stand for all others."""


@dataclass
class NaturalImages:
    """The images of a scan, for the units it ranked.

    Attributes:
        source: where their pixels are.
        preprocessing: how the model is shown them.
        ranked: exemplars by mean, by site.
        paths: where each image lies in the source, by id, in its order.
    """

    source: ImageSource
    preprocessing: Preprocessing
    ranked: Mapping[str, Exemplars]
    paths: Mapping[str, str]

    def of(self, site: str, unit: int) -> Natural:
        """What they do to one unit."""
        best = self.ranked[site].of(unit)
        shown = self._pixels(exemplar.image for exemplar in best[:SHOWN])
        return Natural([exemplar.value for exemplar in best], len(self.paths), shown, self._others)

    @cached_property
    def _others(self) -> Float[Tensor, "image rgb row column"]:
        """Spread evenly over the source."""
        known: Sequence[str] = list(self.paths)
        places = np.linspace(0, len(known) - 1, min(OTHERS, len(known))).astype(int)
        return self._pixels(known[place] for place in places)

    def _pixels(self, images: Iterable[str]) -> Float[Tensor, "image rgb row column"]:
        """Those whose files are as they were."""
        found = [each for image in images if (each := self._read(image)) is not None]
        return torch.stack(found) if found else torch.empty(0, 3, *self.preprocessing.size)

    def _read(self, image: str) -> Float[Tensor, "rgb row column"] | None:
        entry = self.source.find(self.paths[image])
        if isinstance(entry, Skipped) or entry.id != image:
            return None
        try:
            decoded = decode(entry.content, accept_truncated=entry.accept_truncated)
        except Unreadable:
            return None
        levels = torch.from_numpy(view(decoded.image, self.preprocessing).copy())
        return rearrange(levels, "row column rgb -> rgb row column").float() / 255
