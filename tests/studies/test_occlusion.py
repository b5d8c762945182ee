"""Dropped patches: rows against a slow re-implementation, and what tells which patches are salient."""

import numpy as np
import pytest
import torch
from PIL import Image

import vitscope as vs
from vitscope.data.annotations import foregrounds
from vitscope.data.source import ImageBatch, image_id
from vitscope.draws import generator
from vitscope.errors import BadValue
from vitscope.interventions.salience import Attention
from vitscope.models import load
from vitscope.studies import study
from vitscope.studies.occlusion import patch_of
from vitscope.testing.doubles import tiny_vit

COUNT = 5


@pytest.fixture(scope="module")
def folder(tinted, masked):
    """Pictures with masks of a rectangle each, other ones of each size."""
    masks = np.zeros((COUNT, 32, 32), np.uint8)
    for index, values in enumerate(masks):
        values[: 8 + 4 * index, :20] = 1
    return masked(tinted(COUNT), masks)


@pytest.fixture(scope="module")
def bare(folder):
    whole = vs.images(f"folder:{folder}", labels=folder / "labels.csv")
    return whole.where(lambda path: "/" not in path)


@pytest.fixture(scope="module")
def source(bare, folder):
    return bare.annotated(foregrounds(masks=folder / "masks"))


@pytest.fixture(scope="module")
def result(vit, source):
    return study("occlusion", vit, source, shares=(0.3, 1), units=2, seed=3)


def pictures(folder):
    files = sorted(folder.glob("*.png"))
    values = [torch.from_numpy(np.array(Image.open(file))).movedim(2, 0) / 255 for file in files]
    return torch.stack(values), [image_id(file.read_bytes()) for file in files]


def on_the_object(folder):
    """Of each image, the patches of which more than 0.15 is on its mask."""
    found = []
    for index in range(COUNT):
        values = np.array(Image.open(folder / "masks" / f"{index:02}.png"))
        found.append([p for p in range(16) if values[8 * (p // 4) :, 8 * (p % 4) :][:8, :8].mean() > 0.15])
    return found


def blackened(pixels, places):
    found = pixels.clone()
    for place in places:
        found[:, 8 * (place // 4) : 8 * (place // 4) + 8, 8 * (place % 4) : 8 * (place % 4) + 8] = 0
    return found


def expected(model, folder, salient, among, share):
    """Images with the same answer, with the right one, and dropped patches, in per cent."""
    pixels, names = pictures(folder)
    moved, gone = [], 0
    for place, name in enumerate(names):
        inside = salient[place]
        concerned = {
            "none": [],
            "random": list(range(16)),
            "salient": inside,
            "non_salient": [p for p in range(16) if p not in inside],
        }[among]
        count = int(share * len(concerned) + 1e-9)
        taken = [concerned[i] for i in generator(3, name).permutation(len(concerned))[:count]]
        moved.append(blackened(pixels[place], taken))
        gone += count
    with torch.no_grad():
        plain = model.module(model.preprocess(pixels)).argmax(1)
        left = model.module(model.preprocess(torch.stack(moved))).argmax(1)
    same, right = (plain == left).double().mean(), (left == torch.arange(COUNT)).double().mean()
    return 100 * same.item(), 100 * right.item(), 100 * gone / (16 * COUNT)


ROWS = [("none", 0.0)] + [(a, s) for a in ("random", "salient", "non_salient") for s in (0.3, 1.0)]


def check(result, model, folder, salient):
    rows = result.rows(part="answers")
    assert [(row["among"], row["share"]) for row in rows] == ROWS
    for row in rows:
        same, right, gone = expected(model, folder, salient, row["among"], row["share"])
        assert (row["agreement"], row["top1"]) == (pytest.approx(same), pytest.approx(right)), row
        assert row["dropped"] == pytest.approx(gone), row


def test_rows_equal_a_slow_re_implementation(vit, folder, result):
    salient = on_the_object(folder)
    check(result, vit, folder, salient)
    np.testing.assert_allclose(sorted(result.arrays["salient"]), sorted(len(one) / 16 for one in salient))
    assert result.rows(among="random", share=1.0)[0]["dropped"] == 100


def test_attention_tells_where_there_are_no_masks_and_wherever_it_is_asked_for(vit, folder, bare, source):
    pixels, names = pictures(folder)
    batch = ImageBatch(tuple(names), tuple(names), pixels, torch.zeros(COUNT).long())
    salient = [one.flatten().nonzero()[:, 0].tolist() for one in Attention(vit).of(batch)]
    for images, salience in ((bare, "given"), (source, "attention")):
        found = study("occlusion", vit, images, shares=(0.3, 1), units=0, seed=3, salience=salience)
        check(found, vit, folder, salient)
        name = found.models[0]
        note = f"{name}: what is salient is told by the attention of {name}"
        assert note in found.provenance.settings["seen"]["notes"]


def test_a_model_without_attention_is_told_by_one_that_has_some(vit, cnn, bare):
    found = study("occlusion", [cnn, vit], bare, shares=(1,), units=0, batch_size=2)
    here, there = found.models
    notes = found.provenance.settings["seen"]["notes"]
    assert notes[0] == f"{here}: what is salient is told by the attention of {there}"
    rows = found.rows(model=here, among="salient"), found.rows(model=there, among="salient")
    assert rows[0][0]["dropped"] == pytest.approx(
        rows[1][0]["dropped"], abs=7
    )  # on a grid of 8 x 8, and of 4 x 4
    with pytest.raises(
        BadValue, match=r"nothing says what is salient in .*: give --masks DIR or --boxes FILE"
    ):
        study("occlusion", cnn, bare, units=0)


def test_maps_are_rows_and_figures(result):
    rows = result.rows(part="maps")
    assert [row["site"] for row in rows] == ["blocks.0.ffn", "blocks.1.ffn", "blocks.2.ffn"]
    assert all(row["units"] + row["units_without"] == 2 for row in rows)
    assert list(result.figures())[:2] == ["answers", "maps"]
    titles = [axes.get_title(loc="left") for axes in result.plot().axes]
    assert titles[0] == f"{result.models[0]}\nsame answer"


def test_patches_are_the_models_own(vit, cnn):
    assert patch_of(vit) == 8
    assert patch_of(cnn) == 4  # 8 to a side
    assert patch_of(tiny_vit(img_size=64, patch_size=2, depth=1)) == 8  # 32 are too fine; up to 14, 8 divide


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"shares": ()}, "shares lie above 0 and up to 1, and units is at least 0"),
        ({"shares": (0,)}, "shares lie above 0"),
        ({"units": -1}, r"not \[0.2, 0.5, 0.8, 1.0\] and -1"),
        ({"salience": "eye"}, "salience is 'given' or by 'attention', not 'eye'"),
    ],
)
def test_settings_out_of_range(vit, source, settings, says):
    with pytest.raises(BadValue, match=says):
        study("occlusion", vit, source, **settings)


@pytest.mark.real
def test_a_real_vit_bears_random_holes(shared):
    """With half of the patches gone, on 8 validation images; all of them gone, nothing is left."""
    val, weights = shared / "imagenet1k-val725", shared / "weights"
    source = vs.images(f"tar:{val / 'val725.tar'}", labels=val / "labels.csv", limit=8)
    name = "deit_tiny_patch16_224"
    model = load(name, weights=str(weights / f"{name}.safetensors"), device="cpu")
    found = study("occlusion", model, source, shares=(0.5, 1.0), units=0)
    assert found.rows(among="random", share=0.5)[0]["relative_top1"] > 40
    assert found.rows(among="random", share=1.0)[0]["top1"] < 10
