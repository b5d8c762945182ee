"""The study of skip connections: its numbers by explicit calls, and which sites are skipped and added."""

import json

import numpy as np
import pytest
import torch
from timm.models.mlp_mixer import MlpMixer
from torch import nn

import vitscope as vs
from vitscope.errors import Unsuited
from vitscope.meters.skips import Skipping
from vitscope.models import load
from vitscope.studies.shortcuts import Shortcut, shortcuts
from vitscope.studies.skips import SKIPS, _notes
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit


@pytest.fixture(scope="module")
def folder(noise):
    return noise(5)


@pytest.fixture(scope="module")
def model():
    """Layer scale is part of what a branch adds."""
    return tiny_vit(init_values=0.3)


@pytest.fixture(scope="module")
def result(model, images):
    return SKIPS(model, images, batch_size=2)


def ratios(base, branch):
    """|z| / |f| and cos(z, z + f) of CLS and patches, averaged over images one by one, in float64."""
    z, f = base.double().numpy(), branch.double().numpy()
    ratio = np.linalg.norm(z, axis=-1) / np.linalg.norm(f, axis=-1)
    total = z + f
    cosine = (z * total).sum(-1) / np.linalg.norm(z, axis=-1) / np.linalg.norm(total, axis=-1)
    return [(each[:, 0].mean(), each[:, 1:].mean()) for each in (ratio, cosine)]


def test_every_ratio_is_what_explicit_calls_give(result, model, pixels):
    vit = model.module
    norm_ratio, cosine = (result.arrays[name] for name in ("norm_ratio", "cosine"))
    assert norm_ratio.shape == (3, 2, 2)
    with torch.no_grad():
        stream = vit._pos_embed(vit.patch_embed(model.preprocess(pixels)))
        for number, block in enumerate(vit.blocks):
            added = block.ls1(block.attn(block.norm1(stream)))
            mid = stream + added
            more = block.ls2(block.mlp(block.norm2(mid)))
            for which, (base, branch) in enumerate(((stream, added), (mid, more))):
                expected = ratios(base, branch)
                assert np.allclose(norm_ratio[number, which], expected[0], rtol=1e-5)
                assert np.allclose(cosine[number, which], expected[1], rtol=1e-5)
            stream = mid + more
            assert torch.allclose(stream, vit.blocks[number](mid - added), atol=1e-5)


def test_rows_say_what_the_arrays_say(result):
    for row in result.table:
        block, which = int(row["block"].split(".")[1]), ["attn", "mlp"].index(row["sublayer"])
        kind = ["cls", "patches"].index(row["tokens"])
        for name in ("norm_ratio", "cosine", "branch_cosine"):
            assert row[name] == result.arrays[name][block, which, kind]
        tokens = result.arrays[f"{row['sublayer']}_token_ratio"][block]
        expected = np.median(tokens[1:]) if kind else tokens[0]
        assert row["median_ratio"] == pytest.approx(expected)
    assert len(result.table) == 12
    tokens = result.arrays["mlp_token_ratio"]
    assert tokens.shape == (3, 17)
    assert np.allclose(tokens[:, 0], result.arrays["norm_ratio"][:, 1, 0])
    assert np.allclose(tokens[:, 1:].mean(1), result.arrays["norm_ratio"][:, 1, 1])


def test_a_branch_that_is_zero_is_infinite_and_no_crash(images, tmp_path):
    model = tiny_vit()
    with torch.no_grad():
        for weight in model.module.blocks[1].attn.proj.parameters():
            weight.zero_()
    result = SKIPS(model, images)
    assert np.isinf(result.arrays["norm_ratio"][1, 0]).all()
    assert np.isfinite(result.arrays["norm_ratio"][[0, 2]]).all()
    result.save(tmp_path / "out")
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert document["arrays"]["norm_ratio"][1][0] == [None, None]


