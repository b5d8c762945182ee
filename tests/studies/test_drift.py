"""Two checkpoints compared: CKA and correlations from explicit calls, in float64; what is no such pair."""

import numpy as np
import pytest
import torch

from vitscope.errors import BadValue
from vitscope.studies.drift import DRIFT, correlations
from vitscope.testing import tiny_vit

COUNT = 12


@pytest.fixture(scope="module")
def folder(noise):
    return noise(COUNT)


@pytest.fixture(scope="module")
def tuned():
    """The same model, one unit of whose second block was turned round, and whose last MLP was changed."""
    model = tiny_vit()
    with torch.no_grad():
        blocks = model.module.blocks
        for weight in blocks[1].mlp.fc1.parameters():
            weight[5] = -weight[5]
        blocks[2].mlp.fc2.weight += torch.randn(blocks[2].mlp.fc2.weight.shape)
    return model


@pytest.fixture(scope="module")
def result(vit, tuned, images):
    return DRIFT([vit, tuned], images, gram=COUNT, most=3)


def streams(model, pixels):
    """What leaves every block and every hidden layer, by explicit calls."""
    vit, out, hidden = model.module, [], []
    with torch.no_grad():
        tokens = vit._pos_embed(vit.patch_embed(model.preprocess(pixels)))
        for block in vit.blocks:
            mid = tokens + block.attn(block.norm1(tokens))
            units = block.mlp.act(block.mlp.fc1(block.norm2(mid)))
            tokens = mid + block.mlp.fc2(units)
            out.append(tokens.double().flatten(1).numpy())
            hidden.append(units[:, 1:].double().mean(1).numpy())
    return out, hidden


def unbiased(one, other):
    """HSIC_1 of two sets of features, term by term (Song et al. 2012, eq. 5)."""
    grams, count = [], len(one)
    for features in (one, other):
        centred = features - features.mean(0)
        grams.append(centred @ centred.T * (1 - np.eye(count)))
    left, right = grams
    sums = left.sum() * right.sum() / ((count - 1) * (count - 2))
    total = np.trace(left @ right) + sums - 2 / (count - 2) * (left @ right).sum()
    return total / (count * (count - 3))


def test_cka_and_correlations_are_what_explicit_calls_give(result, vit, tuned, pixels):
    (before, hidden), (after, changed) = (streams(model, pixels) for model in (vit, tuned))
    for block, (one, other) in enumerate(zip(before, after, strict=True)):
        expected = unbiased(one, other) / np.sqrt(unbiased(one, one) * unbiased(other, other))
        (row,) = result.rows(part="site", site=f"blocks.{block}")
        assert row["cka"] == pytest.approx(expected, abs=1e-5)
        assert result.by_model("cka")[result.models[0]][block] == row["cka"]
    found = result.by_model("correlation")[result.models[0]]
    for block, (one, other) in enumerate(zip(hidden, changed, strict=True)):
        expected = [np.corrcoef(one[:, unit], other[:, unit])[0, 1] for unit in range(one.shape[1])]
        assert np.allclose(found[block], expected, atol=1e-4)
        (row,) = result.rows(part="units", site=f"blocks.{block}.ffn")
        assert row["correlation"] == pytest.approx(np.median(expected), abs=1e-4)
        assert row["units"] == 96


def test_what_did_not_change_is_at_1_and_what_changed_comes_first(result):
    (first,) = result.rows(part="site", site="blocks.0")
    (last,) = result.rows(part="site", site="blocks.2")
    assert first["cka"] == pytest.approx(1, abs=1e-6)
    assert last["cka"] < 0.99
    most = result.rows(part="unit")
    assert len(most) == 3
    assert [row["correlation"] for row in most] == sorted(row["correlation"] for row in most)
    assert (most[0]["site"], most[0]["unit"]) == ("blocks.1.ffn", 5)
    assert most[0]["correlation"] < 0.5
    assert "CKA is exact" in result.provenance.settings["seen"]["notes"][-1]


def test_the_same_model_twice_is_at_1_and_two_random_ones_are_not(vit, images):
    same = DRIFT([vit, vit], images)
    assert np.allclose([row["cka"] for row in same.rows(part="site")], 1, atol=1e-6)
    assert np.allclose([row["spherical_cka"] for row in same.rows(part="site")], 1, atol=1e-6)
    assert np.allclose(same.by_model("correlation")[same.models[0]], 1)
    assert "the two were loaded with the same weights" in same.provenance.settings["seen"]["notes"]
    apart = DRIFT([vit, tiny_vit(seed=1)], images)
    assert max(row["cka"] for row in apart.rows(part="site")) < 0.98
    assert abs(apart.rows(part="units")[0]["correlation"]) < 0.5


def test_batches_have_errors_and_a_result_is_saved(vit, tuned, images, tmp_path):
    result = DRIFT([vit, tuned], images, gram=4, most=0, sites=("blocks.1", "blocks.2"))
    assert not result.rows(part="unit")
    assert [row["depth"] for row in result.rows(part="site")] == [0.5, 1.0]
    assert all(row["cka_error"] >= 0 for row in result.rows(part="site"))
    result.save(tmp_path / "out")
    assert (tmp_path / "out" / "drift.png").is_file()


def test_a_unit_that_never_changes_has_no_correlation():
    values = np.random.default_rng(0).normal(size=(9, 2))
    found = correlations(values, values * [-2, 0])
    assert found[0] == pytest.approx(-1)
    assert np.isnan(found[1])


def test_what_is_no_pair_of_checkpoints_is_refused(vit, cnn, images):
    with pytest.raises(
        BadValue, match=r"two checkpoints of one architecture: give two models, not 1. The same name"
    ):
        DRIFT(vit, images)
    with pytest.raises(BadValue, match="give two models, not 3"):
        DRIFT([vit, vit, vit], images)
    told = (
        r"Of blocks.\*, stages.\*.\*, VisionTransformer has 3 sites, from blocks.0 \(24 units\) to blocks.2 "
        r"\(24 units\), and ResNet 5 sites, from stages.0.0 \(8 units\) to stages.3.0 \(24 units\). "
        "The study similarity compares any two models"
    )
    with pytest.raises(BadValue, match=told):
        DRIFT([vit, cnn], images)
    with pytest.raises(BadValue, match=r"and VisionTransformer \(2\) 2 sites"):
        DRIFT([vit, tiny_vit(depth=2)], images)
