"""Accuracy on objects and backgrounds against a slow re-implementation, and the paper's own numbers."""

import csv
import math

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.data import images
from vitscope.data.annotations import foregrounds
from vitscope.data.source import image_id
from vitscope.data.stream import stream
from vitscope.errors import BadValue, SourceError
from vitscope.interventions.boxes import random_box
from vitscope.studies import study
from vitscope.studies.foreground import REGIONS, difference
from vitscope.studies.foreground_published import PUBLISHED, RAW, TABLE_2

COUNT = 12
SIDE = 48


@pytest.fixture(scope="module")
def folder(vit, tmp_path_factory):
    """Noise in colours, labelled with what the ViT says of most of them; boxes for all but the last."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    lines = ["path,x0,y0,x1,y1"]
    for index in range(COUNT + 1):
        coarse = Image.fromarray(draw.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{index:02d}.png")
        for _ in range(2 if index % 3 else 1):
            left, top = (int(number) for number in draw.integers(0, 24, 2))
            if index < COUNT:
                lines.append(f"{index:02d}.png,{left},{top},{left + 20},{top + 16}")
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    said = right_of(vit, shown(vit, images(f"folder:{folder}")), labels=None)
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "index"])
        writer.writerows(
            [f"{place:02d}.png", label if place % 4 else (label + 1) % 10] for place, label in enumerate(said)
        )
    return folder


@pytest.fixture(scope="module")
def photos(folder):
    return images(f"folder:{folder}", labels=folder / "labels.csv").annotated(
        foregrounds(boxes=folder / "boxes.csv")
    )


@pytest.fixture(scope="module")
def result(vit, cnn, photos):
    return study("foreground", [vit, cnn], photos, fills=("black", "mean"), seed=3)


def shown(model, source):
    (shard,) = source.shards()
    (batch,) = stream(source, shard, model.preprocessing, batch_size=64, on_skip=lambda _: None)
    return batch


def right_of(model, batch, *, labels=(), k=1):
    with torch.no_grad():
        logits = model.module(model.preprocess(batch.pixels))
    if labels is None:
        return logits.argmax(1).tolist()
    return [
        int(label) in row.topk(k).indices.tolist() for row, label in zip(logits, batch.labels, strict=True)
    ]


def cut_out(folder, name, region, fill, boxes, seed):
    """One picture with pixels replaced, by hand."""
    pixels = np.asarray(Image.open(folder / name)).astype(np.float64)
    inside = np.zeros(pixels.shape[:2], bool)
    for left, top, right, bottom in boxes[name]:
        for row in range(top, bottom):
            inside[row, left:right] = True
    if region.startswith("random"):
        inside = random_box(inside, seed=seed, name=image_id((folder / name).read_bytes()))
    gone = ~inside if region.endswith("foreground") else inside
    found = pixels.copy()
    found[gone] = 0 if fill == "black" else np.rint(pixels.mean((0, 1)))
    return found.astype(np.uint8), inside


@pytest.mark.parametrize("fill", ["black", "mean"])
@pytest.mark.parametrize("region", ["full", *REGIONS])
def test_every_row_equals_a_slow_re_implementation(vit, cnn, folder, result, tmp_path, region, fill):
    boxes = {}
    for row in csv.DictReader((folder / "boxes.csv").read_text().splitlines()):
        boxes.setdefault(row["path"], []).append([int(row[name]) for name in ("x0", "y0", "x1", "y1")])
    for name in boxes:
        if region == "full":
            pixels = np.asarray(Image.open(folder / name))
        else:
            pixels, _ = cut_out(folder, name, region, fill, boxes, 3)
        Image.fromarray(pixels).save(tmp_path / name)
    rows = (folder / "labels.csv").read_text().splitlines()
    (tmp_path / "labels.csv").write_text("\n".join(rows[: COUNT + 1]) + "\n")
    source = images(f"folder:{tmp_path}", labels=tmp_path / "labels.csv")
    for name, model in zip(result.models, (vit, cnn), strict=True):
        (row,) = result.rows(model=name, region=region, fill=None if region == "full" else fill)
        (full,) = result.rows(model=name, region="full")
        batch = shown(model, source)
        for k in (1, 5):
            expected = 100 * np.mean(right_of(model, batch, k=k))
            assert row[f"top{k}"] == pytest.approx(expected)
            if region != "full":
                ratio = 100 * expected / full[f"top{k}"] if full[f"top{k}"] else math.nan
                assert row[f"normalised_top{k}"] == pytest.approx(ratio, nan_ok=True)


def test_the_table_is_complete(result):
    columns = ["model", "region", "fill", "top1", "top1_low", "top1_high", "top5", "top5_low", "top5_high"]
    normalised = [f"normalised_top{k}{end}" for k in (1, 5) for end in ("", "_low", "_high")]
    for row in result.table:
        expected = [*columns, *([] if row["region"] == "full" else normalised), "area", "images"]
        assert list(row) == expected
    assert [(row["region"], row["fill"]) for row in result.rows(model=result.models[1])] == [
        ("full", None),
        *((region, fill) for fill in ("black", "mean") for region in REGIONS),
    ]
    assert {row["images"] for row in result.table} == {COUNT}
    seen = result.provenance.settings["seen"]
    assert seen["images"] == COUNT
    assert seen["skipped"] == {"no_annotation": 1}


def test_the_area_is_that_of_the_boxes(vit, photos, result):
    batch = shown(vit, photos)
    covered = 100 * batch.foreground[:COUNT].double().mean().item()
    for row in result.rows(model=result.models[0], fill="black"):
        expected = {"foreground": covered, "background": 100 - covered}.get(row["region"])
        assert row["area"] == (expected if expected is None else pytest.approx(expected))


def test_notes_compare_the_first_model_with_the_others(vit, photos, result):
    """Of a model and itself, that there is no difference; not of one that is never right."""
    twice = study("foreground", [vit, vit], photos).provenance.settings["seen"]["notes"]
    again = f"{vit.name} (2)"
    assert twice[-4:] == [
        f"{region}, black: normalised top-5 of {vit.name} exceeds {again}'s by +0.0 to +0.0 points (95 %)"
        for region in REGIONS
    ]
    never = not result.rows(model=result.models[1], region="full")[0]["top5"]
    notes = result.provenance.settings["seen"]["notes"]
    assert any("normalised top-5" in note for note in notes) is not never


def test_the_interval_of_a_difference():
    draw = np.random.default_rng(0)
    full = draw.random(400) < 0.9
    ours, theirs = full & (draw.random(400) < 0.6), full & (draw.random(400) < 0.4)
    low, high = difference(ours, full, theirs, full, seed=0)
    value = 100 * (ours.sum() - theirs.sum()) / full.sum()
    assert low < value < high
    slow = []
    for _ in range(2000):
        some = draw.integers(0, 400, 400)
        slow.append(100 * (ours[some].sum() - theirs[some].sum()) / full[some].sum())
    assert (low, high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.8)
    assert difference(ours, full, ours, full, seed=0) == (0.0, 0.0)
    assert np.isnan(difference(ours, ~full & full, theirs, full, seed=0)).all()


def test_published_normalised_values_are_ratios_of_the_published_raw_ones():
    for model, (full, foreground, background) in TABLE_2.items():
        whole, front, behind = RAW[model]
        assert full == whole[1]
        assert 100 * front[1] / whole[1] == pytest.approx(foreground, abs=0.012)
        near = 0.051 if model == "vit_large_patch32_384" else 0.012
        assert 100 * behind[1] / whole[1] == pytest.approx(background, abs=near)
    assert len(PUBLISHED) == 2 * 3 * 8
    assert {row["region"] for row in PUBLISHED} == {"full", "foreground", "background"}


def test_matched_resolution_shows_all_models_the_same_detail(vit, cnn, photos, result):
    small = study("foreground", [vit, cnn], photos, resolution=4)
    assert [row["top5"] for row in small.table] != [
        row["top5"] for row in result.table if row["fill"] != "mean"
    ]
    same = study("foreground", vit, photos, resolution=32, seed=3)
    for row, other in zip(same.table, result.rows(model=result.models[0]), strict=False):
        assert row["top5"] == other["top5"]
    with pytest.raises(BadValue, match="is shown 32 x 32 pixels, fewer than a resolution of 33"):
        study("foreground", vit, photos, resolution=33)


def test_the_same_again_whatever_the_batch(vit, photos, tmp_path):
    one = study("foreground", vit, photos, out=tmp_path / "a")
    other = study("foreground", vit, photos, batch_size=5)
    assert one.table == other.table
    assert (tmp_path / "a" / "normalised.png").is_file()


def test_figures_have_a_panel_for_every_fill_and_k(result):
    assert list(result.figures()) == ["normalised", "accuracy"]
    titles = [axes.get_title(loc="left") for axes in result.plot().axes]
    assert titles == ["top-5, black", "top-1, black", "top-5, mean", "top-1, mean"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"fills": ()}, "at least one fill"), ({"fills": ("blakc",)}, "Nearest: 'black'")],
)
def test_settings_out_of_range(vit, photos, settings, says):
    with pytest.raises(BadValue, match=says):
        study("foreground", vit, photos, **settings)


def test_images_that_cannot_be_read_are_no_missing_annotation(vit, photos, folder, tmp_path):
    for index in range(COUNT):
        content = (folder / f"{index:02d}.png").read_bytes()
        (tmp_path / f"{index:02d}.png").write_bytes(content if index else content[:60])
    (tmp_path / "labels.csv").write_text((folder / "labels.csv").read_text().rsplit("\n", 2)[0] + "\n")
    source = images(f"folder:{tmp_path}", labels=tmp_path / "labels.csv").annotated(
        foregrounds(boxes=folder / "boxes.csv")
    )
    with pytest.raises(SourceError, match=r"1 of 12 images were skipped, more than 5%\. First: '00\.png'"):
        study("foreground", vit, source)


def test_what_is_missing_is_named(vit, folder):
    bare = images(f"folder:{folder}")
    with pytest.raises(BadValue, match="needs labels"):
        study("foreground", vit, bare)
    labelled = images(f"folder:{folder}", labels=folder / "labels.csv")
    with pytest.raises(BadValue, match="needs boxes or masks"):
        study("foreground", vit, labelled)
