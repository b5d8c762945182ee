"""Decoding: damaged and odd files, equality with the models' own transforms, batches in order and bounded."""

import struct
import threading
import time
import warnings
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vitscope.data.decode import FORMATS, Unreadable, decode, stream, view
from vitscope.data.source import RawImage, Shard, Skipped, cut, image_id
from vitscope.errors import BadValue
from vitscope.models.vision_model import Preprocessing

VIT_TINY = Preprocessing(size=(224, 224), resize=248, interpolation="bicubic")
RESNET18 = Preprocessing(size=(224, 224), resize=256, interpolation="bilinear")
SMALL = Preprocessing(size=(16, 16), resize=16, interpolation="bilinear")
ODD_SIZES = [(500, 375), (375, 500), (256, 256), (1, 1), (40, 1), (1, 40), (224, 1000), (333, 251), (7, 300)]


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def smooth(width: int, height: int) -> Image.Image:
    return noise(6, 5).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, fmt: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def reason(content: bytes, **options) -> str:
    with pytest.raises(Unreadable) as caught:
        decode(content, **options)
    assert caught.value.detail
    assert str(caught.value) == f"{caught.value.reason}: {caught.value.detail}"
    return caught.value.reason


def large_png(side: int) -> bytes:
    """A valid black 1-bit PNG, without the memory that Pillow would need to write it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj()
    rows = b"".join(packer.compress(bytes(1 + (side + 7) // 8)) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


JPEG = encoded(smooth(320, 240), "JPEG", quality=90)


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_of_the_list_is_read(fmt):
    image = smooth(40, 30)
    found = decode(encoded(image, fmt, **({"lossless": True} if fmt == "WEBP" else {})))
    assert found.image.mode == "RGB"
    assert found.image.size == (40, 30)
    if fmt in {"PNG", "WEBP", "BMP", "TIFF"}:
        assert np.array_equal(np.asarray(found.image), np.asarray(image))
    assert found.notes == ()


def test_fault_001_zero_bytes():
    assert reason(b"") == "unreadable"


def test_fault_002_html_named_jpg():
    with pytest.raises(Unreadable, match="unreadable: 28 bytes, beginning '<!DOCTYPE html><'"):
        decode(b"<!DOCTYPE html><html></html>")


def test_fault_003_jpeg_cut_in_half():
    assert reason(JPEG[: len(JPEG) // 2]) == "truncated"


@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_fault_003_other_formats_cut_in_half(fmt):
    content = encoded(smooth(64, 64), fmt)
    assert reason(content[: len(content) // 2]) == "truncated"
    assert reason(content[: len(content) // 2], accept_truncated=True) == "truncated"


def test_fault_004_last_two_bytes_missing():
    assert reason(JPEG[:-2]) == "truncated"
    accepted = decode(JPEG[:-2], accept_truncated=True)
    assert accepted.notes == ("truncated",)
    assert np.array_equal(np.asarray(accepted.image), np.asarray(decode(JPEG).image))


def test_fault_004_half_a_jpeg_is_grey_below_only_where_that_was_asked_for():
    accepted = decode(JPEG[: len(JPEG) // 2], accept_truncated=True)
    assert accepted.notes == ("truncated",)
    assert np.array_equal(np.asarray(accepted.image)[:80], np.asarray(decode(JPEG).image)[:80])
    assert np.ptp(np.asarray(accepted.image)[-8:], axis=(0, 1)).max() == 0


@pytest.mark.parametrize("length", [2, 3, 10, 20, 160, 620])
def test_fault_005_header_only(length):
    assert reason(JPEG[:length]) in {"unreadable", "truncated"}


def test_fault_006_every_flip_in_the_pixels_of_a_png_is_found():
    content = encoded(smooth(32, 32), "PNG")
    start = content.index(b"IDAT") + 4
    for place in range(start, len(content) - 16, 7):
        damaged = bytearray(content)
        damaged[place] ^= 16
        assert reason(bytes(damaged)) == "corrupt"


def test_fault_006_a_jpeg_whose_tables_are_damaged():
    damaged = bytearray(JPEG)
    tables = JPEG.index(b"\xff\xc4")
    damaged[tables + 5 : tables + 12] = b"\xff" * 7
    assert reason(bytes(damaged)) == "corrupt"


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FORMATS), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=30))
def test_fault_006_nothing_but_unreadable_ever_leaves_the_decoder(fmt, changes):
    content = bytearray(encoded(smooth(24, 17), fmt))
    for place, value in changes:
        content[place % len(content)] = value
    try:
        outcome = decode(bytes(content), megapixels=1.0).image.mode
    except Unreadable as error:
        outcome = error.reason
    known = {"unreadable", "truncated", "corrupt", "too_large", "non_finite", "refused_format"}
    assert outcome in {"RGB", *known}


def test_fault_007_content_decides_and_not_the_name(tmp_path):
    content = encoded(smooth(20, 20), "PNG")
    source = Handful([RawImage("liar.jpg", content), RawImage("honest.png", content)])
    batch = next(stream(source, Shard("all", 0, 2), SMALL, batch_size=2, on_skip=refuse))
    assert torch.equal(batch.pixels[0], batch.pixels[1])


def test_fault_008_a_png_of_900_megapixels():
    assert reason(large_png(30_000)) == "too_large"


@pytest.mark.filterwarnings("default")
def test_fault_009_a_png_of_144_megapixels_is_refused_before_decoding_without_a_warning():
    content = large_png(12_000)
    began = time.process_time()
    with warnings.catch_warnings(record=True) as heard, pytest.raises(Unreadable) as caught:
        decode(content)
    assert time.process_time() - began < 0.2
    assert heard == []
    assert str(caught.value) == "too_large: 12000 x 12000 is 144.0 MP, above 64"


def test_fault_008_the_large_png_of_these_tests_is_one():
    assert np.asarray(decode(large_png(100)).image).shape == (100, 100, 3)


def test_fault_009_the_limit_can_be_set():
    content = encoded(smooth(100, 100), "PNG")
    assert reason(content, megapixels=0.009) == "too_large"
    assert decode(content, megapixels=0.01).image.size == (100, 100)


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


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 10_000), (10_000, 1), (2, 20_000)])
def test_fault_011_strips_give_a_crop(size):
    ramp = np.linspace(0, 255, max(size)).astype(np.uint8)
    strip = np.broadcast_to(ramp[:, None] if size[1] > size[0] else ramp[None], size[::-1])
    found = view(Image.fromarray(strip.copy()).convert("RGB"), VIT_TINY)
    assert found.shape == (224, 224, 3)
    assert np.abs(found.mean(axis=(0, 1)) - 127.5).max() <= 1


def test_fault_012_cmyk():
    content = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")
    assert np.asarray(decode(content).image)[0, 0].tolist() == [255, 0, 0]
    assert decode(encoded(smooth(32, 32).convert("CMYK"), "JPEG")).image.mode == "RGB"


def test_fault_013_transparency_is_composited_on_white():
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.putpixel((3, 0), 1)
    found = decode(encoded(palette, "PNG", transparency=0))
    assert found.notes == ("composited",)
    assert np.asarray(found.image)[0, 0].tolist() == [255, 255, 255]
    assert np.asarray(found.image)[0, 3].tolist() == [10, 20, 30]
    half = decode(encoded(Image.new("LA", (4, 4), (0, 51)), "PNG"))
    assert np.asarray(half.image)[0, 0].tolist() == [204, 204, 204]
    clear = decode(encoded(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), "WEBP", lossless=True))
    assert np.asarray(clear.image)[0, 0].tolist() == [255, 255, 255]


def test_fault_013_greyscale_with_a_transparent_grey():
    grey = Image.new("L", (4, 4), 7)
    grey.putpixel((0, 0), 90)
    found = decode(encoded(grey, "PNG", transparency=7))
    assert np.asarray(found.image)[0, :2].tolist() == [[90] * 3, [255] * 3]


def test_fault_014_png_16_bit():
    values = np.random.default_rng(0).integers(0, 2**16, (20, 30), dtype=np.uint16)
    found = decode(encoded(Image.fromarray(values), "PNG"))
    assert found.notes == ("scaled_16_bit",)
    assert np.array_equal(np.asarray(found.image)[..., 0], np.round(values / 257.0))
    assert np.asarray(found.image).std() > 60, "not the white that Pillow makes of it"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_fault_015_float_tiff_with_nan(bad):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    fine = decode(encoded(Image.fromarray(values), "TIFF"))
    assert fine.notes == ("scaled_float",)
    assert np.array_equal(np.asarray(fine.image)[..., 1], np.rint(values * 255.0))
    values[3, 4] = bad
    with pytest.raises(Unreadable, match="non_finite: 1 pixels are NaN or infinite"):
        decode(encoded(Image.fromarray(values), "TIFF"))


def test_fault_015_numbers_without_an_agreed_range_are_refused():
    with pytest.raises(Unreadable, match=r"refused_format: float pixels from 0.0 to 9.0, expected \[0, 1\]"):
        decode(encoded(Image.fromarray(np.diag([9.0, 0.0]).astype(np.float32)), "TIFF"))
    with pytest.raises(Unreadable, match="refused_format: 32-bit whole numbers have no agreed range"):
        decode(encoded(Image.fromarray(np.ones((4, 4), np.int32)), "TIFF"))


def test_fault_016_one_bit():
    image = Image.new("1", (4, 2))
    image.putpixel((1, 0), 1)
    found = np.asarray(decode(encoded(image, "PNG")).image)
    assert found[0, :2].tolist() == [[0] * 3, [255] * 3]


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "TIFF", "PNG"])
def test_fault_017_the_first_frame_of_an_animation(fmt):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    found = decode(encoded(frames[0], fmt, save_all=True, append_images=frames[1:]))
    assert found.notes == ("first_frame",)
    assert np.abs(np.asarray(found.image)[4, 4].astype(int) - [255, 0, 0]).max() <= 2


@pytest.mark.parametrize("turn", range(1, 9))
def test_fault_018_exif_orientation(turn):
    upright = smooth(24, 16)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how a camera that turned it would have stored it
    stored = upright if turn == 1 else upright.transpose(Image.Transpose(undo[turn]))
    exif = Image.Exif()
    exif[0x0112] = turn
    found = decode(encoded(stored, "PNG", exif=exif))
    assert np.array_equal(np.asarray(found.image), np.asarray(upright))
    assert found.notes == (() if turn == 1 else ("rotated",))


def test_fault_018_damaged_exif_is_no_reason_to_lose_the_pixels():
    content = encoded(smooth(24, 16), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\0\1")
    assert decode(content).notes == ()


def test_fault_019_colour_profiles_are_ignored():
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image = smooth(16, 16)
    found = decode(encoded(image, "PNG", icc_profile=profile))
    assert np.array_equal(np.asarray(found.image), np.asarray(image))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("PostScript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
        ("PDF", b"%PDF-1.7\n"),
        ("FITS", b"SIMPLE  =                    T" + b" " * 50),
        ("PSD", b"8BPS\0\1" + bytes(40)),
        ("PPM", b"P6 1 1 255 abc"),
    ],
)
def test_fault_020_other_formats_are_refused_by_content(name, content):
    with pytest.raises(
        Unreadable, match=f"refused_format: {name} is not one of JPEG, PNG, WEBP, BMP, GIF, TIFF"
    ):
        decode(content)


def timm_view(image: Image.Image, *, size: int, crop_pct: float, interpolation: str):
    from timm.data.transforms_factory import create_transform

    shown = create_transform(size, crop_pct=crop_pct, interpolation=interpolation, normalize=False)
    return shown(image).permute(1, 2, 0).numpy()


def torchvision_view(image: Image.Image):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    shown = ImageClassification(
        crop_size=224,
        resize_size=256,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        interpolation=InterpolationMode.BILINEAR,
    )
    return (shown(image) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", ODD_SIZES)
def test_the_view_is_the_one_of_timm_and_torchvision(size):
    for image in (noise(*size), smooth(*size)):
        expected = timm_view(image, size=224, crop_pct=224 / 248, interpolation="bicubic")
        assert np.array_equal(view(image, VIT_TINY), expected)
        assert np.array_equal(view(image, RESNET18), torchvision_view(image))


@pytest.mark.parametrize("size", [(50, 90), (31, 31), (64, 40)])
def test_a_crop_larger_than_the_image_is_padded_as_torchvision_pads(size):
    from torchvision.transforms import CenterCrop, Compose, Resize

    image = noise(*size)
    expected = Compose([Resize(33), CenterCrop(48)])(image)
    asked = Preprocessing(size=(48, 48), resize=33, interpolation="bilinear")
    assert np.array_equal(view(image, asked), np.asarray(expected))


def test_no_resize_length_means_squash():
    image = smooth(50, 90)
    asked = Preprocessing(size=(32, 24), resize=None, interpolation="bicubic")
    assert np.array_equal(view(image, asked), np.asarray(image.resize((24, 32), Image.Resampling.BICUBIC)))


def test_a_strip_too_long_to_be_resized_whole_is_close_to_what_that_would_give(monkeypatch):
    image = smooth(30, 3000)
    for asked in (VIT_TINY, Preprocessing(size=(48, 48), resize=33, interpolation="bilinear")):
        whole = view(image, asked).astype(int)
        monkeypatch.setattr("vitscope.data.decode.WHOLE", 10)
        assert np.abs(view(image, asked) - whole).max() <= 2
        monkeypatch.undo()


@pytest.mark.real
def test_the_view_of_real_images_is_the_one_of_timm_and_torchvision(shared):
    for path in sorted((shared / "imagenet1k-sample").glob("*/*"))[::40]:
        image = decode(path.read_bytes()).image
        expected = timm_view(image, size=224, crop_pct=224 / 248, interpolation="bicubic")
        assert np.array_equal(view(image, VIT_TINY), expected), path
        assert np.array_equal(view(image, RESNET18), torchvision_view(image)), path


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
