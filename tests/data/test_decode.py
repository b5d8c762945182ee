"""Decoding: damaged and odd files end in one of the known reasons, others in exact pixels."""

import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.data.conftest import encoded, smooth

from vitscope.data.decode import FORMATS, Unreadable, decode


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
