"""Answers read off every block by explicit calls of what follows the blocks."""

import numpy as np
import pytest
import torch
from torch import nn

from vitscope.errors import Unsuited
from vitscope.interventions.readouts import READINGS, read_out_early
from vitscope.interventions.trunk import answer
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


def test_models_side_by_side_draw_and_save(model, images, tmp_path):
    headless = load(nn.Sequential(tiny_cnn().module.conv1), sample=(32, 32), device="cpu")
    result = READOUT([model, tiny_cnn(), headless], images, batch_size=7)
    first, cnn, none = result.models
    assert [row["reading"] for row in result.rows(model=cnn)] == ["patches", "first"]
    assert np.isnan(result.by_model("top1")[cnn][:, [0, 2]]).all()
    assert f"{none} is left out: it has no logits" in result.provenance.settings["seen"]["notes"]
    assert result.rows(model=first) == list(READOUT(model, images).rows())
    result.save(tmp_path / "out")
    assert (tmp_path / "out" / "readout.png").is_file()


def test_a_model_without_blocks_is_refused(images):
    torch.manual_seed(0)
    plain = load(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)), sample=(32, 32), device="cpu")
    with pytest.raises(Unsuited, match="no model has blocks off which its head can read an answer"):
        READOUT(plain, images)
