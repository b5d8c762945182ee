"""One picture: answer, heads, rollout and groups against the model itself; parts that a model lacks."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import vitscope
from vitscope.data.decode import view
from vitscope.errors import AtlasError, BadValue, MissingPath
from vitscope.flow import rollout
from vitscope.look import look, opened
from vitscope.look.glance import _renamed, alike
from vitscope.meters.attention import by_head
from vitscope.tap import changed, read
from vitscope.testing import tiny_cnn, tiny_vit


@pytest.fixture(scope="module")
def pixels(vit, photo):
    """What the model is shown."""
    with Image.open(photo) as image:
        levels = view(image, vit.preprocessing)
    return torch.tensor(levels).movedim(-1, 0)[None].float() / 255


def test_the_answer_is_the_models(vit, seen, pixels):
    with torch.no_grad():
        shares = vit.module.eval()(vit.preprocess(pixels)).double().softmax(-1)[0]
    best = shares.argsort(descending=True)[:5].tolist()
    assert [guess.index for guess in seen.guesses] == best
    assert [guess.probability for guess in seen.guesses] == pytest.approx(shares[best].tolist(), rel=1e-4)
    assert seen.guesses[0].name == f"class {best[0]}"
    assert seen.sentence().startswith(f"dog & cat.jpg: class {best[0]} ")


def test_heads_look_where_cls_attends(vit, seen, pixels):
    site = vit.site("blocks.2.attn.pattern")
    rows = by_head(site, read(vit, pixels, [site])[site.name])[0, 1, 0]
    head = seen.heads[2 * 3 + 1]
    assert (head.site, head.head, len(seen.heads)) == (site.name, 1, 9)
    assert np.allclose(head.view.ravel(), rows[2:], atol=1e-6)
    assert head.prefix == pytest.approx(float(rows[:2].sum()), abs=1e-5)


def test_rollout_is_that_of_the_model(vit, seen, pixels):
    found = rollout(vit, pixels)
    assert [one.site for one in seen.rollout] == ["blocks.0", "blocks.1", "blocks.2"]
    assert np.allclose(seen.rollout[2].view.ravel(), found[3, 0, 0, 2:], atol=1e-6)
    assert seen.rollout[2].prefix == pytest.approx(float(found[3, 0, 0, :2].sum()), abs=1e-5)


def test_groups_are_of_places_alike(seen):
    assert [one.site for one in seen.groups] == ["blocks.0", "blocks.1", "blocks.2"]
    assert all(one.labels.shape == (4, 4) and set(one.labels.ravel()) <= {0, 1, 2} for one in seen.groups)
    draw = np.random.default_rng(1)
    centres = draw.normal(size=(3, 8)) * 10
    truth = np.repeat([0, 1, 2], [5, 4, 7])
    found = alike(centres[truth] + draw.normal(size=(16, 8)), count=3)
    assert len({*zip(truth.tolist(), found.tolist(), strict=True)}) == 3
    assert set(alike(np.ones((16, 8)), count=3)) == {0}


def test_a_group_keeps_its_number_on_another_grid():
    before = np.array([[0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 1, 1], [1, 1, 1, 1]])
    assert _renamed(np.array([[1, 0], [2, 2]]), like=before).tolist() == [[0, 2], [1, 1]]


def test_without_attention_and_without_cls(photo):
    cnn = tiny_cnn()
    found = look(cnn, photo)
    assert (found.heads, found.rollout) == ((), ())
    assert f"no heads: {cnn.name} has no attention weights" in found.notes
    assert {one.address.site for one in found.units} == {
        "stages.0.0",
        "stages.1.0",
        "stages.1.1",
        "stages.2.0",
    }
    without = look(tiny_vit(class_token=False, global_pool="avg"), photo)
    assert without.heads[0].view.sum() == pytest.approx(1, abs=1e-5)
    assert without.heads[0].prefix == pytest.approx(0, abs=1e-5)
    assert len(without.rollout) == 3


def test_a_picture_of_one_colour_has_one_group_in_a_cnn():
    found = look(tiny_cnn(), Image.new("RGBA", (40, 40), (90, 120, 30, 255)))
    assert found.image == "image"
    assert found.provenance.source is None


def test_pictures_that_are_none(vit, photos, tmp_path):
    with pytest.raises(MissingPath, match=r"no such file: .*nothing\.jpg"):
        look(vit, photos / "nothing.jpg")
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(BadValue, match=r"cannot read .*text\.jpg as an image: unreadable: 5 bytes"):
        opened(tmp_path / "text.jpg")
    with pytest.raises(BadValue, match="units is at least 1 and kinds 2 to 8, not 0 and 5"):
        look(vit, photos / "0.png", units=0)
    with pytest.raises(AtlasError, match="is not an atlas"):
        look(vit, photos / "0.png", atlas=photos)


def test_what_was_done_to_the_picture_is_told(vit, photo, seen, tmp_path):
    assert (
        seen.notes[0]
        == "the picture of 90 x 60 pixels was cut to its middle, as the model is shown it: 32 x 32"
    )
    with Image.open(photo) as image:
        image.save(tmp_path / "turned.jpg", exif=_turned())
    found = look(vit, tmp_path / "turned.jpg")
    assert found.notes[0].startswith("the picture of 60 x 90 pixels (rotated) was cut")


def test_artefacts_are_told(vit, photo):
    def loud(values):
        values = values.clone()
        values[:, 5, ::2] += 1000
        return values

    with changed(vit, {vit.site("blocks.1"): loud}):
        found = look(vit, photo)
    assert [one.outliers for one in found.groups][1] == 1
    assert any("from blocks.1 on, up to 1 places carry norms far above" in note for note in found.notes)


def test_one_picture_is_the_same_twice(vit, photo, seen):
    again = look(vit, photo, units=3, kinds=3)
    assert json.dumps(again.describe()) == json.dumps(seen.describe())
    assert vitscope.look(vit, photo, units=3, kinds=3).sentence() == seen.sentence()


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif
