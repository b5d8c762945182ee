"""Position embeddings: found by trying, taken away or mixed up, and back where they were."""

import pytest
import torch
from tests.conftest import PIXELS, state_of
from timm import create_model
from torch import nn

from vitscope.errors import BadValue, Unsuited
from vitscope.interventions.positions import table_of_positions, without_positions
from vitscope.interventions.trunk import answer
from vitscope.models import load
from vitscope.models.checkpoints import seeded
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit
from vitscope.testing.doubles import stirred

MODEL = tiny_vit()


class Maps(nn.Module):
    """A ViT that keeps its positions as a map of units."""

    def __init__(self):
        super().__init__()
        self.vit = tiny_vit(class_token=False, global_pool="avg", pos_embed="none").module
        self.where = nn.Parameter(torch.randn(1, 24, 4, 4))

    def forward(self, images):
        tokens = (self.vit.patch_embed.proj(images) + self.where).flatten(2).transpose(1, 2)
        return self.vit.forward_head(self.vit.norm(self.vit.blocks(tokens)))


TABLES = {
    "vit": (lambda: tiny_vit(), "pos_embed"),
    "no prefix": (lambda: tiny_vit(class_token=False, global_pool="avg"), "pos_embed"),
    "patches only": (lambda: tiny_vit(reg_tokens=1, no_embed_class=True), "pos_embed"),
    "norm after it": (lambda: tiny_vit(pre_norm=True), "pos_embed"),
    "map": (lambda: load(Maps(), sample=(32, 32), device="cpu"), "where"),
}


@pytest.mark.parametrize("case", TABLES)
def test_the_table_is_found_whatever_it_is_called(case):
    build, name = TABLES[case]
    assert table_of_positions(build()) == name


def by_hand(table):
    """The answer of the model with another table."""
    vit = MODEL.module
    with torch.no_grad():
        tokens = torch.cat(
            [vit.cls_token.expand(2, -1, -1), vit.patch_embed(MODEL.preprocess(PIXELS))], dim=1
        )
        return vit.forward_head(vit.norm(vit.blocks(tokens + table)))


def test_zero_is_a_model_without_positions():
    with without_positions(MODEL):
        assert torch.allclose(answer(MODEL, PIXELS), by_hand(0.0), atol=1e-5)


def test_without_positions_the_order_of_patches_does_not_matter():
    tiles = PIXELS.reshape(2, 3, 4, 8, 4, 8)
    mixed = tiles.flip(2).flip(4).reshape(2, 3, 32, 32)
    assert not torch.allclose(answer(MODEL, PIXELS), answer(MODEL, mixed), atol=1e-3)
    with without_positions(MODEL, how="zero"):
        assert torch.allclose(answer(MODEL, PIXELS), answer(MODEL, mixed), atol=1e-5)


def test_shuffled_rows_are_the_same_rows_and_cls_keeps_its_own():
    own = MODEL.module.pos_embed.detach().clone()
    with without_positions(MODEL, how="shuffle", seed=3):
        table = MODEL.module.pos_embed.detach().clone()
        found = answer(MODEL, PIXELS)
    assert torch.equal(table[:, 0], own[:, 0])
    assert not torch.equal(table, own)
    assert sorted(table[0].tolist()) == sorted(own[0].tolist())
    assert torch.allclose(found, by_hand(table), atol=1e-5)


def test_noise_has_the_spread_of_the_authors():
    with without_positions(MODEL, how="noise"):
        table = MODEL.module.pos_embed
        assert abs(table.std().item() - 0.02) < 0.003
        assert abs(table.mean().item()) < 0.003


@pytest.mark.parametrize("how", ["shuffle", "noise"])
def test_a_seed_says_which(how):
    def under(seed):
        with without_positions(MODEL, how=how, seed=seed):
            return answer(MODEL, PIXELS)

    assert torch.equal(under(1), under(1))
    assert not torch.equal(under(1), under(2))


@pytest.mark.parametrize("ending", ["success", "error"])
def test_no_trace_is_left_and_the_weight_is_the_same_object(ending):
    model = tiny_vit()
    weight, before, plain = model.module.pos_embed, state_of(model.module), answer(model, PIXELS)
    try:
        with without_positions(model):
            assert model.module.pos_embed is not weight
            if ending == "error":
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert model.module.pos_embed is weight
    assert list(dict(model.module.named_parameters())) == list(dict(tiny_vit().module.named_parameters()))
    assert state_of(model.module) == before
    assert model.fingerprint == tiny_vit().fingerprint
    assert torch.equal(answer(model, PIXELS), plain)


def test_what_is_read_inside_is_without_positions():
    site = MODEL.site("embed")
    plain = read(MODEL, PIXELS, [site])["embed"]
    with without_positions(MODEL):
        found = read(MODEL, PIXELS, [site])["embed"]
    assert torch.allclose(plain - found, MODEL.module.pos_embed.detach().expand(2, -1, -1), atol=1e-6)


def test_a_model_without_a_table_is_an_error_that_says_so():
    facts = {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": (2,), "num_heads": (2,)}
    swin = seeded(lambda: create_model("swin_tiny_patch4_window7_224", num_classes=10, **facts), seed=0)
    for model in (tiny_cnn(), load(stirred(swin), sample=(32, 32), device="cpu")):
        with (
            pytest.raises(Unsuited, match="adds no table of positions to its tokens"),
            without_positions(model),
        ):
            pass


def test_another_word_is_an_error():
    with (
        pytest.raises(BadValue, match="how must be 'zero', 'shuffle' or 'noise', not 'gone'"),
        without_positions(MODEL, how="gone"),
    ):
        pass
