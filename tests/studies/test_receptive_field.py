"""Receptive fields against gradients taken one by one, theory, and models whose fields are known."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import vitscope as vs
from vitscope.errors import BadValue, UnknownSite
from vitscope.interventions.units import ablate
from vitscope.models import load
from vitscope.models.vision_model import MAP, TOKENS, Site
from vitscope.studies.fields import Field, weights
from vitscope.studies.receptive_field import RECEPTIVE_FIELD
from vitscope.testing import tiny_cnn, tiny_vit

PIXELS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def folder(noise):
    return noise(5)


@pytest.fixture(scope="module")
def model():
    return tiny_vit().to("cpu", torch.float64)


def by_hand(function, pixels, channels):
    """The mean size of the gradient of every channel, one image and one channel after another."""
    found = []
    for image in pixels:
        total = np.zeros(image.shape[1:])
        for channel in channels:
            shown = image[None].clone().requires_grad_(True)
            function(shown)[0, channel].backward()
            total += shown.grad[0].abs().double().sum(0).numpy()
        found.append(total / len(channels))
    return np.stack(found)


def after_block(model, block):
    """The centre token of a stream, by explicit calls of the blocks."""
    vit = model.module

    def run(pixels):
        tokens = vit._pos_embed(vit.patch_embed(model.preprocess(pixels)))
        for one in vit.blocks[: block + 1]:
            tokens = one(tokens)
        return tokens[:, 1 + 2 * 4 + 2]

    return run


def test_every_pixel_weighs_what_gradients_taken_one_by_one_give(model):
    site, channels = model.sites.named("blocks.1"), [0, 5, 17]
    found = weights(model, PIXELS, {site: channels})["blocks.1"]
    expected = by_hand(after_block(model, 1), PIXELS.double(), channels)
    assert np.allclose(found.numpy(), expected, rtol=1e-6, atol=1e-12)
    alone = torch.cat([weights(model, image[None], {site: channels})["blocks.1"] for image in PIXELS])
    assert torch.allclose(found, alone, rtol=1e-6)


def test_the_gradient_of_the_sum_is_another_quantity_and_never_larger(model):
    site = model.sites.named("blocks.1")
    channels = list(range(site.units))
    each = weights(model, PIXELS[:1], {site: channels})["blocks.1"]
    summed = weights(model, PIXELS[:1], {site: channels}, summed=True)["blocks.1"]
    shown = PIXELS[:1].double().requires_grad_(True)
    after_block(model, 1)(shown).sum().backward()
    assert torch.allclose(summed, shown.grad.abs().sum(1), rtol=1e-6)
    assert (summed <= each * site.units * (1 + 1e-6)).all()
    assert summed.sum() < 0.7 * each.sum() * site.units


def test_a_patch_embedding_sees_its_own_patch_with_the_weights_of_its_filters(model, images):
    result = RECEPTIVE_FIELD(model, images, sites=("embed",), channels=0)
    (row,) = result.table
    assert row["centre_share"] == pytest.approx(1)
    assert row["cell"] == "8x8"
    field = result.arrays["field"][0]
    assert field.shape == (32, 32)
    assert field.sum() == pytest.approx(1)
    outside = field.copy()
    outside[16:24, 16:24] = 0
    assert not outside.any()
    std = torch.tensor(model.preprocessing.std)[:, None, None]
    filters = (model.module.patch_embed.proj.weight.detach() / std).abs().sum((0, 1)).numpy()
    assert np.allclose(field[16:24, 16:24], filters / filters.sum(), rtol=1e-5)


def test_without_attention_the_support_is_one_patch_at_all_depths(model):
    sites = [model.sites.named(name) for name in ("blocks.0.mid", "blocks.1", "blocks.2")]
    channels = {site: [0, 1] for site in sites}
    with ablate(model, addresses=[f"blocks.{block}.attn" for block in range(3)]):
        apart = weights(model, PIXELS, channels)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[16:24, 16:24] = True
    for found in apart.values():
        assert found[:, inside].any()
        assert not found[:, ~inside].any()
    assert weights(model, PIXELS, channels)["blocks.0.mid"][:, ~inside].any()


def test_a_cnn_sees_nothing_beyond_its_theoretical_field():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2, padding=1))
    cnn = load(module, sample=(32, 32), device="cpu")
    site = cnn.sites.named("2")
    found = weights(cnn, PIXELS, {site: list(range(5))})["2"][:, :, :].numpy()
    assert site.grid == (16, 16)
    centre = slice(16 - 2, 16 + 3)  # at 2 x 8, two pixels of 3 x 3 filters around
    assert (found[:, centre, centre] > 0).any(axis=0).all()
    found[:, centre, centre] = 0
    assert not found.any()


def field(grid, mass):
    axes = TOKENS if grid == (1, 1) else MAP
    return Field(Site("a", "a", axes, 4, grid=grid), mass / mass.sum())


def test_radii_and_shares_of_fields_that_are_known():
    point = np.zeros((32, 32))
    point[20, 20] = 1
    one = field((4, 4), point)
    assert one.centre_share == 1
    assert one.radius(0.5) == one.radius(0.9) == pytest.approx(np.hypot(0.5, 0.5))
    assert one.effective_share == pytest.approx(1 / 1024)
    flat = field((4, 4), np.ones((32, 32)))
    assert flat.centre_share == pytest.approx(1 / 16)
    assert flat.effective_share == pytest.approx(1)
    assert flat.picture().shape == (32, 32)
    away = sorted(np.hypot(y + 0.5 - 20, x + 0.5 - 20) for y in range(32) for x in range(32))
    assert flat.radius(0.5) == pytest.approx(away[511])
    assert flat.radius(1.0) == pytest.approx(away[-1])
    two = np.zeros((32, 32))
    two[20, 20], two[20, 30] = 0.6, 0.4
    assert field((4, 4), two).radius(0.5) < 1
    assert field((4, 4), two).radius(0.9) == pytest.approx(np.hypot(0.5, 10.5))
    nothing = Field(Site("a", "a", MAP, 4, grid=(4, 4)), np.full((32, 32), np.nan))
    assert np.isnan([nothing.radius(0.5), nothing.centre_share, nothing.effective_share]).all()


def test_maps_of_large_images_are_made_of_cells():
    mass = np.random.default_rng(0).uniform(size=(224, 96))
    found = field((14, 6), mass).picture()
    assert found.shape == (56, 48)
    assert found.sum() == pytest.approx(1)
    assert found[3, 5] == pytest.approx(mass[12:16, 10:12].sum() / mass.sum())


def test_cells_that_are_no_whole_number_of_pixels_hold_the_pixels_whose_centres_they_hold():
    rows, columns = field((3, 1), np.ones((10, 4))).cell
    assert (rows.start, rows.stop) == (3, 7)
    assert (columns.start, columns.stop) == (0, 4)


def test_batches_and_seeds(model, images):
    one, same = (RECEPTIVE_FIELD(model, images, channels=2, batch_size=size) for size in (1, 3))
    assert np.allclose(one.arrays["field"], same.arrays["field"], rtol=1e-6)
    other = RECEPTIVE_FIELD(model, images, channels=2, seed=1)
    assert not np.allclose(one.arrays["field"], other.arrays["field"], rtol=1e-3)
    assert {row["channels"] for row in one.table} == {2}
    few = RECEPTIVE_FIELD(model, images, channels=1, sample=2, sites=("blocks.0",))
    assert [row["images"] for row in few.table] == [2]


def test_it_leaves_no_trace(model, images):
    before = [(weight.requires_grad, weight.grad is None) for weight in model.module.parameters()]
    RECEPTIVE_FIELD(model, images, sites=("blocks.0",), channels=1)
    assert before == [(weight.requires_grad, weight.grad is None) for weight in model.module.parameters()]
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    assert not any(getattr(part, hook) for part in model.module.modules() for hook in hooks)


def test_models_side_by_side_draw_and_save(model, images, tmp_path):
    result = RECEPTIVE_FIELD([model, tiny_cnn()], images, channels=1, sample=2)
    first, cnn = result.models
    assert [row["site"] for row in result.rows(model=first)][:3] == ["embed", "blocks.0.mid", "blocks.0"]
    assert [row["site"] for row in result.rows(model=cnn)][:2] == ["embed", "stages.0.0"]
    assert len(result.figures()) == 4
    result.save(tmp_path / "out")
    document = json.loads((tmp_path / "out" / "result.json").read_text())
    assert np.array(document["arrays"]["field"][first]).shape == (7, 32, 32)


def test_settings_that_make_no_sense_are_refused(model, images):
    with pytest.raises(
        BadValue, match="sample is at least 1, channels at least 0 and gradient 'channels' or"
    ):
        RECEPTIVE_FIELD(model, images, gradient="exact")
    with pytest.raises(
        UnknownSite, match=r"has no site with places on the image that matches stages\.\*\.\*"
    ):
        RECEPTIVE_FIELD(model, images, sites=("stages.*.*",))


@pytest.mark.real
def test_on_real_models_a_vit_looks_wide_at_once_and_a_cnn_does_not(shared):
    images = vs.images(f"folder:{shared / 'imagenet1k-sample'}", limit=2)
    names = ("vit_tiny_patch16_224", "resnet18")
    models = [vs.load(name, weights=str(shared / "weights" / f"{name}.safetensors")) for name in names]
    sites = ("blocks.0", "stages.0.0")
    vit, cnn = RECEPTIVE_FIELD(models, images, sites=sites, channels=2).table
    assert vit["radius90"] > 30 > cnn["radius90"]
    assert vit["centre_share"] > 0.2
