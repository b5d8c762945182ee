"""The study of attention distance: its rows and arrays are the meter's, of every model by itself."""

import json

import numpy as np
import pytest

import vitscope as vs
from vitscope.errors import BadValue
from vitscope.meters.attention_distance import AttentionDistance
from vitscope.scan import scan
from vitscope.studies.attention_distance import ATTENTION_DISTANCE
from vitscope.testing import tiny_cnn, tiny_vit


@pytest.fixture(scope="module")
def folder(noise):
    return noise(6)


@pytest.fixture(scope="module")
def model():
    return tiny_vit()


def test_rows_and_arrays_are_those_of_the_meter(model, images):
    result = ATTENTION_DISTANCE(model, images)
    found = scan(model, images, [AttentionDistance()], batch_size=5)["attention_distance"]
    assert result.arrays["sites"].tolist() == [f"blocks.{block}.attn.pattern" for block in range(3)]
    for block, (row, one) in enumerate(zip(result.table, found.values(), strict=True)):
        assert row["site"] == one.site
        assert row["heads"] == 3
        assert row["distance"] == pytest.approx(np.mean(one.distance), rel=1e-6)
        assert row["nearest"] == pytest.approx(min(one.distance), rel=1e-6)
        assert row["farthest"] == pytest.approx(max(one.distance), rel=1e-6)
        assert row["uniform"] == one.uniform
        assert row["prefix_mass"] == pytest.approx(np.mean(one.prefix_mass), rel=1e-6)
        for array in ("distance", "entropy", "prefix_mass"):
            assert np.allclose(result.arrays[array][block], getattr(one, array), rtol=1e-6)
        assert np.allclose(result.arrays["distance_error"][block], one.distance_error, rtol=1e-3)
    assert result.provenance.settings["seen"]["images"] == 6


def test_without_renormalising_mass_on_cls_counts_as_distance_0(model, images):
    whole, part = (ATTENTION_DISTANCE(model, images, renormalised=value) for value in (True, False))
    assert (part.arrays["distance"] < whole.arrays["distance"]).all()
    assert np.array_equal(part.arrays["prefix_mass"], whole.arrays["prefix_mass"])


def test_models_side_by_side_with_other_heads_and_without_attention(model, images):
    result = ATTENTION_DISTANCE([model, tiny_cnn(), tiny_vit(num_heads=2, depth=2)], images)
    first, cnn, other = result.models
    assert {name: of.shape for name, of in result.by_model("distance").items()} == {
        first: (3, 3),
        other: (2, 2),
    }
    assert result.rows(model=cnn) == []
    notes = result.provenance.settings["seen"]["notes"]
    assert f"{cnn} is left out: it has no attention weights (blocks.*.attn.pattern)" in notes
    assert any(note.startswith(f"{first}: heads of blocks.0.attn.pattern look ") for note in notes)


def test_a_model_without_attention_alone_is_refused(images):
    with pytest.raises(BadValue, match="needs a model with attention, and there is none among"):
        ATTENTION_DISTANCE(tiny_cnn(), images)


def test_it_draws_with_the_bound_and_saves(model, images, tmp_path):
    result = ATTENTION_DISTANCE([model, tiny_vit(seed=1)], images)
    figures = result.figures()
    assert list(figures) == ["distance", "depth", "entropy", "prefix_mass"]
    levels = [line.get_ydata()[0] for line in figures["distance"].axes[0].lines]
    assert round(result.table[0]["uniform"], 2) in levels
    result.save(tmp_path / "out")
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert all(np.array(of).shape == (3, 3) for of in document["arrays"]["distance"].values())
    assert (tmp_path / "out" / "distance.png").is_file()


@pytest.mark.real
def test_on_a_real_model_low_blocks_have_local_and_global_heads_and_high_ones_no_local(shared):
    weights = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    model = vs.load("timm:vit_tiny_patch16_224", weights=str(weights))
    images = vs.images(f"folder:{shared / 'imagenet1k-sample'}", limit=4)
    distance = ATTENTION_DISTANCE(model, images).arrays["distance"]
    assert distance[:3].min() < 40
    assert distance[0].max() > 70
    assert distance[-3:].min() > 100
