"""One pass of a model over a source that feeds any number of meters.

Activations exist only while their site fires. What a shard leaves behind is a `Part`: the meters' states, the
images read and the images skipped. Parts are files, and merging them is all that resuming and clusters need.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import torch
from numpy.typing import NDArray

from vitscope.arrays import Activations
from vitscope.data.decode import stream
from vitscope.data.source import SHARD_SIZE, ImageBatch, ImageSource, Shard, Skipped
from vitscope.engine.engine import Engine
from vitscope.errors import BadValue, DeviceError, Failure, SourceError, VitscopeError
from vitscope.front import callable_as
from vitscope.meters.meter import Arrays, Meter, State
from vitscope.meters.reading import Reading
from vitscope.models.vision_model import Site, Sites, VisionModel
from vitscope.tap import tap

log = logging.getLogger(__name__)

BATCH_SIZE = 8
"""Images a forward pass: the fastest for a ViT-Ti on two cores, where activations still fit the cache."""
MAX_SKIP = 0.05
"""The share of a source that may be skipped before a scan is refused."""
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""What a `RuntimeError` of torch says where it means an `OutOfMemoryError`."""


@dataclass(frozen=True)
class ImageRecord:
    """An image that was read: its id, its name within the source, its class index (-1 where unknown)."""

    id: str
    path: str
    label: int = -1


@dataclass(frozen=True)
class ShardRecord:
    """What became of the entries of one shard."""

    id: str
    images: tuple[ImageRecord, ...]
    skipped: tuple[Skipped, ...] = ()

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> ShardRecord:
        """The inverse of `dataclasses.asdict`."""
        return cls(
            facts["id"],
            tuple(ImageRecord(**image) for image in facts["images"]),
            tuple(Skipped(**entry) for entry in facts["skipped"]),
        )


@dataclass(frozen=True)
class Part:
    """What one shard, or several merged ones, left behind.

    Attributes:
        shards: what became of each shard's entries, in the order of their ids.
        states: the meters' states, by meter name.
        batch_size: the batch that was used, smaller than asked for where memory ran out.
    """

    shards: tuple[ShardRecord, ...]
    states: Mapping[str, State]
    batch_size: int = BATCH_SIZE

    @property
    def images(self) -> tuple[ImageRecord, ...]:
        """The images read, in the order of the source."""
        return tuple(image for shard in self.shards for image in shard.images)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """The entries skipped, in the order of the source."""
        return tuple(entry for shard in self.shards for entry in shard.skipped)

    def arrays(self) -> Arrays:
        """The states as arrays named "<meter>/<name in the meter>"; with `header` all there is to a part."""
        return {
            f"{name}/{what}": array
            for name, state in self.states.items()
            for what, array in state.arrays().items()
        }

    def header(self) -> dict[str, Any]:
        """Everything but the states, as plain JSON values."""
        return {"shards": [asdict(shard) for shard in self.shards], "batch_size": self.batch_size}

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, NDArray[Any]],
        header: Mapping[str, Any],
        *,
        sites: Sites,
        meters: Sequence[Meter],
    ) -> Part:
        """The part that `arrays` and `header` described, for the same model's sites and the same meters."""
        states = {
            meter.name: meter.load(
                meter.sites(sites),
                {
                    what.removeprefix(f"{meter.name}/"): array
                    for what, array in arrays.items()
                    if what.startswith(f"{meter.name}/")
                },
            )
            for meter in meters
        }
        shards = tuple(ShardRecord.from_json(facts) for facts in header["shards"])
        return cls(shards, states, header["batch_size"])


@dataclass(frozen=True)
class Scanned:
    """What a scan found.

    Attributes:
        results: each meter's result, by meter name; `scanned["moments"]` is short for one of them.
        images: the images read, in the order of the source.
        skipped: the entries that could not be used, and why.
    """

    results: Mapping[str, Any]
    images: tuple[ImageRecord, ...]
    skipped: tuple[Skipped, ...]

    def __getitem__(self, meter: str) -> Any:
        return self.results[meter]


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
    _states(model, meters)  # a wrong name or pattern is refused before the first image is read
    task = _Task(model, source, meters, batch_size)
    shards = source.shards(shard_size)
    finished = engine.map(task, shards) if engine else ((shard, task(shard)) for shard in shards)
    whole: Part | None = None
    done = 0
    for part in _in_order(shards, finished):
        whole = part if whole is None else merge_parts([whole, part])
        done = len(whole.images) + len(whole.skipped)
        check_skipped(whole, total=len(source), max_skip=max_skip)
        if on_progress:
            on_progress(done, len(source))
    if whole is None or not whole.images:
        raise SourceError(f"{source.name} has no image that could be read{_reasons(whole)}")
    results = {name: state.result() for name, state in whole.states.items()}
    return Scanned(results, whole.images, whole.skipped)


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
    while True:
        try:
            return _scan_shard(model, source, shard, meters, batch_size=batch_size)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            if batch_size == 1:
                raise DeviceError(
                    f"{model.name} does not fit into the memory of {model.device} with one image: {error}"
                ) from error
        log.warning(
            "out of memory with %d images at once: shard %s again with %d",
            batch_size,
            shard.id,
            batch_size // 2,
        )
        batch_size //= 2


