"""The study of the last layer: every reading by explicit calls of blocks, and what a model lacks."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vitscope as vs
from vitscope.models import load
from vitscope.studies.last_layer import LAST_LAYER
from vitscope.studies.last_layer_published import PUBLISHED
from vitscope.tap import rerouted
from vitscope.testing import tiny_cnn, tiny_vit

READINGS = ["natural", "isolating_cls", "patch_average", "patch_maximum", "average_features"]
COUNT = 30


def learned(model, pixels, labels):
    """The model with a head that gets some of these images right, at CLS and at patches."""
    vit = model.module
    with torch.no_grad():
        tokens = vit.norm(vit.forward_features(model.preprocess(pixels))).double()
        for index in range(10):
            own = tokens[labels == index]
            centre = own[:, 0].mean(0) + 0.3 * own[:, 1:].mean((0, 1))
            vit.head.weight[index] = centre
            vit.head.bias[index] = -0.5 * centre.square().sum()
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three noise images of 32 x 32 for each of ten classes."""
    place = tmp_path_factory.mktemp("images")
    draw = np.random.default_rng(0)
    for label in range(10):
        (place / f"class{label}").mkdir()
        tint = draw.uniform(0, 120, 3)
        for index in range(3):
            values = (draw.uniform(0, 135, (32, 32, 3)) + tint).astype(np.uint8)
            Image.fromarray(values).save(place / f"class{label}" / f"{index}.png")
    return place


LABELS = torch.arange(10).repeat_interleave(3)


@pytest.fixture(scope="module")
def model(pixels):
    return learned(tiny_vit(), pixels, LABELS).to("cpu", torch.float64)


@pytest.fixture(scope="module")
def result(model, images):
    return LAST_LAYER(model, images)


def right(logits, k):
    """In how many images, in per cent, the label is among the first k; logits "image unit"."""
    found = logits.topk(k).indices == LABELS[:, None]
    return 100 * found.any(1).double().mean().item()


def by_hand(model, pixels):
    """All logits that the study looks at, by explicit calls of the blocks."""
    vit = model.module
    blocks = len(vit.blocks)
    with torch.no_grad():
        start = vit._pos_embed(vit.patch_embed(model.preprocess(pixels)))

        def after(tokens, first, last):
            for block in vit.blocks[first:last]:
                tokens = block(tokens)
            return tokens

        def logits(tokens):
            return vit.head(vit.norm(tokens))

        isolation, dropping = [], []
        for k in range(blocks + 1):
            apart = torch.cat([after(start[:, :1], 0, k), after(start[:, 1:], 0, k)], dim=1)
            isolation.append(logits(after(apart, k, blocks))[:, 0])
            dropping.append(logits(after(after(start, 0, k)[:, :1], k, blocks))[:, 0])
        normed = vit.norm(after(start, 0, blocks))
        return isolation, dropping, vit.head(normed[:, 1:]), vit.head(normed[:, 1:].mean(1))


def test_every_reading_is_what_explicit_calls_give(result, model, pixels):
    isolation, dropping, patches, average = by_hand(model, pixels)
    rows = {row["reading"]: row for row in result.table}
    assert list(rows) == READINGS
    for k in (1, 5):
        name = f"top{k}"
        places = np.array([right(patches[:, place], k) for place in range(16)]).reshape(4, 4)
        assert rows["natural"][name] == pytest.approx(right(isolation[0], k))
        assert rows["isolating_cls"][name] == pytest.approx(right(isolation[2], k))
        assert rows["patch_average"][name] == pytest.approx(places.mean())
        assert rows["patch_maximum"][name] == pytest.approx(places.max())
        assert rows["average_features"][name] == pytest.approx(right(average, k))
        array = result.arrays["accuracy_map" if k == 1 else "accuracy_map_top5"]
        assert np.allclose(array, places)
        row, column = map(int, rows["patch_maximum"][f"place_top{k}"].split(","))
        assert array[row, column] == array.max()
        assert np.allclose(result.arrays[f"isolation_top{k}"], [right(one, k) for one in isolation])
        assert np.allclose(result.arrays[f"dropping_top{k}"], [right(one, k) for one in dropping])
    assert rows["isolating_cls"]["blocks"] == 2
    assert {row["images"] for row in result.table} == {COUNT}


def test_the_readings_differ_so_that_none_can_stand_for_another(result):
    values = [row["top1"] for row in result.table]
    assert len(set(values)) == len(READINGS), values
    assert result.rows(reading="natural")[0]["top1"] > 20


