"""Levels and filters of the study `views` against loops, figures, and models that have no filters."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score

from vitscope.data import images
from vitscope.errors import BadValue, Unsuited
from vitscope.flow import rolled
from vitscope.studies import study
from vitscope.studies.view_levels import LEVELS, aucs, drawn_levels, foremost, good, of_flow
from vitscope.testing import tiny_vit

COUNT = 5


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Dark boxes on bright noise; the last picture has no box."""
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    lines = ["path,x0,y0,x1,y1"]
    for index in range(COUNT):
        picture = draw.integers(150, 256, (32, 32, 3))
        picture[8:24, 0:16] //= 6
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"{index}.png")
        if index < COUNT - 1:
            lines.append(f"{index}.png,0,8,16,24")
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    return images(f"folder:{folder}", boxes=folder / "boxes.csv")


@pytest.fixture(scope="module")
def result(vit, photos):
    return study("views", [vit, tiny_vit(seed=1)], photos, shown=1, batch_size=2)


def some_flow(prefix, tokens=6):
    draw = torch.Generator().manual_seed(4)
    size = (2, 3, tokens + prefix, tokens + prefix)
    return rolled([torch.rand(size, generator=draw, dtype=torch.float64).softmax(-1) for _ in range(2)])


@pytest.mark.parametrize("prefix", [0, 2])
def test_levels_are_the_means_taken_one_by_one(prefix):
    flow, inside = some_flow(prefix), torch.tensor([[0, 1, 0.25, 0, 1, 0], [1, 1, 1, 0, 0, 0.5]])
    found = of_flow(flow, inside, prefix=prefix)
    assert found.shape == (2, 3, len(LEVELS))
    for level, image in ((1, 0), (2, 1)):
        told = {name: [] for name in LEVELS}
        for head in range(3):
            rows = flow[level, image, head, :, prefix:].numpy()
            shares = rows / rows.sum(axis=1, keepdims=True)
            own = [rows[prefix + place, place] for place in range(6)]
            spread = [np.exp(-sum(p * np.log(p) for p in shares[prefix + place])) / 6 for place in range(6)]
            told["own"].append(np.mean(own))
            told["effective"].append(np.mean(spread))
            alone = np.exp(-sum(p * np.log(p) for p in shares[0])) / 6
            told["effective_cls"].append(alone if prefix else np.nan)
            told["prefix"].append(1 - rows[prefix:].sum(axis=1).mean())
            mask = inside[image].numpy()
            for name, who, what in (
                ("from_object", mask, mask),
                ("from_object_turned", mask[::-1], mask[::-1]),
                ("from_background", 1 - mask, mask),
            ):
                each = [who[place] * (shares[prefix + place] @ what) for place in range(6)]
                told[name].append(sum(each) / who.sum())
            told["from_cls"].append(shares[0] @ mask if prefix else np.nan)
        expected = [np.mean(told[name]) for name in LEVELS]
        assert np.allclose(found[image, level], expected, equal_nan=True)


def test_at_level_0_a_patch_is_itself():
    found = of_flow(some_flow(1), torch.tensor([[0.0, 1, 1, 0, 0, 0]] * 2), prefix=1)[:, 0]
    assert np.allclose(found[0], [1, 1 / 6, np.nan, 0, 1, 1, 0, np.nan], equal_nan=True)


def test_an_image_without_foreground_has_no_share_of_it():
    found = of_flow(some_flow(1), torch.tensor([[torch.nan] * 6, [0.0] * 6]), prefix=1)
    assert np.isfinite(found[:, 1:, :4]).all()
    assert np.isnan(found[..., 4:]).all()


def test_aucs_are_those_of_weighted_places_and_do_not_depend_on_scale():
    draw = torch.Generator().manual_seed(1)
    values = torch.randn(2, 9, 4, generator=draw, dtype=torch.float64).round(decimals=1)
    values[0, :, 2] = 3.0
    inside = torch.tensor([[1, 0, 0.25, 0, 1, 0, 0, 0.5, 0], [torch.nan] * 9])
    found = aucs(values, inside)
    for side, mask in enumerate((inside[0].numpy(), inside[0].numpy()[::-1])):
        for unit in (0, 3):
            truth, weights = np.repeat([1, 0], 9), np.concatenate([mask, 1 - mask])
            expected = roc_auc_score(truth, np.tile(values[0, :, unit], 2), sample_weight=weights)
            assert found[side, 0, unit] == pytest.approx(expected)
    assert (found[:, 0, 2] == 0.5).all()
    assert np.isnan(found[:, 1]).all()
    scaled = aucs(values * torch.tensor([[[7.0]], [[0.1]]]), inside)
    assert np.array_equal(scaled, found, equal_nan=True)
    assert good(np.array([0.75, 0.25, 0.74, np.nan])).tolist() == [True, True, False, False]
    assert foremost(torch.tensor([2, 0, 2, 1, 2])) == 2


