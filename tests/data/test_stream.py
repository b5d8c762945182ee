"""Batches of decoded images: in order, bounded, and no thread left behind."""

import dataclasses
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.conftest import SMALL, VIT_TINY, encoded, noise, smooth

from vitscope.data.decode import decode, view
from vitscope.data.source import RawImage, Shard, Skipped, cut, image_id
from vitscope.data.stream import stream, stream_variants
from vitscope.errors import BadValue
from vitscope.interventions.images import keep_boxes, low_pass, rotate, shift


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


class Striped:
    """Foreground: every other row."""

    def inside(self, rows: int, columns: int):
        if rows != 16:
            raise BadValue(f"made for 16 rows, not {rows}")
        found = np.zeros((rows, columns), bool)
        found[::2] = True
        return found


def test_the_foreground_is_resized_and_cut_as_the_pixels_are():
    def picture(rows: int, columns: int):
        found = np.zeros((rows, columns), bool)
        found[rows // 4 : rows // 2, columns // 3 :] = True
        return found

    class Corner:
        def inside(self, rows: int, columns: int):
            return picture(rows, columns)

    for width, height in ((300, 260), (224, 500), (97, 401), (40, 2000)):
        drawn = Image.fromarray(picture(height, width).astype(np.uint8) * 255).convert("RGB")
        raw = RawImage("a.png", encoded(drawn, "PNG"), foreground=Corner())
        (batch,) = stream(Handful([raw]), Shard("", 0, 1), VIT_TINY, batch_size=1, on_skip=refuse)
        bilinear = dataclasses.replace(VIT_TINY, interpolation="bilinear")
        assert torch.equal(batch.foreground[0], torch.from_numpy(view(drawn, bilinear).copy())[:, :, 0] / 255)
        assert (batch.foreground[0] - batch.pixels[0, 0]).abs().mean() < 0.02


def test_images_with_and_without_a_foreground_in_one_batch():
    content = encoded(smooth(16, 16), "PNG")
    entries = [RawImage("a.png", content, foreground=Striped()), RawImage("b.png", content)]
    (batch,) = stream(Handful(entries), Shard("", 0, 2), SMALL, batch_size=2, on_skip=refuse)
    expected = torch.zeros(16, 16)
    expected[::2] = 1
    assert torch.equal(batch.foreground[0], expected)
    assert batch.foreground[1].isnan().all()
    (batch,) = stream(Handful(entries[1:]), Shard("", 0, 1), SMALL, batch_size=2, on_skip=refuse)
    assert batch.foreground is None


def test_an_annotation_that_does_not_fit_skips_its_image():
    skipped: list[Skipped] = []
    entries = [
        RawImage("a.png", encoded(smooth(16, 20), "PNG"), foreground=Striped()),
        RawImage("b.png", encoded(smooth(16, 16), "PNG"), foreground=Striped()),
        RawImage("c.png", encoded(smooth(16, 16), "PNG")),
    ]
    several = stream_variants(
        Handful(entries), Shard("", 0, 3), SMALL, [(), (keep_boxes(),)], batch_size=8, on_skip=skipped.append
    )
    versions = [batch for some in several for batch in some]
    assert [batch.paths for batch in versions] == [("b.png",), ("b.png",)]
    assert [(one.path, one.reason) for one in skipped] == [
        ("a.png", "bad_annotation"),
        ("c.png", "no_annotation"),
    ]
    assert "made for 16 rows, not 20" in skipped[0].detail


def test_images_under_different_interventions_share_no_batch():
    content = encoded(smooth(16, 16), "PNG")
    entries = [
        RawImage(f"{i}.png", content, interventions=(shift(i // 2, 0),) if i > 1 else ()) for i in range(6)
    ]
    batches = list(stream(Handful(entries), Shard("", 0, 6), SMALL, batch_size=4, on_skip=refuse))
    assert [batch.paths for batch in batches] == [("0.png", "1.png"), ("2.png", "3.png"), ("4.png", "5.png")]
    for down, batch in enumerate(batches):
        assert torch.equal(batch.pixels, batches[0].pixels.roll(down, 2))


def test_versions_are_made_when_asked_for():
    made = []

    class Told:
        def on_view(self, batch):
            made.append(len(batch))
            return batch

    source = Handful([RawImage("a.png", encoded(smooth(16, 16), "PNG"))])
    versions = next(
        stream_variants(source, Shard("", 0, 1), SMALL, [(Told(),)] * 3, batch_size=1, on_skip=refuse)
    )
    assert made == []
    next(versions)
    assert made == [1]


def test_a_foreground_belongs_to_the_upright_picture():
    asked = []

    class Asked:
        def inside(self, rows: int, columns: int):
            asked.append((rows, columns))
            return np.ones((rows, columns), bool)

    turned = Image.Exif()
    turned[0x0112] = 6
    content = encoded(smooth(40, 20), "JPEG", exif=turned)
    raw = RawImage("a.jpg", content, foreground=Asked())
    (batch,) = stream(Handful([raw]), Shard("", 0, 1), SMALL, batch_size=1, on_skip=refuse)
    assert asked == [(40, 20)]
    assert batch.foreground.eq(1).all()


def test_interventions_do_not_touch_what_others_see():
    source = Handful([RawImage("a.png", encoded(smooth(16, 16), "PNG"))])
    grid = [(), (shift(3, 5, edge="black"),), (low_pass(radius=2),), (keep_boxes(), rotate(30)), ()]
    entries = [dataclasses.replace(entry, foreground=Striped()) for entry in source.entries]
    (versions,) = stream_variants(
        Handful(entries), Shard("", 0, 1), SMALL, grid, batch_size=1, on_skip=refuse
    )
    first, *_, last = list(versions)
    assert torch.equal(first.pixels, last.pixels)
    assert torch.equal(first.foreground, last.foreground)
    (plain,) = stream(source, Shard("", 0, 1), SMALL, batch_size=1, on_skip=refuse)
    assert torch.equal(first.pixels, plain.pixels)
