"""One pass of a model over a source that feeds any number of meters.

Activations exist only while their site fires. What a shard leaves behind is a `Part`: the meters' states, the
images read and the images skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from vitscope.data.source import SHARD_SIZE, ImageSource, Shard
from vitscope.engine.engine import Engine
from vitscope.errors import BadValue
from vitscope.front import callable_as
from vitscope.meters.meter import Meter
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, MAX_SKIP, Part, Scanned, gathered
from vitscope.passes import PLAIN, fresh_states, scan_shard_variants


def scan(
    model: VisionModel,
    source: ImageSource,
    meters: Sequence[Meter],
    *,
    batch_size: int = BATCH_SIZE,
    shard_size: int = SHARD_SIZE,
    engine: Engine | None = None,
    max_skip: float = MAX_SKIP,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scanned:
    """Run the model over the whole source once and let every meter read what it wants.

    >>> found = scan(model, source, [TopK("blocks.*.ffn"), Moments("blocks.*.ffn")])   # doctest: +SKIP

    Args:
        model: the model to read.
        source: the images.
        meters: what to measure; their names must differ.
        batch_size: images a forward pass. Where memory runs out it is halved; results stay the same.
        shard_size: images a shard.
        engine: runs the shards; in this process, one after another, where none is given.
        max_skip: the share of entries that may be skipped, 0 to 1.
        on_progress: told after every shard how many entries are done, and of how many.

    Raises:
        BadValue: no meter, two of one name, or a number outside its range.
        UnknownSite: a meter's pattern matches nothing.
        SourceError: no image could be read, or more than `max_skip` of the entries were skipped.
    """
    if batch_size < 1 or shard_size < 1 or not 0 <= max_skip <= 1:
        raise BadValue(
            f"batch_size and shard_size must be at least 1 and max_skip between 0 and 1, "
            f"not {batch_size}, {shard_size} and {max_skip}"
        )
    fresh_states(model, meters)  # a wrong name or pattern is refused before the first image is read
    task = _Task(model, source, meters, batch_size)
    shards = source.shards(shard_size)
    finished = engine.map(task, shards) if engine else ((shard, task(shard)) for shard in shards)
    parts = ((part,) for part in _in_order(shards, finished))
    return gathered(source, parts, max_skip=max_skip, on_progress=on_progress)[0]


def scan_shard(
    model: VisionModel,
    source: ImageSource,
    shard: Shard,
    meters: Sequence[Meter],
    *,
    batch_size: int = BATCH_SIZE,
) -> Part:
    """Run the model over one shard. Where memory runs out, the shard starts again with half the batch.

    Raises:
        BadValue, UnknownSite: as `scan`.
        DeviceError: memory runs out with a single image.
        Failure: a meter failed; the message names it and the site.
    """
    return scan_shard_variants(model, source, shard, [PLAIN], meters, batch_size=batch_size)[0]


@dataclass
class _Task:
    """The work on one shard, as engines want it; it remembers a batch that memory forced."""

    model: VisionModel
    source: ImageSource
    meters: Sequence[Meter]
    batch_size: int

    def __call__(self, shard: Shard) -> Part:
        part = scan_shard(self.model, self.source, shard, self.meters, batch_size=self.batch_size)
        self.batch_size = part.batch_size
        return part


def _in_order(shards: Sequence[Shard], finished: Iterable[tuple[Shard, Part]]) -> Iterator[Part]:
    """Parts in the order of their shards, so that sums round the same way every time."""
    waiting: dict[str, Part] = {}
    expected = iter(shards)
    upcoming = next(expected, None)
    for shard, part in finished:
        waiting[shard.id] = part
        while upcoming is not None and upcoming.id in waiting:
            yield waiting.pop(upcoming.id)
            upcoming = next(expected, None)


callable_as(__name__, scan)
