"""The study of places and pixels: its rows against plain numpy, the sites it takes, and its figures."""

import numpy as np
import pytest
from PIL import Image

from vitscope.data import images
from vitscope.errors import Unsuited
from vitscope.models import load
from vitscope.studies import open_result, study
from vitscope.studies.spatial_cka import scores
from vitscope.testing.doubles import tiny_cnn, tiny_vit


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for index in range(24):
        Image.fromarray((draw.random((32, 32, 3)) * 255).astype(np.uint8)).save(folder / f"{index:02d}.png")
    return images(f"folder:{folder}")


@pytest.fixture(scope="module")
def result(photos):
    return study("spatial_cka", [tiny_vit(), tiny_cnn()], photos, gram=8)


def test_rows_are_read_off_the_maps(result):
    vit = result.models[0]
    maps = result.by_model("spatial_cka")[vit]
    assert maps.shape == (4, 4, 4, 4)
    flat = maps.reshape(16, 16)
    inner = [5, 6, 9, 10]
    (row,) = result.rows(model=vit, places="interior")
    others = [[flat[place, patch] for patch in range(16) if patch != place] for place in inner]
    own = [flat[place, place] for place in inner]
    assert (row["site"], row["count"]) == ("blocks.2", 4)
    assert row["own"] == pytest.approx(np.mean(own))
    assert row["others"] == pytest.approx(np.mean(others))
    spread = [(mine - np.mean(each)) / np.std(each) for mine, each in zip(own, others, strict=True)]
    assert row["score"] == pytest.approx(np.mean(spread))
    np.testing.assert_allclose(scores(flat)[inner], spread)
    assert row["own_error"] > 0
    assert row["peak_at_own"] == 100 * np.mean([flat[place].argmax() == place for place in inner])
    np.testing.assert_array_equal(result.by_model("own")[vit].ravel(), flat.diagonal())


def test_a_cnn_is_read_at_its_last_block_that_has_a_grid(result):
    cnn = result.models[1]
    assert result.rows(model=cnn)[0]["site"] == "stages.2.0"
    assert result.by_model("spatial_cka")[cnn].shape == (2, 2, 2, 2)
    assert result.rows(model=cnn, places="interior") == []


def test_it_is_saved_opened_and_drawn(result, tmp_path):
    again = open_result(result.save(tmp_path / "out"))
    assert {*again.figures()} == {"spatial_cka", "own"}
    np.testing.assert_array_equal(
        again.by_model("score")[result.models[0]], result.by_model("score")[result.models[0]]
    )


def test_a_site_may_be_named_and_none_is_an_error(photos):
    found = study("spatial_cka", tiny_vit(), photos, gram=8, site="blocks.0.mid")
    assert found.table[0]["site"] == "blocks.0.mid"
    with pytest.raises(Unsuited, match="logits has no grid"):
        study("spatial_cka", tiny_vit(), photos, site="logits")


def test_models_without_blocks_are_left_out(photos):
    from torch import nn

    plain = load(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4)), sample=(32, 32), device="cpu")
    found = study("spatial_cka", [tiny_vit(), plain], photos, gram=8)
    assert found.provenance.settings["seen"]["notes"] == [
        "Sequential is left out: it has no block whose places are a grid on the image"
    ]
    with pytest.raises(Unsuited, match="spatial_cka needs a model with a block whose places are a grid"):
        study("spatial_cka", plain, photos)
