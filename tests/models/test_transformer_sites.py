"""Sites of transformers, by the laws that tie them together, on many ways of building a ViT."""

import pytest
import torch
from einops import rearrange
from torch import nn

from vitscope.models import load
from vitscope.models.vision_model import VisionModel
from vitscope.tap import read
from vitscope.testing import tiny_vit

VARIANTS = {
    "plain": {},
    "registers": {"reg_tokens": 2},
    "no_class_token": {"class_token": False, "global_pool": "avg"},
    "layer_scale": {"init_values": 0.3},
    "qk_norm": {"qk_norm": True},
    "wide": {"img_size": (24, 48)},
    "tall": {"img_size": (48, 16)},
    "pre_norm": {"pre_norm": True},
    "narrow_heads": {"num_heads": 4},
}


@pytest.fixture(scope="module", params=list(VARIANTS))
def model(request) -> VisionModel:
    model = tiny_vit(**VARIANTS[request.param])
    for name, weight in model.module.named_parameters():
        if "norm" in name:  # fresh norms are identities, which would hide a mix-up
            weight.data.add_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)))
    return model


def pixels_for(model: VisionModel, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, *model.preprocessing.size, generator=torch.Generator().manual_seed(5))


def read_all(model: VisionModel, pattern: str = "**") -> dict[str, torch.Tensor]:
    return read(model, pixels_for(model), list(model.sites(pattern)))


def assert_close(one, other, tolerance=1e-5):
    assert (one - other).abs().max() <= tolerance * other.abs().max()


def test_every_semantic_site_is_there(model):
    parts = [
        "norm1",
        "attn.q",
        "attn.k",
        "attn.v",
        "attn.pattern",
        "attn.heads",
        "attn",
        "mid",
        "norm2",
        "ffn",
        "mlp",
    ]
    blocks = [name for i in range(3) for name in [*(f"blocks.{i}.{part}" for part in parts), f"blocks.{i}"]]
    ends = ["pooled", "logits"] if model.module.global_pool == "avg" else ["norm", "pooled", "logits"]
    assert [site.name for site in model.sites] == ["embed", *blocks, *ends]
    assert model.sites.notes == ()


def test_the_stream_adds_up(model):
    got = read_all(model)
    stream = got["embed"]
    for i in range(3):
        assert_close(stream + got[f"blocks.{i}.attn"], got[f"blocks.{i}.mid"])
        assert_close(got[f"blocks.{i}.mid"] + got[f"blocks.{i}.mlp"], got[f"blocks.{i}"])
        stream = got[f"blocks.{i}"]


def test_the_second_linear_map_makes_mlp_out_of_ffn(model):
    got = read_all(model)
    for i, block in enumerate(model.module.blocks):
        with torch.no_grad():
            assert_close(block.ls2(block.mlp.fc2(got[f"blocks.{i}.ffn"])), got[f"blocks.{i}.mlp"])
            assert_close(block.norm1(got["embed" if i == 0 else f"blocks.{i - 1}"]), got[f"blocks.{i}.norm1"])
            assert_close(block.norm2(got[f"blocks.{i}.mid"]), got[f"blocks.{i}.norm2"])
            assert_close(block.ls1(block.attn.proj(got[f"blocks.{i}.attn.heads"])), got[f"blocks.{i}.attn"])


