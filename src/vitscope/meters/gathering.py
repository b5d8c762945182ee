"""Gram matrices gathered over a stream of images, batch by batch, whatever the batches of the forward passes.

A Gram batch is larger than a forward pass's: its images are gathered in the order of the source until there
are enough. Features of so many images may not fit the memory a scan may take. Then some wait in a temporary
file that has no name, and only until the Gram matrix of their name is made.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32

from vitscope.errors import Failure
from vitscope.meters.grams import LEAST, Grams
from vitscope.meters.meter import Arrays
from vitscope.meters.reading import Array

GRAM = 128
"""Images in a Gram batch: results do not change above (Raghu et al. 2021, section 2, found so from 128)."""
IN_MEMORY = 96 * 2**20
"""Bytes of features, over all names, that are gathered in memory; those of further names in a file."""
COLUMNS = 8192
"""Features that are multiplied at once: 4 MB of 128 images."""
ROWS = 32
"""Images a product: a matrix that is symmetric needs little more than half of the products."""
Batch = tuple[Array, Float32[Array, "name pair"]]
"""The ids of a Gram batch, and the triangles of all names."""
Own = TypeVar("Own", bound="GramState")


class GramState(ABC):
    """The Gram matrices so far, and the images of the batch that is being gathered.

    Args:
        sizes: how many features an image has, by what they are features of.
        gram: images in a Gram batch.
    """

    def __init__(self, sizes: Mapping[str, int], gram: int) -> None:
        self.names = tuple(sizes)
        self.done: list[Batch] = []
        self.dropped = 0
        self._sizes, self._gram = dict(sizes), gram
        self._waiting: _Gathered | None = None
        self._ids: dict[str, list[bytes]] = {name: [] for name in self.names}
        self._grams: dict[str, list[tuple[bytes, Array]]] = {name: [] for name in self.names}

    @abstractmethod
    def fresh(self: Own) -> Own:
        """A state of the same meter that has seen nothing."""

    def take(self, name: str, ids: Sequence[str], features: Float32[Array, "image feature"]) -> None:
        """Take in features of some more images. Every name must be given all images, in the same order."""
        if self._waiting is None:
            self._waiting = _Gathered(self._sizes, self._gram)
        own, start = self._ids[name], 0
        while start < len(features):
            stop = min(len(features), start + self._gram - len(own))
            self._waiting.put(name, len(own), features[start:stop])
            own += [bytes.fromhex(one) for one in ids[start:stop]]
            if len(own) == self._gram:
                self._grams[name].append((b"".join(own), self._waiting.gram(name, len(own))))
                own.clear()
                self._collect()
            start = stop

    def merge(self: Own, other: Own) -> Own:
        """What both have seen."""
        both = self.fresh()
        here, there = self._closed(), other._closed()
        both.done, both.dropped = [*here[0], *there[0]], here[1] + there[1]
        return both

    def arrays(self) -> Arrays:
        """Ids and triangles of all batches, one after another, ordered by ids."""
        done, dropped = self._closed()
        found = {
            "dropped": np.array(dropped),
            "sizes": np.array([len(ids) for ids, _ in done], np.int64),
            "ids": np.concatenate([np.zeros((0, 16), np.uint8), *(ids for ids, _ in done)]),
        }
        for index, name in enumerate(self.names):
            none = np.zeros(0, np.float32)
            found[f"{name}/gram"] = np.concatenate([none, *(rows[index] for _, rows in done)])
        return found

    def loaded(self: Own, arrays: Mapping[str, Array]) -> Own:
        """A state with what `arrays` described."""
        state, sizes = self.fresh(), arrays["sizes"].tolist()
        state.dropped = int(arrays["dropped"])
        ids = np.split(arrays["ids"], np.cumsum(sizes)[:-1]) if sizes else []
        pairs = np.cumsum([size * (size + 1) // 2 for size in sizes])[:-1]
        rows = [np.split(arrays[f"{name}/gram"], pairs) if sizes else [] for name in self.names]
        state.done = list(zip(ids, map(np.stack, zip(*rows, strict=True)), strict=True))
        return state

    def result(self) -> Grams:
        """The matrices, to be compared."""
        done, dropped = self._closed()
        return Grams(self.names, tuple(ids for ids, _ in done), tuple(rows for _, rows in done), dropped)

    def _collect(self) -> None:
        """Move the batches that all names have finished."""
        while all(self._grams.values()):
            batch = [self._grams[name].pop(0) for name in self.names]
            self.done.append((_rows_of(batch[0][0]), np.stack([gram for _, gram in batch])))

    def _closed(self) -> tuple[list[Batch], int]:
        """All batches, with the one that is being gathered as it is, in the order of their ids; and how many
        images are too few for a batch."""
        done, ids = list(self.done), self._ids[self.names[0]]
        short = len(ids) < LEAST
        if self._waiting is not None and not short:
            rows = np.stack([self._waiting.gram(name, len(ids)) for name in self.names])
            done.append((_rows_of(b"".join(ids)), rows))
        return sorted(done, key=lambda batch: batch[0].tobytes()), self.dropped + (len(ids) if short else 0)


class _Gathered:
    """The features of the images of one Gram batch, of every name: in memory, and those that do not fit there
    in a file that is deleted with this.

    Args:
        sizes: how many features an image has, by name.
        images: the images of a batch.
    """

    def __init__(self, sizes: Mapping[str, int], images: int) -> None:
        self._sizes, self._images = dict(sizes), images
        self._memory: dict[str, Array] = {}
        self._starts: dict[str, int] = {}
        held = self._filed = 0
        for name, size in sizes.items():
            needed = 4 * size * images
            if held + needed <= IN_MEMORY:
                self._memory[name] = np.empty((images, size), np.float32)
                held += needed
            else:
                self._starts[name] = self._filed
                self._filed += needed
        if self._filed:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it is closed with this
            weakref.finalize(self, self._file.close)
            with self._told():
                reserve = getattr(os, "posix_fallocate", lambda *_: None)  # a third of the time of growing
                reserve(self._file.fileno(), 0, self._filed)

    def put(self, name: str, row: int, features: Float32[Array, "image feature"]) -> None:
        """Keep the features of the images from `row` on."""
        if name in self._memory:
            self._memory[name][row : row + len(features)] = features
        else:
            self._transfer(self._file.write, self._starts[name] + 4 * row * self._sizes[name], features)

    def gram(self, name: str, images: int) -> Float32[Array, " pair"]:
        """The matrix of the first so many images, of features centred over these images; its upper triangle.

        Products are in float32, of differences to the first image, so that features that never differ are
        exactly 0; they are added up, and centred, in float64.
        """
        total = torch.zeros(images, images, dtype=torch.float64)
        for start in range(0, self._sizes[name], COLUMNS):
            values = torch.from_numpy(self._columns(name, images, start))
            values = values - values[0]
            for row in range(0, images, ROWS):
                total[row : row + ROWS, row:] += values[row : row + ROWS] @ values[row:].T
        total = total.triu() + total.triu(1).T
        total -= total.mean(dim=0)
        total -= total.mean(dim=1, keepdim=True)
        found: Array = total.numpy()[np.triu_indices(images)].astype(np.float32)
        return found

    def _columns(self, name: str, images: int, start: int) -> Float[Array, "image column"]:
        """Some features of the first so many images."""
        stop = min(self._sizes[name], start + COLUMNS)
        if name in self._memory:
            return self._memory[name][:images, start:stop]
        found = np.empty((images, stop - start), np.float32)
        for row in range(images):
            place = self._starts[name] + 4 * (row * self._sizes[name] + start)
            self._transfer(self._file.readinto, place, found[row])
        return found

    def _transfer(self, move: Callable[[memoryview], int], place: int, values: Array) -> None:
        """Write values to the file, or fill them from it; a call may move fewer bytes than it is asked to."""
        content, moved = values.data.cast("B"), 0
        with self._told():
            self._file.seek(place)
            while moved < len(content):
                some = move(content[moved:])
                moved += some
                if not some:
                    raise OSError(f"{len(content) - moved} bytes are missing")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong with the file is said with what helps."""
        try:
            yield
        except OSError as error:
            raise Failure(
                f"the features of {self._images} images need {self._filed / 1e6:.0f} MB in "
                f"{tempfile.gettempdir()} ({error}). Set TMPDIR, or take a smaller gram, or features=mean"
            ) from error


def _rows_of(ids: bytes) -> Array:
    return np.frombuffer(ids, np.uint8).reshape(-1, 16)
