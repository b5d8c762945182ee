"""Decoded batches of a shard, in order, under interventions: each picture is decoded once for all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from vitscope.data.decode import Unreadable, View, decode, placed, view
from vitscope.data.derived import check_order
from vitscope.data.source import (
    ImageBatch,
    ImageIntervention,
    ImageSource,
    OriginalIntervention,
    Picture,
    RawImage,
    Shard,
    Skipped,
    ViewIntervention,
)
from vitscope.errors import BadValue
from vitscope.models.vision_model import Preprocessing

CPU = torch.device("cpu")
PREFETCH = 2
"""Batches decoded ahead of the consumer."""

OnSkip = Callable[[Skipped], None]
"""Told of every entry that cannot be used."""
OnNote = Callable[[str, tuple[str, ...]], None]
"""Told the path and the notes of every image that was changed while decoding."""
_Originals = tuple[OriginalIntervention, ...]


def stream(
    source: ImageSource,
    shard: Shard,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    on_skip: OnSkip,
    on_note: OnNote | None = None,
    threads: int = 2,
) -> Iterator[ImageBatch]:
    """The images of a shard as batches, in order, decoded a little ahead by a few threads.

    Interventions of the source are made. Memory is bounded by `PREFETCH` batches. Threads end with the
    generator, also when it is closed early.

    Args:
        source: where the images come from.
        shard: which of them.
        preprocessing: what the model is shown.
        batch_size: images a batch; only the last may hold fewer, as skipped images take no room.
        on_skip: told of every entry that cannot be used, in order, in the consumer's thread.
        on_note: told the path and the notes of every image that was changed while decoding, or "upscaled".
        threads: decoding threads.

    Raises:
        BadValue: `batch_size` or `threads` is less than 1.
    """
    several = stream_variants(
        source,
        shard,
        preprocessing,
        [()],
        batch_size=batch_size,
        on_skip=on_skip,
        on_note=on_note,
        threads=threads,
    )
    with closing(several):
        for versions in several:
            yield from versions


def stream_variants(
    source: ImageSource,
    shard: Shard,
    preprocessing: Preprocessing,
    variants: Sequence[Sequence[ImageIntervention]],
    *,
    batch_size: int,
    on_skip: OnSkip,
    on_note: OnNote | None = None,
    threads: int = 2,
    device: torch.device = CPU,
) -> Generator[Iterator[ImageBatch], None, None]:
    """As `stream`, but each batch comes once for every variant: after the source's own interventions, its.

    Pictures are decoded once. A variant that changes the original picture costs a resize; what changes only
    the view is made when its batch is asked for, on `device`, and is not kept.

    Yields:
        An iterator over the versions of one batch, in the order of the variants. An image that cannot be
        used under one of them is in none.

    Raises:
        BadValue: `batch_size` or `threads` is less than 1, or interventions are in an impossible order.
    """
    if batch_size < 1 or threads < 1:
        raise BadValue(f"batch_size and threads must be at least 1, not {batch_size} and {threads}")
    firsts: list[_Originals] = []
    for variant in variants:
        if _originals(variant) not in firsts:
            firsts.append(_originals(variant))

    def prepare(raw: RawImage) -> _Ready | Skipped:
        for variant in variants:
            check_order((*raw.interventions, *variant))
        return _prepare(raw, preprocessing, firsts)

    def versions(ready: Sequence[_Ready]) -> Iterator[ImageBatch]:
        begun: dict[int, ImageBatch] = {}
        for variant in variants:
            which = firsts.index(_originals(variant))
            if which not in begun:
                begun[which] = _under(_batch(ready, which, device), ready[0].interventions)
            yield _under(begun[which], _on_view(variant))

    batch: list[_Ready] = []
    with closing(_ahead(source.read(shard), prepare, threads=threads, window=PREFETCH * batch_size)) as items:
        for item in items:
            if isinstance(item, Skipped):
                on_skip(item)
                continue
            if on_note and item.notes:
                on_note(item.path, item.notes)
            if batch and item.interventions != batch[0].interventions:
                yield versions(batch)
                batch = []
            batch.append(item)
            if len(batch) == batch_size:
                yield versions(batch)
                batch = []
    if batch:
        yield versions(batch)


@dataclass(frozen=True)
class _Ready:
    """One image of a shard, decoded; the file's bytes are let go.

    Attributes:
        id, path, label: as of the raw image.
        views: what the model is shown, after each of the different changes to the original picture.
        foreground: cut and resized alike, 0 to 255; None where nothing is known of it.
        interventions: those of the source that are still to be made.
        notes: what was done while decoding.
    """

    id: str
    path: str
    label: int | None
    views: tuple[View, ...]
    foreground: UInt8[np.ndarray, "row column"] | None
    interventions: tuple[ViewIntervention, ...]
    notes: tuple[str, ...]


def _prepare(raw: RawImage, preprocessing: Preprocessing, firsts: Sequence[_Originals]) -> _Ready | Skipped:
    try:
        decoded = decode(raw.content, accept_truncated=raw.accept_truncated)
    except Unreadable as error:
        return Skipped(raw.path, error.reason, error.detail)
    image, own = decoded.image, _originals(raw.interventions)
    try:
        inside = raw.foreground.inside(image.height, image.width) if raw.foreground else None
        changed = [_changed(image, inside, raw.id, (*own, *first)) for first in firsts]
    except BadValue as error:
        return Skipped(raw.path, "bad_annotation" if raw.foreground else "no_annotation", str(error))
    small = min(image.size) < (preprocessing.resize or min(preprocessing.size))
    return _Ready(
        raw.id,
        raw.path,
        raw.label,
        tuple(view(one, preprocessing) for one in changed),
        None if inside is None else _foreground(inside, preprocessing),
        _on_view(raw.interventions),
        (*decoded.notes, "upscaled") if small else decoded.notes,
    )


def _originals(interventions: Sequence[ImageIntervention]) -> _Originals:
    return tuple(one for one in interventions if isinstance(one, OriginalIntervention))


def _on_view(interventions: Sequence[ImageIntervention]) -> tuple[ViewIntervention, ...]:
    return tuple(one for one in interventions if not isinstance(one, OriginalIntervention))


def _changed(
    image: Image.Image, inside: np.ndarray | None, name: str, interventions: _Originals
) -> Image.Image:
    if not interventions:
        return image
    picture = Picture(np.asarray(image), inside, name)
    for one in interventions:
        picture = one.on_original(picture)
    return Image.fromarray(picture.pixels)


def _foreground(inside: np.ndarray, preprocessing: Preprocessing) -> UInt8[np.ndarray, "row column"]:
    """Resized and cut as the pixels are, by a kernel that does not overshoot."""
    kernel = replace(preprocessing, interpolation="bilinear")
    return np.asarray(placed(Image.fromarray(inside.astype(np.uint8) * 255), kernel))


def _under(batch: ImageBatch, interventions: Sequence[ViewIntervention]) -> ImageBatch:
    for one in interventions:
        batch = one.on_view(batch)
    return batch


def _batch(ready: Sequence[_Ready], which: int, device: torch.device) -> ImageBatch:
    pixels = torch.from_numpy(np.stack([item.views[which] for item in ready])).to(device)
    labels = [-1 if item.label is None else item.label for item in ready]
    return ImageBatch(
        ids=tuple(item.id for item in ready),
        paths=tuple(item.path for item in ready),
        pixels=rearrange(pixels, "image row column rgb -> image rgb row column")
        .contiguous()
        .float()
        .div_(255),
        labels=torch.tensor(labels, dtype=torch.int64),
        foreground=_foregrounds(ready),
    )


def _foregrounds(ready: Sequence[_Ready]) -> Float[Tensor, "image row column"] | None:
    """Of each image, NaN where nothing is known; None where nothing is known of any."""
    if all(item.foreground is None for item in ready):
        return None
    found = torch.full((len(ready), *ready[0].views[0].shape[:2]), torch.nan)
    for place, item in enumerate(ready):
        if item.foreground is not None:
            found[place] = torch.from_numpy(item.foreground.copy()).float() / 255
    return found


def _ahead(
    entries: Iterator[RawImage | Skipped],
    prepare: Callable[[RawImage], _Ready | Skipped],
    *,
    threads: int,
    window: int,
) -> Generator[_Ready | Skipped, None, None]:
    """Every entry prepared, in order, with at most `window` of them under way."""
    waiting: deque[Skipped | Future[_Ready | Skipped]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="vitscope-decode")
    try:
        for entry in entries:
            waiting.append(entry if isinstance(entry, Skipped) else pool.submit(prepare, entry))
            if len(waiting) > window:
                yield _wait(waiting.popleft())
        while waiting:
            yield _wait(waiting.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _wait(item: Skipped | Future[_Ready | Skipped]) -> _Ready | Skipped:
    return item if isinstance(item, Skipped) else item.result()