def read_batches(
    model: VisionModel, batches: Iterable[ImageBatch], meters: Sequence[Meter]
) -> dict[str, State]:
    """Run the model over batches that are decoded already, in one pass for all meters; their states, by name.

    The forward pass stops after the last site that anyone wants.

    Raises:
        BadValue, UnknownSite, Failure: as `scan` and `scan_shard`.
    """
    states = _states(model, meters)
    readers: dict[str, list[tuple[str, State]]] = {}
    for meter in meters:
        for site in meter.sites(model.sites):
            readers.setdefault(site.name, []).append((meter.name, states[meter.name]))
    current: ImageBatch

    def on_read(site: Site, activations: Activations) -> None:
        reading = Reading(site, activations, current)
        for name, state in readers[site.name]:
            with _named(name, site):
                state.read(reading)

    wanted = [model.sites.named(name) for name in readers]
    with torch.no_grad(), tap(model, wanted, on_read=on_read) as run:
        for current in batches:
            run(current.pixels)
    return states


def merge_parts(parts: Iterable[Part]) -> Part:
    """All parts as one. A shard counts once, however often it comes; the order of the parts does not matter.

    Raises:
        BadValue: no part, or parts that overlap without one containing the other.
    """
    distinct = {tuple(shard.id for shard in part.shards): part for part in parts}
    if not distinct:
        raise BadValue("there is no part to merge")
    return reduce(_merge_two, (distinct[ids] for ids in sorted(distinct)))


def check_skipped(part: Part, *, total: int, max_skip: float = MAX_SKIP) -> None:
    """Refuse a part in which too much was skipped.

    Raises:
        SourceError: more than `max_skip` of `total` entries were skipped; the message counts them by reason.
    """
    skipped = len(part.skipped)
    if skipped > max_skip * total:
        raise SourceError(
            f"{skipped} of {total} images were skipped, more than {max_skip:.0%}{_reasons(part)}"
            f" First: {part.skipped[0].path!r}. Allow more with --max-skip."
        )


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


def _scan_shard(
    model: VisionModel, source: ImageSource, shard: Shard, meters: Sequence[Meter], *, batch_size: int
) -> Part:
    images: list[ImageRecord] = []
    skipped: list[Skipped] = []

    def batches() -> Iterator[ImageBatch]:
        for batch in stream(
            source, shard, model.preprocessing, batch_size=batch_size, on_skip=skipped.append
        ):
            images.extend(map(ImageRecord, batch.ids, batch.paths, batch.labels.tolist()))
            yield batch

    states = read_batches(model, batches(), meters)
    return Part((ShardRecord(shard.id, tuple(images), tuple(skipped)),), states, batch_size)


def _states(model: VisionModel, meters: Sequence[Meter]) -> dict[str, State]:
    """A fresh state for each meter, by name."""
    names = Counter(meter.name for meter in meters)
    if not names or max(names.values()) > 1:
        twice = [name for name, count in names.items() if count > 1]
        raise BadValue(f"two meters are called {twice[0]!r}" if twice else "a scan needs at least one meter")
    return {meter.name: meter.start(meter.sites(model.sites)) for meter in meters}


@contextmanager
def _named(meter: str, site: Site) -> Iterator[None]:
    """An error from inside says which meter and which site."""
    try:
        yield
    except VitscopeError:
        raise
    except Exception as error:
        if _is_out_of_memory(error):
            raise
        raise Failure(
            f"the meter {meter!r} failed at {site.name}: {type(error).__name__}: {error}"
        ) from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY)


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


def _merge_two(one: Part, other: Part) -> Part:
    here, there = ({shard.id for shard in part.shards} for part in (one, other))
    if there <= here:
        return one
    if here <= there:
        return other
    if here & there:
        raise BadValue(f"parts overlap in shard {min(here & there)}: sums would count it twice")
    states = {name: state.merge(other.states[name]) for name, state in one.states.items()}
    shards = tuple(sorted(one.shards + other.shards, key=lambda shard: shard.id))
    return Part(shards, states, min(one.batch_size, other.batch_size))


def _reasons(part: Part | None) -> str:
    counts = Counter(entry.reason for entry in part.skipped) if part else Counter()
    return (
        ": " + ", ".join(f"{count} {reason}" for reason, count in counts.most_common()) + "."
        if counts
        else "."
    )


callable_as(__name__, scan)
