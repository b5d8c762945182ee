"""What a pass leaves behind: parts, which are files. Merging them is all that resuming and clusters need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

from numpy.typing import NDArray

from vitscope.data.source import ImageSource, Skipped
from vitscope.errors import BadValue, SourceError
from vitscope.meters.meter import Arrays, Meter, State
from vitscope.models.vision_model import Sites

BATCH_SIZE = 8
"""Images a forward pass: the fastest for a ViT-Ti on two cores, where activations still fit the cache."""
MAX_SKIP = 0.05
"""The share of a source that may be skipped before a scan is refused."""


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
            f" First: {part.skipped[0].path!r}. Mend or remove them; scan and build allow more with max_skip,"
            " `vitscope build` with --max-skip."
        )


def gathered(
    source: ImageSource,
    finished: Iterable[Sequence[Part]],
    *,
    max_skip: float,
    on_progress: Callable[[int, int], None] | None,
) -> tuple[Scanned, ...]:
    """What the passes over a whole source found, one result for each of the parts that a shard left behind.

    Args:
        source: the images.
        finished: the parts of each shard, always as many and in the same order.
        max_skip: the share of entries that may be skipped, 0 to 1.
        on_progress: told after every shard how many entries are done, and of how many.

    Raises:
        SourceError: no image could be read, or more than `max_skip` of the entries were skipped.
    """
    whole: tuple[Part, ...] = ()
    for parts in finished:
        whole = tuple(map(merge_parts, zip(whole, parts, strict=True))) if whole else tuple(parts)
        check_skipped(whole[0], total=len(source), max_skip=max_skip)
        if on_progress:
            on_progress(len(whole[0].images) + len(whole[0].skipped), len(source))
    if not whole or not whole[0].images:
        reasons = _reasons(whole[0] if whole else None)
        raise SourceError(f"{source.name} has no image that could be read{reasons}")
    return tuple(
        Scanned({name: state.result() for name, state in part.states.items()}, part.images, part.skipped)
        for part in whole
    )


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
