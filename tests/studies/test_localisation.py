"""Where units fire, over a model's own activations, against a slow re-implementation; two models at once."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from vitscope.data import images
from vitscope.data.annotations import foregrounds
from vitscope.data.stream import stream
from vitscope.errors import BadValue, UnknownSite
from vitscope.studies import study
from vitscope.tap import read

COUNT = 9
COLUMNS = (
    "model site active_share active_share_q25 active_share_q75 auc auc_q25 auc_q75 auc_distance "
    "auc_distance_q25 auc_distance_q75 auc_distance_turned units units_without places exemplars"
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Noise with a brighter box in each; the last has no box."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    lines = ["path,x0,y0,x1,y1"]
    for index in range(COUNT):
        picture = draw.integers(0, 256, (32, 32, 3))
        top, left = (int(number) for number in draw.integers(0, 16, 2))
        picture[top : top + 14, left : left + 11] //= 2
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{index}.png")
        if index < COUNT - 1:
            lines.append(f"{index}.png,{left},{top},{left + 11},{top + 14}")
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    return images(f"folder:{folder}").annotated(foregrounds(boxes=folder / "boxes.csv"))


@pytest.fixture(scope="module")
def result(vit, cnn, photos):
    return study("localisation", [vit, cnn], photos, k=4)


def slowly(model, photos, name, k=4):
    """Active shares and AUCs of every unit: the mean over its k best images, one place after another."""
    site = model.sites.named(name)
    (shard,) = photos.shards()
    (batch,) = stream(photos, shard, model.preprocessing, batch_size=COUNT, on_skip=lambda _: None)
    known = [image for image in range(COUNT) if not batch.foreground[image].isnan().any()]
    with torch.no_grad():
        found = read(model, batch.pixels, [site])[name][:, site.prefix_tokens :].double().numpy()
    rows, columns = site.grid
    high, wide = 32 // rows, 32 // columns
    shares, aucs = [], []
    for unit in range(site.units):
        best = sorted(known, key=lambda image, unit=unit: -found[image, :, unit].mean())[:k]
        each, own = [], []
        for image in best:
            row = found[image, :, unit]
            inside = np.array(
                [
                    batch.foreground[image, r * high : (r + 1) * high, c * wide : (c + 1) * wide].mean()
                    for r in range(rows)
                    for c in range(columns)
                ],
                np.float64,
            )
            if row.min() < row.max():
                truth = [1] * len(row) + [0] * len(row)
                own.append(roc_auc_score(truth, [*row, *row], sample_weight=[*inside, *(1 - inside)]))
            positive = row[row > 0] / row[row > 0].sum()
            if len(positive):
                each.append(math.exp(-(positive * np.log(positive)).sum()) / len(row))
        shares.append(np.mean(each) if each else math.nan)
        aucs.append(np.mean(own) if own else math.nan)
    return np.array(shares), np.array(aucs)


@pytest.mark.parametrize(("which", "name"), [(0, "blocks.1.ffn"), (0, "blocks.2.ffn"), (1, "stages.1.1")])
def test_units_and_rows_equal_a_slow_re_implementation(vit, cnn, photos, result, which, name):
    model, called = (vit, cnn)[which], result.models[which]
    shares, aucs = slowly(model, photos, name)
    rows = result.rows(model=called)
    place = [row["site"] for row in rows].index(name)
    units = len(shares)
    assert result.by_model("active_share")[called][place][:units] == pytest.approx(shares, nan_ok=True)
    assert result.by_model("auc")[called][place][:units] == pytest.approx(aucs, abs=1e-6, nan_ok=True)
    row, apart = rows[place], abs(aucs[np.isfinite(aucs)] - 0.5)
    assert row["active_share"] == pytest.approx(np.nanmedian(shares))
    assert row["auc"] == pytest.approx(np.nanmedian(aucs), abs=1e-6)
    assert row["auc_distance"] == pytest.approx(np.median(apart), abs=1e-6)
    assert row["auc_distance_q75"] == pytest.approx(np.quantile(apart, 0.75), abs=1e-6)
    assert row["units"] == len(apart)
    assert row["units"] + row["units_without"] == units


def test_the_table_is_complete(vit, cnn, result):
    assert [list(row) for row in result.table] == [COLUMNS.split()] * len(result.table)
    ffn = [f"blocks.{block}.ffn" for block in range(3)]
    stages = ["stages.0.0", "stages.1.0", "stages.1.1", "stages.2.0"]
    assert [row["site"] for row in result.rows(model=result.models[0])] == ffn
    assert [row["site"] for row in result.rows(model=result.models[1])] == stages  # the last is 1 x 1
    assert {row["places"] for row in result.rows(model=result.models[0])} == {16}
    assert max(row["exemplars"] for row in result.table) <= COUNT - 1
    assert all(1 / row["places"] <= row["active_share"] <= 1 for row in result.table)


def test_arrays_are_padded_to_the_widest_site(result):
    arrays = result.by_model("auc_turned")
    assert {name: array.shape for name, array in arrays.items()} == {
        result.models[0]: (3, 96),
        result.models[1]: (4, 16),
    }
    assert np.isnan(arrays[result.models[1]][0, 8:]).all()
    assert set(result.arrays) == {"active_share", "auc", "auc_turned"}


def test_a_note_says_whether_the_last_site_differs(result):
    notes = result.provenance.settings["seen"]["notes"]
    assert len(notes) == 2
    assert notes[0].startswith(f"{result.models[0]}: at blocks.2.ffn units are active on 0.")
    last, before = result.table[2], result.table[:2]
    above = last["active_share"] > max(row["active_share"] for row in before)
    assert ("not above all sites before it" in notes[0]) is not above


def test_a_unit_that_marks_the_object_has_a_high_auc(photos, cnn):
    """Boxes are darker: the negative of the input is larger there. The stem's mean over channels knows it."""
    result = study("localisation", cnn, photos, sites=("stages.0.0",), k=4)
    assert abs(result.by_model("auc")[cnn.name] - 0.5)[0, :8].max() > 0.1


