"""One model over one source under several interventions: the grid that a study is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from vitscope.data.derived import Annotated
from vitscope.data.source import SHARD_SIZE, Annotations, ImageSource
from vitscope.errors import BadValue
from vitscope.meters.meter import Meter
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, MAX_SKIP, Scanned, gathered
from vitscope.passes import Variant as Variant
from vitscope.passes import fresh_states, scan_shard_variants


def scan_variants(
    model: VisionModel,
    source: ImageSource,
    variants: Sequence[Variant],
    meters: Sequence[Meter],
    *,
    batch_size: int = BATCH_SIZE,
    annotations: Annotations | None = None,
    max_skip: float = MAX_SKIP,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Scanned]:
    """What the meters find under each of the variants, by its name. All variants see the same images.

    Every picture is decoded once, and seen once by the model for each variant.

    >>> seen = scan_variants(model, source, [
    ...     Variant("plain"),
    ...     Variant("low 32", images=(low_pass(radius=32),)),
    ... ], meters)   # doctest: +SKIP

    Args:
        model: the model to read.
        source: the images.
        variants: what is changed; their names must differ.
        meters: what to measure, with fresh states for every variant.
        batch_size: images a forward pass. Where memory runs out it is halved; results stay the same.
        annotations: the foreground of the images, for interventions and meters that need it.
        max_skip: the share of entries that may be skipped, 0 to 1. An image that cannot be used under one
            variant, such as one without annotation whose foreground is to be kept, is skipped in all.
        on_progress: told after every shard how many entries are done, and of how many.

    Raises:
        BadValue: no variant or two of one name; otherwise as `scan`.
        UnknownSite, SourceError: as `scan`.
    """
    names = Counter(variant.name for variant in variants)
    if not names or max(names.values()) > 1:
        twice = [name for name, count in names.items() if count > 1]
        raise BadValue(f"two variants are called {twice[0]!r}" if twice else "give at least one variant")
    if batch_size < 1 or not 0 <= max_skip <= 1:
        raise BadValue(
            f"batch_size must be at least 1 and max_skip between 0 and 1, not {batch_size} and {max_skip}"
        )
    fresh_states(model, meters)  # a wrong name or pattern is refused before the first image is read
    images = Annotated(source, annotations) if annotations else source
    parts = (
        scan_shard_variants(model, images, shard, variants, meters, batch_size=batch_size)
        for shard in images.shards(SHARD_SIZE)
    )
    found = gathered(images, parts, max_skip=max_skip, on_progress=on_progress)
    return {variant.name: scanned for variant, scanned in zip(variants, found, strict=True)}
