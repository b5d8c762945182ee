"""Batches of decoded images: in order, bounded, and no thread left behind."""

import threading
from collections.abc import Iterator

import pytest
import torch
from PIL import Image
from tests.data.conftest import SMALL, VIT_TINY, encoded, noise, smooth

from vitscope.data.decode import decode, stream, view
from vitscope.data.source import RawImage, Shard, Skipped, cut, image_id
from vitscope.errors import BadValue


class Handful:
    """A source of given entries that counts how far it was read."""

    name = "handful"
    fingerprint = "sha256:" + "0" * 64
    classes = None

    def __init__(self, entries: list[RawImage | Skipped]) -> None:
        self.entries = entries
        self.handed_out = 0

    def __len__(self) -> int:
        return len(self.entries)

    def shards(self, size: int = 512):
        return cut(len(self), size)

    def read(self, shard: Shard) -> Iterator[RawImage | Skipped]:
        for entry in self.entries[shard.start : shard.stop]:
            self.handed_out += 1
            yield entry

    def find(self, path: str) -> RawImage | Skipped:
        return next(entry for entry in self.entries if entry.path == path)

    def describe(self):
        return {}


def refuse(skipped: Skipped) -> None:
    raise AssertionError(f"nothing should be skipped, but {skipped}")


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("vitscope-decode")]


@pytest.fixture(scope="module")
def forty() -> list[RawImage | Skipped]:
    entries: list[RawImage | Skipped] = [
        RawImage(f"{i}.png", encoded(noise(20, 20, seed=i % 30), "PNG"), label=i % 5) for i in range(40)
    ]
    entries[3] = RawImage("3.png", b"no image")
    entries[7] = Skipped("7.png", "no_permission", "Permission denied")
    entries[39] = RawImage("39.png", entries[0].content[:-30])
    return entries


def test_fault_007_content_decides_and_not_the_name(tmp_path):
    content = encoded(smooth(20, 20), "PNG")
    source = Handful([RawImage("liar.jpg", content), RawImage("honest.png", content)])
    batch = next(stream(source, Shard("all", 0, 2), SMALL, batch_size=2, on_skip=refuse))
    assert torch.equal(batch.pixels[0], batch.pixels[1])


def test_fault_010_one_pixel_is_upscaled_and_flagged():
    notes: list[tuple[str, tuple[str, ...]]] = []
    source = Handful([RawImage("one.png", encoded(Image.new("RGB", (1, 1), (255, 0, 51)), "PNG"))])
    (batch,) = stream(
        source,
        Shard("all", 0, 1),
        VIT_TINY,
        batch_size=1,
        on_skip=refuse,
        on_note=lambda *note: notes.append(note),
    )
    assert notes == [("one.png", ("upscaled",))]
    assert torch.equal(batch.pixels, torch.tensor([1, 0, 0.2]).view(1, 3, 1, 1).expand(1, 3, 224, 224))


def test_batches_keep_order_duplicates_labels_and_identity(forty):
    skipped: list[Skipped] = []
    batches = list(stream(Handful(forty), Shard("all", 0, 40), SMALL, batch_size=8, on_skip=skipped.append))
    assert [len(batch) for batch in batches] == [8, 8, 8, 8, 5]
    assert [item.path for item in skipped] == ["3.png", "7.png", "39.png"]
    assert [item.reason for item in skipped] == ["unreadable", "no_permission", "truncated"]
    good = [entry for i, entry in enumerate(forty) if i not in (3, 7, 39)]
    assert [path for batch in batches for path in batch.paths] == [entry.path for entry in good]
    assert [id_ for batch in batches for id_ in batch.ids] == [image_id(entry.content) for entry in good]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [entry.label for entry in good]
    for batch in batches:
        assert batch.pixels.dtype == torch.float32
        assert batch.pixels.is_contiguous()
    expected = view(decode(good[20].content).image, SMALL)
    found = torch.cat([batch.pixels for batch in batches])[20]
    assert torch.equal(found, torch.from_numpy(expected.copy()).permute(2, 0, 1).float() / 255)


def test_the_same_whatever_the_batch_size_and_the_number_of_threads(forty):
    def pixels(**options):
        return torch.cat(
            [b.pixels for b in stream(Handful(forty), Shard("", 10, 39), SMALL, on_skip=refuse, **options)]
        )

    assert torch.equal(pixels(batch_size=2, threads=1), pixels(batch_size=29, threads=4))


def test_no_batch_crosses_a_shard(forty):
    source = Handful(forty[10:30])
    sizes = [
        [len(batch) for batch in stream(source, shard, SMALL, batch_size=4, on_skip=refuse)]
        for shard in source.shards(6)
    ]
    assert sizes == [[4, 2], [4, 2], [4, 2], [2]]


def test_unknown_labels_are_minus_one():
    source = Handful([RawImage("a.png", encoded(noise(4, 4), "PNG"))])
    (batch,) = stream(source, Shard("", 0, 1), SMALL, batch_size=8, on_skip=refuse)
    assert batch.labels.tolist() == [-1]


def test_it_reads_at_most_two_batches_ahead(forty):
    source = Handful(forty[8:39])
    batches = stream(source, Shard("", 0, 31), SMALL, batch_size=4, on_skip=refuse)
    for taken in range(1, 5):
        next(batches)
        assert source.handed_out <= 4 * taken + 8
    batches.close()


def test_threads_end_when_the_consumer_stops(forty):
    batches = stream(Handful(forty), Shard("", 10, 39), SMALL, batch_size=4, on_skip=refuse)
    next(batches)
    assert decoders()
    batches.close()
    assert decoders() == []


def test_threads_end_when_the_consumer_or_the_source_fails(forty):
    def trip(skipped: Skipped) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(stream(Handful(forty), Shard("", 0, 40), SMALL, batch_size=4, on_skip=trip))
    assert decoders() == []


def test_threads_end_with_the_shard(forty):
    list(stream(Handful(forty), Shard("", 10, 39), SMALL, batch_size=4, on_skip=refuse))
    assert decoders() == []


def test_a_batch_of_nothing_is_refused(forty):
    with pytest.raises(BadValue, match="batch_size and threads must be at least 1, not 0 and 2"):
        next(stream(Handful(forty), Shard("", 0, 1), SMALL, batch_size=0, on_skip=refuse))