def test_a_few_patches_that_rule_the_mean_are_noted():
    values = np.ones(17)
    values[[3, 9]] = 60.0
    found = {"blocks.0.attn": Skipping("embed", "blocks.0.attn", 1, values, values, values)}
    found["blocks.1.attn"] = Skipping("blocks.0", "blocks.1.attn", 1, np.ones(17), np.ones(17), np.ones(17))
    known = [Shortcut(f"blocks.{b}", 0, one.base, one.branch) for b, one in enumerate(found.values())]
    notes = _notes(known, found)
    assert notes[0].startswith(
        "1 skip connections have patches of more than 5 times the median ratio, 2 at most"
    )
    assert notes[1].endswith(
        "is 1.00 in the first half of the blocks and 1.00 in the second, that of the patches 8.38 and 1.00"
    )
    assert len(_notes(known[1:] * 2, found)) == 1


def added_up(model, pixels):
    """Of every skip connection how far base and branch are from the stream, perhaps after an activation."""
    found = {}
    for one in shortcuts(model):
        out = one.block if one.which or f"{one.block}.mid" not in {site.name for site in model.sites} else ""
        sites = [model.sites.named(name) for name in (one.base, one.branch, out or f"{one.block}.mid")]
        base, branch, total = read(model, pixels, sites).values()
        total, both = total.double(), base.double() + branch.double()
        found[one.branch] = min(float((f(both) - total).abs().max()) for f in (nn.Identity(), nn.ReLU()))
    return found


def test_what_is_skipped_and_what_is_added_give_the_stream(model, pixels):
    cnn = tiny_cnn()
    assert list(added_up(model, pixels)) == [
        f"blocks.{b}.{kind}" for b in range(3) for kind in ("attn", "mlp")
    ]
    assert max(added_up(model, pixels).values()) < 1e-5
    branches = [site.name for site in cnn.sites if site.name.endswith(".branch")]
    assert list(added_up(cnn, pixels)) == branches
    assert max(added_up(cnn, pixels).values()) < 1e-4
    bases = {one.block: one.base for one in shortcuts(cnn)}
    assert bases["stages.1.1"] == "stages.1.0"
    assert bases["stages.1.0"].startswith("layer2.0.downsample")


def test_a_mixer_has_its_mixing_first(images):
    module = MlpMixer(img_size=32, patch_size=8, embed_dim=16, num_blocks=2, num_classes=4)
    mixer = load(module, sample=(32, 32), device="cpu")
    result = SKIPS(mixer, images)
    assert [row["sublayer"] for row in result.table] == ["mix", "mlp"] * 2
    assert np.isnan(result.arrays["norm_ratio"][:, :, 0]).all()
    assert np.isfinite(result.arrays["norm_ratio"][:, :, 1]).all()
    assert "attn_token_ratio" not in result.arrays


def test_models_side_by_side_and_one_without_skips(model, images, tmp_path):
    plain = load(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), sample=(32, 32), device="cpu")
    result = SKIPS([model, tiny_cnn(), plain], images)
    first, cnn, none = result.models
    shapes = {name: of.shape for name, of in result.by_model("norm_ratio").items()}
    assert shapes == {first: (3, 2, 2), cnn: (5, 2, 2)}
    assert {row["sublayer"] for row in result.rows(model=cnn)} == {"branch"}
    assert np.isnan(result.by_model("norm_ratio")[cnn][:, 1]).all()
    notes = result.provenance.settings["seen"]["notes"]
    assert f"{none} is left out: none of its sites are a skip connection and its branch" in notes
    assert any(
        note.startswith(f"{first}: around attention, the median norm ratio of CLS is") for note in notes
    )
    assert list(result.figures()) == ["norm_ratio", "cosine", "token_ratio"]
    result.save(tmp_path / "out")
    assert (tmp_path / "out" / "norm_ratio.png").is_file()
    with pytest.raises(Unsuited, match=r"none of .* has a skip connection that its sites tell"):
        SKIPS(plain, images)


@pytest.mark.real
def test_on_a_real_model_ratios_are_finite_and_positive(shared):
    weights = shared / "weights" / "vit_tiny_patch16_224.safetensors"
    model = vs.load("timm:vit_tiny_patch16_224", weights=str(weights))
    result = SKIPS(model, vs.images(f"folder:{shared / 'imagenet1k-sample'}", limit=4))
    values = result.arrays["norm_ratio"]
    assert values.shape == (12, 2, 2)
    assert (values > 0).all()
    assert np.isfinite(values).all()
