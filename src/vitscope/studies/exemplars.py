"""What a model saw of a few images of a source, found by their names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from einops import rearrange

from vitscope.data.source import SHARD_SIZE, ImageSource, RawImage, Shard, Skipped, cut
from vitscope.data.stream import stream
from vitscope.models.vision_model import Preprocessing
from vitscope.studies.appearance import Picture


class Few:
    """A few entries of a source, by their names: a source too."""

    def __init__(self, whole: ImageSource, paths: Sequence[str]) -> None:
        self.whole, self.paths = whole, paths
        self.name, self.fingerprint, self.classes = whole.name, whole.fingerprint, whole.classes

    def __len__(self) -> int:
        return len(self.paths)

    def shards(self, size: int = SHARD_SIZE) -> tuple[Shard, ...]:
        """Consecutive ones."""
        return cut(len(self), size)

    def read(self, shard: Shard) -> Iterator[RawImage | Skipped]:
        """The entries, found by name."""
        return map(self.whole.find, self.paths[shard.start : shard.stop])

    def find(self, path: str) -> RawImage | Skipped:
        """One entry by its name."""
        return self.whole.find(path)

    def describe(self) -> dict[str, Any]:
        """That of the whole."""
        return self.whole.describe()


def views(source: ImageSource, paths: Sequence[str], preprocessing: Preprocessing) -> Mapping[str, Picture]:
    """What a model is shown of these images, in bytes, by name; without those that cannot be read."""
    few = Few(source, list(dict.fromkeys(paths)))
    found: dict[str, Picture] = {}
    for shard in few.shards():
        for batch in stream(few, shard, preprocessing, batch_size=8, on_skip=lambda _: None):
            levels = (batch.pixels.cpu() * 255).round().numpy().astype(np.uint8)
            shown = rearrange(levels, "image rgb row column -> image row column rgb")
            found |= dict(zip(batch.paths, shown, strict=True))
    return found