def test_q_k_and_v_give_the_context_vectors(model):
    got = read_all(model)
    for i, block in enumerate(model.module.blocks):
        heads = block.attn.num_heads
        q, k, v = (
            rearrange(got[f"blocks.{i}.attn.{x}"].double(), "b t (h d) -> b h t d", h=heads) for x in "qkv"
        )
        with torch.no_grad():
            q, k = block.attn.q_norm(q.float()).double(), block.attn.k_norm(k.float()).double()
        weights = torch.einsum("bhqd,bhkd->bhqk", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
        context = rearrange(weights @ v, "b h t d -> b t (h d)")
        assert_close(context, got[f"blocks.{i}.attn.heads"].double(), 1e-4)
        assert_close(
            rearrange(weights, "b h q k -> b q (h k)"), got[f"blocks.{i}.attn.pattern"].double(), 1e-4
        )


def test_rows_of_the_pattern_sum_to_one_and_are_not_flat(model):
    site = model.sites.named("blocks.1.attn.pattern")
    pattern = read(model, pixels_for(model), [site])[site.name]
    shares = rearrange(pattern, "image query (head key) -> image query head key", key=site.places)
    assert_close(shares.sum(-1), torch.ones(()), 1e-5)
    assert shares.std(-1).mean() > 1e-3
    assert site.units == pattern.shape[-1]


def test_norm_and_logits_follow_the_last_block(model):
    got = read_all(model)
    with torch.no_grad():
        if model.module.global_pool != "avg":
            assert_close(model.module.norm(got["blocks.2"]), got["norm"])
            assert_close(got["norm"][:, :1], got["pooled"])
        assert_close(model.module.head(got["pooled"]), got["logits"])


def test_fault_052_prefix_tokens_and_grid_follow_from_structure(model):
    rows, columns = (side // 8 for side in model.preprocessing.size)
    for site in model.sites("blocks.**"):
        assert site.grid == (rows, columns)
        assert site.prefix_tokens == model.module.num_prefix_tokens
    assert model.sites.named("patch_embed").prefix_tokens == 0
    assert model.sites.named("patch_embed.proj").grid == (rows, columns)


def test_fault_052_a_perturbed_patch_moves_its_own_place_at_embed(model):
    """The guard against taking tokens for units and columns for rows."""
    site = model.sites.named("embed")
    rows, columns = site.grid
    pixels = pixels_for(model, 1)
    before = read(model, pixels, [site])["embed"]
    for row in range(rows):
        for column in range(columns):
            other = pixels.clone()
            other[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 0.5
            moved = (read(model, other, [site])["embed"] - before).abs().sum((0, 2))
            assert moved.argmax() == site.place_index(f"{row},{column}")
            assert (moved > 1e-6).sum() == 1


def test_a_later_norm_does_not_fire_twice_when_it_is_read_with_the_pattern():
    model = tiny_vit(qk_norm=True)
    names = ["blocks.1.attn.pattern", "blocks.1.attn.qkv", "blocks.1.attn"]
    assert set(read(model, pixels_for(model), [model.sites.named(name) for name in names])) == set(names)
    assert not [site for site in model.sites("**.attn.*") if "q_norm" in site.name]


class OddAttention(nn.Module):
    """Fused qkv and projection, but not softmax attention: a linear attention."""

    def __init__(self, width=24):
        super().__init__()
        self.num_heads, self.qkv, self.proj = 3, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, **_):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(q @ (k.mT @ v) / x.shape[1])


def test_attention_that_cannot_be_recomputed_offers_no_pattern():
    module = tiny_vit().module
    module.blocks[1].attn = OddAttention()
    model = load(module, sample=(32, 32), device="cpu")
    names = {site.name for site in model.sites}
    assert {"blocks.1.attn", "blocks.1.attn.heads", "blocks.0.attn.pattern"} <= names
    assert not {"blocks.1.attn.pattern", "blocks.1.attn.q"} & names
    assert model.sites.notes == (
        "no blocks.1.attn.q, .k, .v, .pattern: recomputed, they do not give the context vectors",
    )


def test_branches_that_do_not_add_up_are_not_offered():
    module = tiny_vit().module
    block = module.blocks[0]
    block.forward = lambda x, *_, **__: (
        2 * x + (y := block.attn(block.norm1(x))) + block.mlp(block.norm2(x + y))
    )
    model = load(module, sample=(32, 32), device="cpu")
    names = {site.name for site in model.sites}
    assert {"blocks.0", "blocks.0.ffn", "blocks.0.mid", "blocks.1.mlp"} <= names
    assert "blocks.0.mlp" not in names
    assert "its branches do not add up" in model.sites.notes[0]


class Shuffled(nn.Module):
    """Puts its tokens in another order than the image's."""

    def forward(self, tokens):
        return tokens.flip(1)


def test_tokens_in_another_order_than_the_patches_are_refused():
    module = tiny_vit().module
    module.norm_pre = Shuffled()
    model = load(module, sample=(32, 32), device="cpu")
    assert [site.name for site in model.sites] == ["pooled", "logits"]
    assert "no blocks.i: it is not certain which token lies where on the image" in model.sites.notes
    assert model.sites.named("blocks.1").grid is None


class Bag(nn.Module):
    """Attention and MLP without a module for the block."""

    def __init__(self):
        super().__init__()
        inner = tiny_vit().module
        self.patch_embed, self.head = inner.patch_embed, inner.head
        self.layers = nn.ModuleList([part for block in inner.blocks for part in (block.attn, block.mlp)])

    def forward(self, images):
        x = self.patch_embed(images)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(x.mean(1))


def test_attention_without_block_modules_is_refused_with_a_note():
    model = load(Bag(), sample=(32, 32), device="cpu")
    assert [site.name for site in model.sites] == ["pooled", "logits"]
    assert model.sites.notes[0].startswith("no blocks.i: no modules that each hold one attention and one MLP")
    assert model.sites.named("layers.1.fc1").units == 96