def test_the_ends_of_the_sweeps_are_the_plain_model_and_chance(result):
    natural = result.rows(reading="natural")[0]["top1"]
    assert result.arrays["isolation_top1"][0] == natural
    assert result.arrays["dropping_top1"][-1] == natural
    assert result.arrays["isolation_top1"][-1] == pytest.approx(10.0)
    assert result.arrays["dropping_top1"][0] == pytest.approx(10.0)


def test_the_maximum_is_no_less_than_the_average(result):
    for k in (1, 5):
        average, best = (
            result.rows(reading=name)[0][f"top{k}"] for name in ("patch_average", "patch_maximum")
        )
        assert best >= average


def test_without_every_depth_the_readings_are_the_same(result, model, images):
    few = LAST_LAYER(model, images, every_depth=False)
    assert few.table == result.table
    assert set(few.arrays) == {"accuracy_map", "accuracy_map_top5"}


def test_batches_of_another_size_give_the_same(result, model, images):
    assert LAST_LAYER(model, images, batch_size=7).table == result.table


def test_it_costs_less_than_a_pass_for_each_intervention(model, images):
    tokens = 0

    def counted(original, x):
        nonlocal tokens
        tokens += x.shape[0] * x.shape[1]
        return original(x)

    with rerouted(model.module.blocks[1], counted):
        LAST_LAYER(model, images)
    interventions = 4 + 4 + 1  # both sweeps, and the head on places
    assert tokens / (17 * COUNT) <= 1.1 * interventions


def test_models_side_by_side_keep_what_makes_sense_for_each(model, images):
    average, cnn = tiny_vit(global_pool="avg", seed=1), tiny_cnn()
    headless = load(nn.Sequential(tiny_cnn().module.conv1), sample=(32, 32), device="cpu")
    found = LAST_LAYER([model, average, cnn, headless], images)
    first, second, third, fourth = found.models
    assert [row["reading"] for row in found.rows(model=first)] == READINGS
    others = ["natural", "patch_average", "patch_maximum", "average_features"]
    assert [row["reading"] for row in found.rows(model=second)] == others
    assert [row["reading"] for row in found.rows(model=third)] == others
    assert found.rows(model=fourth) == []
    assert set(found.by_model("isolation_top1")) == {first}
    assert set(found.by_model("accuracy_map")) == {first, second, third}
    natural, averaged = (found.rows(model=third, reading=name)[0] for name in ("natural", "average_features"))
    assert natural["top1"] == averaged["top1"], "a CNN averages its features anyway"
    notes = found.provenance.settings["seen"]["notes"]
    assert f"{fourth} is left out: it has no logits" in notes
    assert any(note.startswith(f"{second}: no isolating_cls: the answer of") for note in notes)


def test_it_draws_saves_and_is_plain_json(result, tmp_path):
    assert set(result.figures()) == {"readings", "accuracy_map", "depths"}
    result.save(tmp_path / "out")
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert [row["reading"] for row in document["table"]] == READINGS
    assert np.array(document["arrays"]["accuracy_map"]).shape == (4, 4)
    assert len(document["arrays"]["isolation_top1"]) == 4


def test_the_published_table_is_that_of_the_paper():
    table = {
        row["reading"]: (row["top1"], row["top5"]) for row in PUBLISHED if row["source"].startswith("Ghiasi")
    }
    assert table == {
        "natural": (84.20, 97.16),
        "isolating_cls": (78.61, 94.18),
        "patch_average": (75.75, 90.99),
        "patch_maximum": (80.16, 95.65),
    }
    sweep = [row["top1"] for row in PUBLISHED if row["reading"] == "dropping" and "patch16" in row["model"]]
    assert len(sweep) == 13
    assert sweep[0] == 0.10
    assert sweep[-1] == 84.20
    assert all(row["source"] for row in PUBLISHED)


@pytest.mark.real
def test_on_a_real_model_the_best_patch_says_less_than_cls(shared):
    weights = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    model = vs.load("timm:vit_tiny_patch16_224", weights=str(weights))
    folder = shared / "imagenet1k-val725"
    images = vs.images(f"tar:{folder}/val725.tar", labels=folder / "labels.csv", limit=16)
    found = {row["reading"]: row["top1"] for row in LAST_LAYER(model, images, every_depth=False).table}
    assert found["natural"] >= 60
    assert found["natural"] > found["average_features"] > found["patch_average"]
    assert found["isolating_cls"] < 10