def test_rows_hold_a_level_each_and_two_measures(result, vit):
    rows = result.rows(model=result.models[0], part="level")
    assert [row["level"] for row in rows] == [0, 1, 2, 3]
    assert (rows[0]["own"], rows[0]["from_object"]) == (1, 1)
    assert np.isnan(rows[0]["from_cls"])
    assert rows[0]["object_area"] == pytest.approx(0.25)
    assert all(row["own"] >= 0.5 ** row["level"] for row in rows)
    gains = [row["from_object"] - row["from_object_turned"] for row in rows]
    assert [row["object_gain"] for row in rows] == pytest.approx(gains)
    assert rows[0]["object_gain_error"] == 0 < rows[2]["object_gain_error"]
    told = result.rows(model=result.models[0], part="filters")
    assert [row["measure"] for row in told] == ["sum", "size"]
    auc = result.by_model("auc")[result.models[0]]
    assert auc.shape == (COUNT, 24)
    assert np.isnan(auc[-1]).all()
    kinds = good(auc[:-1])
    assert told[0]["good"] == pytest.approx(kinds.mean())
    assert (
        told[0]["best_served"] == pytest.approx(kinds.mean(axis=0).max()) == kinds[:, told[0]["best"]].mean()
    )
    assert told[0]["helped"] == pytest.approx(kinds.any(axis=1).mean())
    assert told[0]["images"] == COUNT - 1
    assert np.allclose(result.by_model("served")[result.models[0]], kinds.mean(axis=0))
    best = result.by_model("best")[result.models[0]]
    assert best[0, 0] == np.argmax(abs(auc[0] - 0.5))


def test_dark_boxes_are_told_by_any_filter_that_sees_brightness(result):
    told = result.rows(part="filters", measure="sum")
    assert all(row["good"] > row["good_turned"] for row in told)
    assert all(row["helped"] == 1 for row in told)


def test_each_head_by_itself(vit, photos):
    mean, own = (study("views", vit, photos, heads=heads, shown=0) for heads in ("mean", "own"))
    one, other = (found.rows(part="level") for found in (mean, own))
    assert one[1]["own"] == pytest.approx(other[1]["own"])
    assert one[3]["own"] != pytest.approx(other[3]["own"], rel=1e-6)
    assert one[2]["effective"] > other[2]["effective"]
    assert "pictures" not in own.arrays


def test_figures(result):
    figures = result.figures()
    assert list(figures)[:3] == ["object", "reach", "served"]
    assert [name.split(".")[0] for name in list(figures)[3:]] == [
        "views",
        "views",
        "components",
        "components",
    ]
    titles = [axes.get_title() for axes in figures[list(figures)[3]].axes[:6]]
    assert titles == ["image", "filter", "level 0", "level 1", "level 2", "level 3"]
    assert json.dumps(result.describe(), allow_nan=False)
    assert drawn_levels(13) == [0, 4, 8, 12]


def test_without_any_foreground_levels_are_told_all_the_same(vit, photos):
    bare = images(photos.name.split(" | ")[0])
    found = study("views", vit, bare, shown=1)
    row = found.rows(part="level")[1]
    assert row["own"] > 0.5
    assert np.isnan(row["from_object"])
    assert found.rows(part="filters")[0]["images"] == 0
    assert "served" not in found.figures()


def test_models_without_patch_filters(vit, cnn, photos):
    with pytest.raises(Unsuited, match="does not cut images into patches"):
        study("views", cnn, photos)
    found = study("views", [cnn, vit], photos, shown=0)
    assert found.provenance.settings["seen"]["notes"][0].startswith(f"{cnn.name} is left out: ")
    assert not found.rows(model=cnn.name)
    with pytest.raises(BadValue, match="heads is 'mean' or 'own' and shown at least 0, not 'all' and 2"):
        study("views", vit, photos, heads="all")
