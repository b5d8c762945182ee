"""Accuracy under filters against a slow re-implementation in float64, and what a curve's area is."""

import csv
import math

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.data import images
from vitscope.data.stream import stream
from vitscope.errors import BadValue
from vitscope.models import load
from vitscope.studies import study
from vitscope.studies.frequency import area_under, radii_of

COUNT = 12


@pytest.fixture(scope="module")
def photos(vit, tmp_path_factory):
    """Noise and blobs, labelled with what the ViT says of most of them, so that some are right."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for index in range(COUNT):
        coarse = draw.random((6, 6, 3))
        big = np.asarray(
            Image.fromarray((coarse * 255).astype(np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        )
        noisy = np.clip(big + draw.normal(0, 12, big.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{index:02d}.png")
    source = images(f"folder:{folder}")
    (shard,) = source.shards()
    (batch,) = stream(source, shard, vit.preprocessing, batch_size=COUNT, on_skip=lambda _: None)
    with torch.no_grad():
        said = vit.module(vit.preprocess(batch.pixels)).argmax(1).tolist()
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "index"])
        writer.writerows(
            [path, label if place % 4 else (label + 1) % 10]
            for place, (path, label) in enumerate(zip(batch.paths, said, strict=True))
        )
    return images(f"folder:{folder}", labels=folder / "labels.csv")


@pytest.fixture(scope="module")
def result(vit, cnn, photos):
    return study(
        "frequency", [vit, cnn], photos, radii=(3.0, 8.0, 99.0), filters=("disk", "gaussian", "square")
    )


def slowly(pixels, radius, shape, direction):
    """One filter by the definition: `fftshift`, a mask, back, and cut to [0, 1]; all in numpy and float64."""
    side = pixels.shape[-1]
    spectrum = np.fft.fftshift(np.fft.fft2(pixels.double().numpy()), axes=(-2, -1))
    away = np.arange(side) - side // 2
    down, across = np.meshgrid(away, away, indexing="ij")
    far = np.hypot(down, across)
    mask = {
        "disk": far <= radius,
        "square": np.maximum(abs(down), abs(across)) <= radius,
        "gaussian": np.exp(-(far**2) / (2 * radius**2)),
    }[shape].astype(np.float64)
    mask = mask if direction == "low" else 1 - mask
    back = np.fft.ifft2(np.fft.ifftshift(spectrum * mask, axes=(-2, -1)))
    assert abs(back.imag).max() < 1e-10
    level = 0.5 if direction == "high" else 0.0
    return torch.from_numpy(np.clip(back.real + level, 0, 1)).float()


def test_every_row_equals_a_slow_re_implementation(vit, cnn, photos, result):
    for name, model in zip(result.models, (vit, cnn), strict=True):
        (shard,) = photos.shards()
        (batch,) = stream(photos, shard, model.preprocessing, batch_size=COUNT, on_skip=lambda _: None)

        def right(pixels, model=model, batch=batch):
            with torch.no_grad():
                logits = model.module(model.preprocess(pixels))
            return (logits.argmax(1) == batch.labels).double().mean().item() * 100

        plain = right(batch.pixels)
        rows = result.rows(model=name)
        assert len(rows) == 3 * 2 * 3
        for row in rows:
            expected = right(slowly(batch.pixels, row["radius"], row["filter"], row["direction"]))
            assert row["top1"] == pytest.approx(expected), row
            assert row["plain_top1"] == pytest.approx(plain)
            relative = 100 * expected / plain if plain else math.nan
            assert row["relative_top1"] == pytest.approx(relative, nan_ok=True)


def test_the_table_is_complete(result):
    names = (
        "model filter direction radius top1 top1_low top1_high top5 top5_low top5_high plain_top1 "
        "relative_top1 relative_top1_low relative_top1_high area area_low area_high"
    )
    assert [list(row) for row in result.table] == [names.split()] * 36
    assert {row["filter"] for row in result.table} == {"disk", "gaussian", "square"}
    assert {row["direction"] for row in result.table} == {"low", "high"}
    assert {row["radius"] for row in result.table} == {3.0, 8.0, 16.0}
    assert all(row["top1_low"] <= row["top1"] <= row["top1_high"] for row in result.table)
    assert result.provenance.settings["seen"]["images"] == COUNT


def test_the_vit_is_right_on_nine_of_its_own_twelve(result):
    rows = result.rows(model=result.models[0])
    assert {row["plain_top1"] for row in rows} == {75.0}
    assert any(row["relative_top1"] > 0 for row in rows)


def test_the_area_is_that_of_its_own_rows(result):
    rows = result.rows(model=result.models[0], filter="disk", direction="low")
    heights = [row["relative_top1"] for row in rows]
    by_hand = ((heights[0] + heights[1]) / 2 * 5 + (heights[1] + heights[2]) / 2 * 8) / 13
    assert rows[0]["area"] == pytest.approx(by_hand)
    assert rows[0]["area_low"] <= by_hand <= rows[0]["area_high"]


def test_areas_by_hand():
    assert area_under([0, 10], np.array([0.0, 100.0]), reach=10) == 50
    assert area_under([0, 10, 40], np.array([0.0, 100.0, 0.0]), reach=10) == 50
    assert area_under([4, 8], np.array([[30.0, 30.0], [0.0, 100.0]]), reach=9).tolist() == [30, 50]
    assert np.isnan(area_under([4, 8], np.array([1.0, 2.0]), reach=5))


def test_radii_that_change_nothing_are_left_out_and_half_the_side_is_added(vit):
    assert radii_of(vit, (4, 20, 23, 64)) == [4.0, 16.0, 20.0]
    assert radii_of(vit, (16.0, 8.0)) == [8.0, 16.0]


def test_the_same_again_is_the_same(vit, photos, tmp_path):
    one = study("frequency", vit, photos, radii=(4.0,), directions=("low",), out=tmp_path / "a")
    other = study(
        "frequency", vit, photos, radii=(4.0,), directions=("low",), batch_size=5, out=tmp_path / "b"
    )
    assert one.table == other.table
    assert (tmp_path / "a" / "relative.png").is_file()
    assert (tmp_path / "a" / "table.csv").read_bytes() == (tmp_path / "b" / "table.csv").read_bytes()


def test_figures_have_a_panel_for_every_filter_and_direction(result):
    figures = result.figures()
    assert list(figures) == ["relative", "top1"]
    titles = [axes.get_title(loc="left") for axes in result.plot().axes]
    assert titles == [
        f"{direction}-pass, {shape}"
        for shape in ("disk", "gaussian", "square")
        for direction in ("low", "high")
    ]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"radii": ()}, "at least one radius, one filter and one direction"),
        ({"radii": (-1.0,)}, "the radius must be a number from 0 up"),
        ({"filters": ("dsk",)}, "Nearest: 'disk'"),
        ({"directions": ("lower",)}, "no direction 'lower': a filter keeps 'low' or 'high' frequencies"),
    ],
)
def test_settings_out_of_range(vit, photos, settings, says):
    with pytest.raises(BadValue, match=says):
        study("frequency", vit, photos, **settings)


def test_images_without_labels_are_refused(vit, photos):
    bare = images(f"folder:{photos.name.removeprefix('folder:').split(' | ')[0]}")
    with pytest.raises(
        BadValue, match=r"the study 'frequency' needs labels, and folder:.* has none. Give --labels"
    ):
        study("frequency", vit, bare)


@pytest.mark.real
def test_a_real_vit_needs_fine_detail_less_than_a_real_cnn(shared):
    """At 16 cycles per image, on the first 32 validation images (64 gave 36 % against 5 %)."""
    val, weights = shared / "imagenet1k-val725", shared / "weights"
    source = images(f"tar:{val / 'val725.tar'}", labels=val / "labels.csv", limit=32)
    pair = [
        load(name, weights=str(weights / f"{name}.safetensors"), device="cpu")
        for name in ("vit_tiny_patch16_224", "resnet18")
    ]
    result = study("frequency", pair, source, radii=(16.0,), directions=("low",))
    vit, cnn = (result.rows(model=name, radius=16.0)[0] for name in result.models)
    assert vit["plain_top1"] > 60
    assert cnn["plain_top1"] > 50
    assert vit["relative_top1"] > cnn["relative_top1"] + 10
    assert "exceeds" in result.provenance.settings["seen"]["notes"][0]
    for name in result.models:
        assert result.rows(model=name, radius=112.0)[0]["relative_top1"] > 90
