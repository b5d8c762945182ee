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
    assert not [site for site in model.sites if "q_norm" in site.name]


class OddAttention(nn.Module):
    """Fused qkv and projection, but not softmax attention: a linear attention."""

    def __init__(self, width=24):
        super().__init__()
        self.num_heads, self.qkv, self.proj = 3, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, **_):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(q @ (k.mT @ v) / x.shape[1])


def test_linear_attention_has_all_but_a_pattern():
    module = tiny_vit().module
    module.blocks[1].attn = attn = OddAttention()
    model = load(module, sample=(32, 32), device="cpu")
    names = ["norm1", "attn.q", "attn.k", "attn.v", "attn.heads", "attn"]
    got = read(model, pixels_for(model), [model.site(f"blocks.1.{name}") for name in names])
    x, q, k, v, heads, out = (got[f"blocks.1.{name}"] for name in names)
    with torch.no_grad():
        assert_close(torch.cat([q, k, v], -1), attn.qkv(x))
        assert_close(q @ (k.mT @ v), heads)
        assert_close(attn.proj(heads / x.shape[1]), out)
    assert "blocks.0.attn.pattern" in {site.name for site in model.sites}
    assert "blocks.1.attn.pattern" not in {site.name for site in model.sites}
    assert model.sites.notes == (
        "no blocks.1.attn.pattern: linear attention has no weights from place to place",
    )


def test_a_block_whose_sums_are_odd_is_read_off_its_sums():
    module = tiny_vit().module
    block = module.blocks[0]
    block.forward = lambda x, *_, **__: (
        2 * x + (y := block.attn(block.norm1(x))) + block.mlp(block.norm2(x + y))
    )
    model = load(module, sample=(32, 32), device="cpu")
    got = read(model, pixels_for(model), [*model.sites("blocks.0**"), model.site("embed")])
    with torch.no_grad():
        attention = block.attn(block.norm1(got["embed"]))
        mlp = block.mlp(block.norm2(got["embed"] + attention))
        assert_close(2 * got["embed"] + attention + mlp, got["blocks.0"])
        assert_close(attention, got["blocks.0.attn"])
        assert_close(mlp, got["blocks.0.mlp"], 1e-4)
        assert_close(block.mlp.fc2(got["blocks.0.ffn"]), got["blocks.0.mlp"])
    base = got.get("blocks.0.attn.base", got["embed"])  # the stream as it is when attention is added
    assert_close(base, 2 * got["embed"])
    assert_close(base + got["blocks.0.attn"], got["blocks.0.mid"])
    assert_close(got["blocks.0.mid"] + got["blocks.0.mlp"], got["blocks.0"])


class Turned(nn.Module):
    """Puts its patches in another order than the image's."""

    def forward(self, tokens):
        return torch.cat([tokens[:, :1], tokens[:, 1:].flip(1)], 1)


def test_tokens_in_another_order_than_the_patches_are_followed():
    plain, module = tiny_vit(), tiny_vit().module
    module.norm_pre = Turned()
    model = load(module, sample=(32, 32), device="cpu")
    assert model.sites.notes == ()
    pixels = pixels_for(model)
    ours = read(model, pixels, list(model.sites))
    theirs = read(plain, pixels, list(plain.sites))  # positions are added before: the order changes nothing
    assert {site.name for site in model.sites} == {site.name for site in plain.sites}
    for name, expected in theirs.items():
        if not name.endswith("pattern"):
            assert_close(ours[name], expected, 1e-4)


def test_a_perturbed_patch_moves_its_own_place_whatever_the_order():
    module = tiny_vit().module
    module.norm_pre = Turned()
    model = load(module, sample=(32, 32), device="cpu")
    site, pixels = model.site("embed"), pixels_for(model, 1)
    before = read(model, pixels, [site])["embed"]
    for row, column in ((0, 0), (1, 3), (3, 1)):
        other = pixels.clone()
        other[:, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] += 0.5
        moved = (read(model, other, [site])["embed"] - before).abs().sum((0, 2))
        assert (moved > 1e-6).nonzero().flatten().tolist() == [site.place_index(f"{row},{column}")]


class Sorted(nn.Module):
    """Puts its tokens in an order that depends on the image."""

    def forward(self, tokens):
        order = tokens[..., :1].argsort(1).expand_as(tokens)
        return tokens.gather(1, order)


class Picked(nn.Module):
    """The same, written as an index."""

    def forward(self, tokens):
        return tokens[:, tokens[0, :, 0].argsort()]


@pytest.mark.parametrize("order", [Sorted, Picked])
def test_tokens_in_an_order_that_no_rule_knows_are_refused(order):
    module = tiny_vit().module
    module.norm_pre = order()
    model = load(module, sample=(32, 32), device="cpu")
    assert [site.name for site in model.sites] == ["pooled", "logits"]
    assert any(note.startswith("no ") and "blocks.i" in note for note in model.sites.notes)
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


def test_blocks_without_modules_are_read_off_the_stream():
    model = load(Bag(), sample=(32, 32), device="cpu")
    got = read_all(model)
    stream = got["embed"]
    for i in range(3):
        attn, mlp = model.module.layers[2 * i : 2 * i + 2]
        with torch.no_grad():
            assert_close(attn(stream), got[f"blocks.{i}.attn"])
            assert_close(stream + got[f"blocks.{i}.attn"], got[f"blocks.{i}.mid"])
            assert_close(mlp(got[f"blocks.{i}.mid"]), got[f"blocks.{i}.mlp"])
            assert_close(mlp.fc2(got[f"blocks.{i}.ffn"]), got[f"blocks.{i}.mlp"])
        stream = got[f"blocks.{i}"]
        assert_close(got[f"blocks.{i}.mid"] + got[f"blocks.{i}.mlp"], stream)
    assert model.sites.notes == ()


def test_a_constant_made_between_the_halves_of_a_block_changes_nothing():
    module = tiny_vit(depth=1).module
    block = module.blocks[0]

    def forward(x, *_, **__):
        x = x + block.attn(block.norm1(x))
        x = x * torch.ones(1) + torch.zeros(x.shape[-1])
        return x + block.mlp(block.norm2(x))

    block.forward = forward
    model = load(module, sample=(32, 32), device="cpu")
    got = read_all(model)
    with torch.no_grad():
        assert_close(block(got["embed"]), got["blocks.0"])
        assert_close(block.mlp.fc2(got["blocks.0.ffn"]), got["blocks.0.mlp"])
