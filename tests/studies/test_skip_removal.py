"""Models without the skips of a block: answers and similarities by explicit calls."""

import numpy as np
import pytest
import torch

import vitscope as vs
from vitscope.errors import BadValue, Unsuited
from vitscope.meters.predictions import NONE, Predicted, Predictions
from vitscope.scan import scan
from vitscope.studies.skip_removal import PLAIN, SKIP_REMOVAL
from vitscope.testing import tiny_cnn, tiny_vit

COUNT = 20


@pytest.fixture(scope="module")
def folder(tinted):
    return tinted(COUNT)


@pytest.fixture(scope="module")
def model(pixels):
    """A model whose answers differ between these images."""
    found = tiny_vit()
    logits, _ = by_hand(found, pixels, None)
    found.module.head.bias.data -= logits.mean(0)
    return found


@pytest.fixture(scope="module")
def result(model, images):
    return SKIP_REMOVAL(model, images)


def by_hand(model, pixels, removed):
    """Logits and streams of the model, where a block hands on its branches alone."""
    vit, streams = model.module, []
    with torch.no_grad():
        tokens = vit._pos_embed(vit.patch_embed(model.preprocess(pixels)))
        for number, block in enumerate(vit.blocks):
            kept = 0.0 if number == removed else 1.0
            tokens = kept * tokens + block.attn(block.norm1(tokens))
            tokens = kept * tokens + block.mlp(block.norm2(tokens))
            streams.append(tokens.double().flatten(1).numpy())
        return vit.head(vit.norm(tokens)[:, 0]), streams


def hsic(one, other):
    """HSIC_1 of Song et al. as it is written."""
    n = len(one)
    one, other = (each - np.diag(np.diag(each)) for each in (one, other))
    middle = one.sum() * other.sum() / (n - 1) / (n - 2)
    return (np.trace(one @ other) + middle - 2 / (n - 2) * (one @ other).sum()) / n / (n - 3)


def cka(x, y):
    here, there = x @ x.T, y @ y.T
    return hsic(here, there) / np.sqrt(hsic(here, here) * hsic(there, there))


def test_answers_and_similarities_are_what_explicit_calls_give(result, model, pixels):
    labels = torch.arange(COUNT) % 10
    plain, _ = by_hand(model, pixels, None)
    assert [row["removed"] for row in result.table] == [PLAIN, "blocks.0", "blocks.1", "blocks.2"]
    assert len(plain.argmax(1).unique()) > 1
    for number, row in enumerate(result.table):
        logits, streams = by_hand(model, pixels, number - 1 if number else None)
        assert row["top1"] == pytest.approx(100 * (logits.argmax(1) == labels).double().mean().item())
        expected = np.array([[cka(x, y) for y in streams] for x in streams])
        assert np.allclose(result.arrays["cka"][number], expected, atol=1e-4)
        if number:
            same = (logits.argmax(1) == plain.argmax(1)).double().mean().item()
            assert row["agreement"] == pytest.approx(100 * same)
            assert row["lost_top1"] == pytest.approx(result.table[0]["top1"] - row["top1"])
    assert {row["images"] for row in result.table} == {COUNT}


def test_the_two_parts_are_the_blocks_before_and_those_from_it_on(result):
    plain, *_, without = result.arrays["cka"]
    row = result.rows(removed="blocks.2")[0]
    assert row["across"] == pytest.approx((without[0, 2] + without[1, 2]) / 2)
    assert row["within"] == pytest.approx(without[0, 1])
    assert row["plain_across"] == pytest.approx((plain[0, 2] + plain[1, 2]) / 2)
    first = result.rows(removed="blocks.0")[0]
    assert np.isnan(first["across"])


def test_some_blocks_and_one_skip(model, images):
    result = SKIP_REMOVAL(model, images, blocks=(1, 7), which="mlp")
    assert result.arrays["removed"].tolist() == [PLAIN, "blocks.1"]
    whole = SKIP_REMOVAL(model, images, blocks=(1,))
    assert not np.allclose(result.arrays["cka"][1], whole.arrays["cka"][1])
    assert np.allclose(result.arrays["cka"][0], whole.arrays["cka"][0])
    assert SKIP_REMOVAL.parse(["blocks=1,7"]) == {"blocks": ("1", "7")}
    assert SKIP_REMOVAL(model, images, blocks=("1",)).table == whole.table


def test_models_side_by_side_without_labels_draw_and_save(model, folder, tmp_path):
    images = vs.images(f"folder:{folder}")
    result = SKIP_REMOVAL([model, tiny_cnn()], images, blocks=(0, 2))
    assert {row["model"] for row in result.table} == {result.models[0]}
    assert "top1" not in result.table[1]
    note = f"{result.models[1]} is left out: it has no blocks of two branches with skips"
    assert note in result.provenance.settings["seen"]["notes"]
    assert list(result.figures()) == ["cka", "answers"]
    result.save(tmp_path / "out")
    assert (tmp_path / "out" / "cka.png").is_file()


def test_what_makes_no_sense_is_refused(model, images):
    with pytest.raises(BadValue, match="blocks are numbers from 0, not first"):
        SKIP_REMOVAL(model, images, blocks=("first",))
    with pytest.raises(BadValue, match="which must be 'first', 'mlp' or 'both'"):
        SKIP_REMOVAL(model, images, which="second")
    with pytest.raises(
        Unsuited, match=r"no model has blocks whose skips can be removed\. .* has no such block"
    ):
        SKIP_REMOVAL(model, images, blocks=(9,))
    with pytest.raises(BadValue, match="skip_removal needs at least 4 images"):
        SKIP_REMOVAL(model, images.limit(3))


def test_predictions_merge_are_files_and_compare_the_same_images_only(model, images):
    meter = Predictions()
    one = scan(model, images, [meter])["predictions"]
    parts = scan(model, images, [meter], shard_size=3, batch_size=2)["predictions"]
    assert np.array_equal(one.ids, parts.ids)
    assert np.array_equal(one.classes, parts.classes)
    sites = meter.sites(model.sites)
    state = meter.load(sites, {"ids": one.ids, "classes": one.classes})
    assert np.array_equal(state.merge(meter.start(sites)).result().classes, one.classes)
    few = scan(model, images.limit(5), [meter])["predictions"]
    with pytest.raises(BadValue, match="only what was said of the same images can be compared"):
        one.same(few)
    broken = Predicted(few.ids, np.full(5, NONE, np.int32))
    assert not broken.same(broken).any()