def test_batches_do_not_matter(vit, photos, result):
    other = study("localisation", vit, photos, k=4, batch_size=2)
    for ours, theirs in zip(result.rows(model=result.models[0]), other.table, strict=True):
        assert ours["site"] == theirs["site"]
        assert ours["active_share"] == pytest.approx(theirs["active_share"], rel=1e-4)


def test_figures(result, tmp_path):
    figures = result.figures()
    assert list(figures) == ["active_share", "auc_distance", "auc"]
    titles = [axes.get_title(loc="left") for axes in figures["auc_distance"].axes]
    assert titles == ["AUC's distance from 0.5", "The same, foreground turned"]
    result.save(tmp_path)
    assert (tmp_path / "active_share.svg").is_file()


def test_images_without_foregrounds_are_refused(vit, photos, tmp_path):
    bare = images(f"folder:{photos.name.removeprefix('folder:').split(' | ')[0]}")
    with pytest.raises(BadValue, match=r"needs boxes or masks, and folder:.* has neither. Give --boxes FILE"):
        study("localisation", vit, bare)
    (tmp_path / "whole.csv").write_text("path,x0,y0,x1,y1\n0.png,0,0,32,32\n1.png,3,3,3,3\n")
    whole = bare.annotated(foregrounds(boxes=tmp_path / "whole.csv"))
    with pytest.raises(BadValue, match=r"neither nothing nor everything of what .* is shown"):
        study("localisation", vit, whole)


def test_sites_that_a_model_has_not(vit, photos):
    with pytest.raises(UnknownSite, match=r"has no site that matches 'stages\.\*\.\*'.*--set sites=PATTERN"):
        study("localisation", vit, photos, sites=("stages.*.*",))
    with pytest.raises(BadValue, match="at least 1, not 0"):
        study("localisation", vit, photos, k=0)
