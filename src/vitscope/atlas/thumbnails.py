"""Thumbnails of exemplar images: what the model saw, so that a patch map lies exactly on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import torch
from PIL import Image

from vitscope.atlas.commit import write
from vitscope.atlas.leaf import webp
from vitscope.data.decode import Unreadable, decode, view
from vitscope.data.source import ImageSource, RawImage, Shard, Skipped, changed
from vitscope.models.vision_model import Preprocessing

SHORT_SIDE = 160
"""Pixels of a thumbnail's shorter side: nine of them fill a page's width, at about 5 kB each."""
QUALITY = 80
"""Of the WebP."""

TOGETHER = 32
"""Files in memory at a time: several threads make thumbnails of them."""


def finer(preprocessing: Preprocessing, *, side: int = SHORT_SIDE) -> Preprocessing:
    """The same crop of the image with some whole times the pixels, the shorter side at least `side`."""
    times = -(-side // min(preprocessing.size))
    rows, columns = preprocessing.size
    resize = None if preprocessing.resize is None else preprocessing.resize * times
    return replace(preprocessing, size=(rows * times, columns * times), resize=resize)


def thumbnail(entry: RawImage, preprocessing: Preprocessing) -> bytes:
    """The WebP thumbnail of one file.

    Args:
        entry: the file.
        preprocessing: how the model is shown images; the thumbnail is the same crop.

    Raises:
        Unreadable: the bytes are no image that may be decoded.
    """
    decoded = decode(entry.content, accept_truncated=entry.accept_truncated)
    picture = Image.fromarray(view(decoded.image, finer(preprocessing)))
    scale = SHORT_SIDE / min(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return webp(picture.resize(size, Image.Resampling.BICUBIC), quality=QUALITY)


def make_thumbnails(
    source: ImageSource,
    wanted: Mapping[str, str],
    *,
    shards: Iterable[Shard],
    preprocessing: Preprocessing,
    file_of: Callable[[str], Path],
    on_done: Callable[[int], None],
) -> list[Skipped]:
    """Write the thumbnails that are not there yet, in one pass over the shards, as archives cannot be read
    at random.

    An image that is not in the source any more, or whose file has other bytes now, gets none; the reason is
    written in its place and returned.

    Args:
        source: where the images come from.
        wanted: identity -> path of the images to show.
        shards: where to look for them.
        preprocessing: how the model is shown images.
        file_of: identity -> where its thumbnail goes.
        on_done: told how many of `wanted` are settled.
    """
    missing = {image: path for image, path in wanted.items() if not file_of(image).exists()}
    seen: dict[str, Skipped] = {}
    entries = _found(source, shards, missing, seen)
    on_done(len(wanted) - len(missing))

    def make(entry: RawImage) -> None:
        _make(entry, preprocessing, file_of(entry.id))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        while some := list(islice(entries, TOGETHER)):
            list(pool.map(make, some))
            on_done(len(wanted) - len(missing))
    lost = [
        seen.get(path, Skipped(path, "missing", "it is not in the source any more"))
        for path in missing.values()
    ]
    for image, reason in zip(missing, lost, strict=True):
        write(
            file_of(image).with_suffix(".skipped"),
            (json.dumps(asdict(reason), sort_keys=True) + "\n").encode(),
        )
    return lost


def _found(
    source: ImageSource, shards: Iterable[Shard], missing: dict[str, str], seen: dict[str, Skipped]
) -> Iterator[RawImage]:
    """The files of missing images, which are then no longer missing; and why others may never be found."""
    expected = {path: image for image, path in missing.items()}
    for shard in shards:
        if not missing:
            return
        for entry in source.read(shard):
            if isinstance(entry, Skipped):
                seen[entry.path] = entry
                continue
            if expected.get(entry.path, entry.id) != entry.id:
                seen[entry.path] = changed(entry.path)
            if missing.pop(entry.id, None) is not None:
                yield entry


def _make(entry: RawImage, preprocessing: Preprocessing, path: Path) -> None:
    try:
        write(path, thumbnail(entry, preprocessing))
    except Unreadable as error:  # the scan decoded these very bytes, but perhaps at another size
        reason = Skipped(entry.path, error.reason, error.detail)
        write(path.with_suffix(".skipped"), (json.dumps(asdict(reason), sort_keys=True) + "\n").encode())
    else:
        path.with_suffix(".skipped").unlink(missing_ok=True)
