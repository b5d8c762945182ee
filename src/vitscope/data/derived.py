"""Sources made of other sources: some of their images, with annotations, or under interventions."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import islice
from typing import Any

from vitscope.data.source import (
    SHARD_SIZE,
    Annotations,
    ImageIntervention,
    ImageSource,
    OriginalIntervention,
    RawImage,
    Shard,
    Skipped,
    ViewIntervention,
    changed,
    cut,
)
from vitscope.errors import BadValue


class Images(ABC):
    """A source of images with the verbs that make another of it. What `vitscope.images` opens is one.

    >>> few = vs.images("demo:").limit(100).map(vs.low_pass(radius=32))   # doctest: +SKIP
    """

    name: str
    fingerprint: str
    classes: tuple[str, ...] | None

    @property
    @abstractmethod
    def paths(self) -> tuple[str, ...]:
        """The name of every entry, in order."""

    @abstractmethod
    def read(self, shard: Shard) -> Iterator[RawImage | Skipped]:
        """The entries of a shard, in order."""

    @abstractmethod
    def find(self, path: str) -> RawImage | Skipped:
        """One entry by its path."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Facts for provenance."""

    @abstractmethod
    def __len__(self) -> int: ...

    def shards(self, size: int = SHARD_SIZE) -> tuple[Shard, ...]:
        """Consecutive shards of at most `size` entries."""
        return cut(len(self), size)

    def map(self, *interventions: ImageIntervention) -> Images:
        """The same images under interventions, after those they are under already.

        Raises:
            BadValue: one works on the original picture, and another that works on the view comes before it.
        """
        return Mapped(self, interventions)

    def limit(self, count: int) -> Images:
        """The first `count` entries.

        Raises:
            BadValue: `count` is less than 1.
        """
        if count < 1:
            raise BadValue(f"limit must be at least 1, not {count}")
        return self if count >= len(self) else Chosen(self, range(count), told=f"first {count}")

    def where(self, chosen: Callable[[str], bool]) -> Images:
        """The entries whose path is chosen, such as those that an annotation covers: `annotations.covers`.

        Raises:
            BadValue: none is.
        """
        places = [place for place, path in enumerate(self.paths) if chosen(path)]
        if not places:
            raise BadValue(f"no image of {self.name} is chosen; its first is {self.paths[0]!r}")
        return Chosen(self, places, told=f"{len(places)} chosen")

    def annotated(self, annotations: Annotations) -> Images:
        """The same images, each with its foreground.

        Raises:
            BadValue: no path of the annotations is in the source, or no object is called like a class.
        """
        return Annotated(self, annotations)


