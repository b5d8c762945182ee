"""The laws of interventions in models of several libraries and families, found by their sites alone."""

import pytest
import torch
from tests.models import zoo_open_clip, zoo_timm, zoo_torchvision, zoo_transformers

from vitscope.errors import Unsuited
from vitscope.interventions.depths import dropping_depths, isolation_depths
from vitscope.interventions.model import drop_patches_after, head_on_places, head_site, isolate_cls
from vitscope.interventions.positions import without_positions
from vitscope.interventions.trunk import answer, noise, trunk
from vitscope.interventions.units import ablate
from vitscope.models import load
from vitscope.testing.doubles import stirred

WITH_CLS = {
    "timm ViT": lambda: zoo_timm.model("vit_tiny_patch16_224"),
    "timm CLIP": lambda: zoo_timm.model("vit_base_patch16_clip_224"),
    "timm registers": lambda: zoo_timm.model("vit_small_patch14_reg4_dinov2"),
    "open_clip": lambda: zoo_open_clip.tower("vit"),
    "torchvision": lambda: zoo_torchvision.model("vit_b_16"),
    "transformers ViT": lambda: zoo_transformers.models()["vit"](),
    "transformers distilled": lambda: zoo_transformers.models()["deit_distilled"](),
}
WITHOUT = {
    "SigLIP": lambda: zoo_timm.model("vit_base_patch16_siglip_224"),
    "Swin": lambda: zoo_torchvision.model("swin_t"),
    "Mixer": lambda: zoo_timm.model("mixer_s32_224"),
    "ResNet": lambda: zoo_timm.model("resnet10t"),
}


def ready(build):
    module, size = build()
    return load(stirred(module), sample=size, device="cpu")


@pytest.fixture(scope="module", params=WITH_CLS)
def model(request):
    return ready(WITH_CLS[request.param])


@pytest.fixture(scope="module", params=WITHOUT)
def other(request):
    return ready(WITHOUT[request.param])


def test_isolation_at_both_ends(model):
    pixels = noise(model, images=3)
    plain = answer(model, pixels)
    with isolate_cls(model, blocks=0):
        assert torch.equal(answer(model, pixels), plain)
    with isolate_cls(model, blocks=len(trunk(model))):
        blind = answer(model, pixels)
    assert blind.var(0).max() < 1e-9 * plain.square().mean()
    assert plain.var(0).max() > 1e-6 * plain.square().mean()


def test_dropping_at_both_ends(model):
    pixels = noise(model, images=3)
    plain = answer(model, pixels)
    with drop_patches_after(model, blocks=len(trunk(model))):
        assert torch.equal(answer(model, pixels), plain)
    with drop_patches_after(model, blocks=0):
        assert answer(model, pixels).var(0).max() < 1e-9 * plain.square().mean()


def test_sweeps_are_their_depths(model):
    pixels, depths = noise(model, images=2), len(trunk(model)) + 1
    for sweep, intervention in ((isolation_depths, isolate_cls), (dropping_depths, drop_patches_after)):
        with sweep(model):
            rows = answer(model, pixels).reshape(2, depths, -1)
        with intervention(model, blocks=1):
            expected = answer(model, pixels)
        assert torch.allclose(rows[:, 1], expected, atol=1e-4 * expected.abs().max())


def test_positions_matter_until_they_are_gone(model):
    pixels = noise(model, images=2)
    plain = answer(model, pixels)
    with without_positions(model):
        assert not torch.allclose(answer(model, pixels), plain, atol=1e-3 * plain.abs().max())
    assert torch.equal(answer(model, pixels), plain)


def test_a_model_that_averages_or_has_no_cls_says_so(other):
    why = "has no CLS token beside the patches|no transformer blocks"
    for intervention in (isolation_depths, dropping_depths):
        with pytest.raises(Unsuited, match=why), intervention(other):
            pass


def test_the_head_answers_at_every_place_and_an_ablated_branch_is_felt(other):
    pixels = noise(other, images=2)
    plain = answer(other, pixels)
    with head_on_places(other):
        rows = answer(other, pixels).reshape(2, head_site(other).places + 1, -1)
    assert rows.shape[-1] == plain.shape[-1]
    assert rows.std(1).max() > 0
    with ablate(other, addresses=head_site(other).name):
        assert not torch.allclose(answer(other, pixels), plain, atol=1e-3 * plain.abs().max())
    assert torch.equal(answer(other, pixels), plain)
