"""Answers read off every block by explicit calls of what follows the blocks."""

import numpy as np
import pytest
import torch
from torch import nn

from vitscope.errors import Unsuited
from vitscope.interventions.readouts import read_out_early
from vitscope.interventions.trunk import answer
from vitscope.meters.readouts import READINGS
from vitscope.models import load
from vitscope.studies.readout import READOUT
from vitscope.testing import tiny_cnn, tiny_vit

COUNT = 20
LABELS = torch.arange(COUNT) % 10


@pytest.fixture(scope="module")
def folder(tinted):
    return tinted(COUNT)


def streams(model, pixels):
    """What leaves every block, by explicit calls."""
    vit = model.module
    tokens, found = vit._pos_embed(vit.patch_embed(model.preprocess(pixels))), []
    for block in vit.blocks:
        tokens = block(tokens)
        found.append(tokens)
    return found


@pytest.fixture(scope="module")
def model(pixels):
    """A model whose answers differ between these images."""
    found = tiny_vit(reg_tokens=1)
    with torch.no_grad():
        logits = answer(found, pixels)
        found.module.head.bias.data -= logits.mean(0)
    return found


def vectors(tokens, prefix):
    """What each reading takes from a stream."""
    patches = tokens[:, prefix:]
    return {"cls": tokens[:, 0], "patches": patches.mean(1), "all": tokens.mean(1), "first": patches[:, 0]}


def test_every_row_is_the_head_on_what_the_reading_takes(model, images, pixels):
    result = READOUT(model, images)
    vit, rows = model.module, iter(result.table)
    with torch.no_grad():
        for block, tokens in enumerate(streams(model, pixels)):
            for reading, vector in vectors(vit.norm(tokens), 2).items():
                row = next(rows)
                logits = vit.head(vector)
                assert (row["block"], row["reading"]) == (f"blocks.{block}", reading)
                for k in (1, 5):
                    right = (logits.topk(k).indices == LABELS[:, None]).any(1).double().mean()
                    assert row[f"top{k}"] == pytest.approx(100 * right.item())
                    where = block, READINGS.index(reading)
                    assert result.arrays[f"top{k}"][where] == row[f"top{k}"]
    assert next(rows, None) is None
    assert len({row["top1"] for row in result.table}) > 2


def test_cls_of_the_last_block_is_the_plain_answer_and_nothing_stays(model, pixels):
    plain = answer(model, pixels[:3])
    with read_out_early(model):
        rows = answer(model, pixels[:3]).unflatten(0, (3, 3, 4))
    assert torch.allclose(rows[:, -1, 0], plain, atol=1e-5)
    assert not torch.allclose(rows[:, -1, 1], plain, atol=1e-2)
    assert torch.equal(answer(model, pixels[:3]), plain)


def test_a_model_that_averages_has_no_cls_and_its_own_reading_is_its_answer(pixels):
    average = tiny_vit(class_token=False, global_pool="avg")
    with read_out_early(average):
        rows = answer(average, pixels[:2]).unflatten(0, (2, 3, 2))
    assert torch.allclose(rows[:, -1, 0], answer(average, pixels[:2]), atol=1e-4)


@pytest.fixture(scope="module")
def bare():
    """A model with a map and no logits."""
    return load(nn.Sequential(tiny_cnn().module.conv1), sample=(32, 32), device="cpu")


@pytest.fixture(scope="module")
def several(model, cnn, images):
    """With a CNN whose head reads its last stage only."""
    return READOUT([model, cnn], images, batch_size=7)


def nearest(vectors):
    """The class whose mean of other images is nearest, of every image, one after another."""
    units = vectors / (vectors.std(0) + 1e-5)
    found = []
    for image in range(COUNT):
        members = [
            [other for other in range(COUNT) if other % 10 == each and other != image] for each in range(10)
        ]
        found.append(np.argmin([np.square(units[image] - units[own].mean(0)).sum() for own in members]))
    return np.array(found)


def test_where_a_head_cannot_read_all_every_model_is_read_by_class_means(several, model, pixels):
    first, cnn = several.models
    rows = several.rows(model=first, by="class_means")
    with torch.no_grad():
        for block, tokens in enumerate(streams(model, pixels)):
            for reading, values in vectors(tokens.double().numpy(), 2).items():
                (row,) = [
                    row for row in rows if (row["block"], row["reading"]) == (f"blocks.{block}", reading)
                ]
                right = (nearest(values) == LABELS.numpy()).mean()
                assert row["top1"] == pytest.approx(100 * right)
                assert several.by_model("means_top1")[first][block, READINGS.index(reading)] == row["top1"]
    assert len(rows) == 12
    blocks = ["stages.0.0", "stages.1.0", "stages.1.1", "stages.2.0", "stages.3.0"]
    assert several.by_model("means_blocks")[cnn].tolist() == blocks


def test_models_side_by_side_draw_and_save(several, model, images, tmp_path):
    first, cnn = several.models
    assert [row["reading"] for row in several.rows(model=cnn, by="head")] == ["patches", "first"]
    assert np.isnan(several.by_model("top1")[cnn][:, [0, 2]]).all()
    assert several.rows(model=first, by="head") == list(READOUT(model, images).rows())
    several.save(tmp_path / "out")
    assert (tmp_path / "out" / "readout.png").is_file()


def test_images_that_are_alone_in_their_class_have_no_means(cnn, images):
    found = READOUT(cnn, images.limit(10))
    assert {row["by"] for row in found.table} == {"head"}
    assert found.provenance.settings["seen"]["notes"] == [
        f"{cnn.name} has no class means: no class has two images"
    ]
    part = READOUT(cnn, images.limit(13)).rows(by="class_means")
    assert {row["images"] for row in part} == {6}


def test_a_model_without_a_head_is_read_by_class_means(bare, images):
    found = READOUT(bare, images)
    assert {row["by"] for row in found.table} == {"class_means"}
    assert set(found.arrays) == {"means_top1", "means_blocks"}
    notes = found.provenance.settings["seen"]["notes"]
    assert notes[-1] == f"{bare.name} is read by class means only: it has no logits"


def test_a_model_without_blocks_is_refused(images):
    torch.manual_seed(0)
    plain = load(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)), sample=(32, 32), device="cpu")
    with pytest.raises(
        Unsuited, match=r"no model has blocks off which an answer can be read. Sequential is left out: "
    ):
        READOUT(plain, images)