class Derived(Images):
    """A source made of another one, with the same images in the same order unless a subclass says otherwise.

    Args:
        source: the other one; any source will do.
        changes: what is done to it, for name, fingerprint and provenance; nothing leaves them alone.
    """

    def __init__(self, source: ImageSource, changes: Sequence[str]) -> None:
        self._source = source
        self._changes = tuple(changes)
        self.classes = source.classes
        self.name = " | ".join((source.name, *changes))
        self.fingerprint = _combined(source.fingerprint, *changes) if changes else source.fingerprint

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The name of every entry, in order; a source that does not tell them is read once."""
        if isinstance(self._source, Images):
            return self._source.paths
        return tuple(entry.path for shard in self._source.shards() for entry in self._source.read(shard))

    def __len__(self) -> int:
        return len(self._source)

    def read(self, shard: Shard) -> Iterator[RawImage | Skipped]:
        """The entries of a shard, in order."""
        return map(self._changed, self._source.read(shard))

    def find(self, path: str) -> RawImage | Skipped:
        """One entry by its path; `missing` where the source does not list it."""
        return self._changed(self._source.find(path))

    def describe(self) -> dict[str, Any]:
        """Facts for provenance: those of the other source, and what was done to it."""
        facts = self._source.describe()
        own = {"name": self.name, "images": len(self), "fingerprint": self.fingerprint}
        return {**facts, **own, "changes": [*facts.get("changes", ()), *self._changes]}

    def _changed(self, entry: RawImage | Skipped) -> RawImage | Skipped:
        return entry


class Mapped(Derived):
    """A source whose images are under interventions. They have the ids they have without."""

    def __init__(self, source: ImageSource, interventions: Sequence[ImageIntervention]) -> None:
        before = source.interventions if isinstance(source, Mapped) else ()
        self.interventions: tuple[ImageIntervention, ...] = (*before, *interventions)
        check_order(self.interventions)
        self._added = tuple(interventions)
        super().__init__(source, [repr(one) for one in interventions])

    def _changed(self, entry: RawImage | Skipped) -> RawImage | Skipped:
        if isinstance(entry, Skipped):
            return entry
        return replace(entry, interventions=(*entry.interventions, *self._added))


class Annotated(Derived):
    """A source whose images have a foreground. One without an annotation has none; a bad one is skipped."""

    def __init__(self, source: ImageSource, annotations: Annotations) -> None:
        super().__init__(source, [f"{annotations.name} ({annotations.fingerprint})"])
        self._annotations = annotations
        annotations.check(self.paths, classes=source.classes)

    def _changed(self, entry: RawImage | Skipped) -> RawImage | Skipped:
        if isinstance(entry, Skipped):
            return entry
        known = self.classes is not None and entry.label is not None
        name = self.classes[entry.label] if known else None  # type: ignore[index]
        try:
            return replace(entry, foreground=self._annotations.foreground(entry.path, label=name))
        except BadValue as error:
            return Skipped(entry.path, "bad_annotation", str(error))


class Chosen(Derived):
    """Some entries of a source, in its order.

    Args:
        source: the source.
        places: which entries, ascending.
        told: the choice in words.
    """

    def __init__(self, source: ImageSource, places: Sequence[int], *, told: str) -> None:
        super().__init__(source, [told])
        self._places = places
        self.fingerprint = _combined(source.fingerprint, ",".join(map(str, places)))

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The name of every entry, in order."""
        every = super().paths
        return tuple(every[place] for place in self._places)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.paths)

    def __len__(self) -> int:
        return len(self._places)

    def read(self, shard: Shard) -> Iterator[RawImage | Skipped]:
        """The entries of a shard, in order. What lies between them is passed over, in one go."""
        places = self._places[shard.start : shard.stop]
        if not places:
            return
        span = Shard(shard.id, places[0], places[-1] + 1)
        entries = self._source.read(span)
        reached = span.start
        for place in places:
            yield next(islice(entries, place - reached, None))
            reached = place + 1

    def find(self, path: str) -> RawImage | Skipped:
        """One entry by its path; `missing` where it was not chosen."""
        if path not in self._known:
            return Skipped(path, "missing", f"not in {self.name}")
        return self._source.find(path)


class Named(Derived):
    """Some entries of a source by their names, in the order of these; one that changed since is skipped.

    Args:
        source: the source.
        named: the identity that the entry of each path has.
        told: the choice in words.
    """

    def __init__(self, source: ImageSource, named: Mapping[str, str], *, told: str) -> None:
        super().__init__(source, [told])
        self._named = named

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The name of every entry, in order."""
        return tuple(self._named)

    def __len__(self) -> int:
        return len(self._named)

    def read(self, shard: Shard) -> Iterator[RawImage | Skipped]:
        """The entries of a shard, in order."""
        return map(self.find, self.paths[shard.start : shard.stop])

    def find(self, path: str) -> RawImage | Skipped:
        """One entry by its path."""
        entry = self._source.find(path)
        if isinstance(entry, RawImage) and entry.id != self._named[path]:
            return changed(path)
        return entry


def check_order(interventions: Sequence[object]) -> None:
    """Refuse what cannot be done in the order asked for.

    Raises:
        BadValue: one that works on the original picture comes after one that works on the view of it, or
            something is no intervention on images.
    """
    seen: object = None
    for one in interventions:
        if isinstance(one, OriginalIntervention):
            if seen is not None:
                raise BadValue(
                    f"{one!r} works on the original picture and cannot come after {seen!r}: put it first"
                )
        elif isinstance(one, ViewIntervention):
            seen = one
        else:
            raise BadValue(f"{one!r} is no intervention on images: it has no on_original and no on_view")


def _combined(*facts: str) -> str:
    return f"sha256:{hashlib.sha256(chr(0).join(facts).encode()).hexdigest()}"
