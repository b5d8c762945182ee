"""The ways of writing attention, and what is computed again inside fused functions."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from vitscope.models import load
from vitscope.models.attention import Argument, MultiHead, cores, fused_weights
from vitscope.tap import read
from vitscope.testing import stirred, tiny_vit
from vitscope.trace import trace

DRAW = torch.Generator().manual_seed(4)
SAMPLE = torch.rand(2, 6, 3, 4, generator=DRAW)


def drawn(*shape):
    return torch.randn(*shape, generator=DRAW)


MASKS = {
    "none": {},
    "float mask": {"attn_mask": drawn(5, 7)},
    "float mask of every head": {"attn_mask": drawn(2, 4, 5, 7)},
    "bool mask": {"attn_mask": torch.arange(35).view(5, 7) % 3 > 0},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.9},
    "scale of nothing": {"scale": 0.0},
    "all": {"attn_mask": drawn(5, 7), "scale": 0.3},
}


@pytest.mark.parametrize("name", MASKS)
def test_recomputed_weights_give_what_the_fused_function_gives(name):
    query, key, value = drawn(2, 4, 5, 8), drawn(2, 4, 7, 8), drawn(2, 4, 7, 3)
    settings = MASKS[name]
    weights = fused_weights(((query, key, value), settings))
    theirs = functional.scaled_dot_product_attention(query, key, value, **settings)
    assert weights.shape == (2, 4, 5, 7)
    assert (weights @ value - theirs).abs().max() < 1e-5
    by_place = fused_weights(((query,), {"key": key, "value": value, **settings}))
    assert torch.equal(by_place, weights)


def test_recomputed_weights_of_grouped_queries_and_of_positional_masks():
    query, key, value = drawn(2, 6, 5, 8), drawn(2, 2, 5, 8), drawn(2, 2, 5, 3)
    weights = fused_weights(((query, key, value), {"enable_gqa": True}))
    theirs = functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    assert (weights @ value.repeat_interleave(3, 1) - theirs).abs().max() < 1e-5
    query = query[:, :2]
    args = (query, key, value, None, 0.0, True)
    theirs = functional.scaled_dot_product_attention(*args)
    assert (fused_weights((args, {})) @ value - theirs).abs().max() < 1e-5


class Calling(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, images):
        return self.function(images.flatten(2).mT)


def cores_of(function):
    passed = trace(Calling(function), SAMPLE.clone())
    return cores(passed.ops), passed


Q, K, V = (drawn(6, 6) for _ in range(3))


def eager(x):
    return ((x @ Q) @ (x @ K).mT * 0.4).softmax(-1) @ (x @ V)


def values_first(x):
    return (x @ V).mT @ ((x @ Q) @ (x @ K).mT).softmax(-1).mT


def fused(x):
    return functional.scaled_dot_product_attention(x @ Q, x @ K, x @ V)


def covariance(x):
    return (x @ V) @ ((x @ Q).mT @ (x @ K)).softmax(-1)


def fused_covariance(x):
    return functional.scaled_dot_product_attention((x @ Q).mT, (x @ K).mT, (x @ V).mT)


def linear(x):
    return (x @ Q) @ ((x @ K).mT @ (x @ V))


def factorised(x):
    return (x @ Q) @ ((x @ K).softmax(1).mT @ (x @ V))


WAYS = {
    eager: "softmax",
    values_first: "softmax",
    fused: "softmax",
    covariance: "cross-covariance",
    fused_covariance: "cross-covariance",
    linear: "linear",
    factorised: "linear",
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_attention_is_recognised(way):
    (core,), passed = cores_of(way)
    assert core.way == WAYS[way]
    assert core.context is passed.calls[0].output
    assert (core.weights is not None) == (core.way == "softmax")
    assert core.recomputed == (way is fused)


@pytest.mark.parametrize("way", [eager, values_first, fused, linear, factorised])
def test_queries_keys_and_values_are_told_apart(way):
    (core,), passed = cores_of(way)
    maps = [op.output for op in passed.ops if op.name == "matmul" and not op.inputs[1].from_image]
    order = {values_first: (1, 2, 0)}.get(way, (0, 1, 2))
    for value, index in zip((core.query, core.key, core.value), order, strict=True):
        assert value.layout.source == maps[index].number


@pytest.mark.parametrize("way", [eager, values_first, fused])
def test_weights_times_values_are_the_context_vectors(way):
    (core,), _ = cores_of(way)
    x = SAMPLE.flatten(2).mT
    if way is fused:
        given = (x @ Q, x @ K, x @ V)
    else:
        weights = ((x @ Q) @ (x @ K).mT * (0.4 if way is eager else 1)).softmax(-1)
        given = (weights, x @ V) if way is eager else ((x @ V).mT, weights.mT)
    context = core.weights((given, {})) @ core.used((given, {}))
    expected = way(x).mT if way is values_first else way(x)
    assert (context - expected).abs().max() < 1e-5
    assert core.weights_layout.keys == (3, 4)
    assert core.used_layout.shape == (2, 12, 6)


def test_arguments_may_be_given_by_name():
    one, other = drawn(2, 3), drawn(3, 2)
    assert Argument(1)(((one,), {"other": other})) is other
    assert torch.equal(Argument(0, turned=True)(((one, other), {})), one.mT)


NONE = {
    "no softmax": lambda x: ((x @ Q) @ (x @ K).mT) @ (x @ V),
    "no scores": lambda x: (x @ Q).softmax(-1),
    "unknown order": lambda x: ((x @ Q).sort(dim=1)[0] @ (x @ K).mT).softmax(-1) @ (x @ V),
    "fixed weights": lambda x: torch.eye(12).softmax(-1) @ x,
}


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_attention_is_not_taken_for_it(name):
    assert cores_of(NONE[name])[0] == []


def test_two_attentions_in_a_row_are_two():
    assert len(cores_of(lambda x: fused(x) + fused(x * 2))[0]) == 2


def multi_head(**settings):
    return stirred(nn.MultiheadAttention(12, 3, **settings)).eval()


def padding():
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[1, 3:] = True
    return mask


CALLS = {
    "plain": ({}, {}),
    "no bias": ({"bias": False}, {}),
    "other widths": ({"kdim": 8, "vdim": 10}, {}),
    "bool mask": ({}, {"attn_mask": torch.arange(25).view(5, 5) % 3 == 1}),
    "float mask": ({}, {"attn_mask": drawn(5, 5)}),
    "mask of every head": ({}, {"attn_mask": drawn(6, 5, 5)}),
    "padded keys": ({}, {"key_padding_mask": padding()}),
    "both": ({}, {"key_padding_mask": padding(), "attn_mask": torch.arange(25).view(5, 5) % 3 == 1}),
}


@pytest.mark.parametrize("name", CALLS)
def test_parts_of_multi_head_attention_equal_its_own_outputs(name):
    settings, call = CALLS[name]
    module = multi_head(batch_first=True, **settings)
    given = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            if function is functional.multi_head_attention_forward:
                given.append((args, kwargs or {}))
            return function(*args, **(kwargs or {}))

    x = drawn(2, 5, 12)
    with torch.no_grad(), Watch():
        key, value = x[..., : module.kdim], x[..., : module.vdim]
        output, weights = module(x, key, value, need_weights=True, average_attn_weights=False, **call)
    parts = {part: MultiHead(part)(given[0]) for part in ("q", "k", "v", "heads", "pattern", "output")}
    assert (parts["pattern"] - weights).abs().max() < 1e-6
    assert (parts["output"] - output).abs().max() < 1e-5
    assert (module.out_proj(parts["heads"]) - output).abs().max() < 1e-5
    q, k = (parts[part].unflatten(-1, (3, 4)).transpose(1, 2) for part in "qk")
    if not call:
        assert ((q @ k.mT / 2).softmax(-1) - weights).abs().max() < 1e-6


class Layer(nn.Module):
    """A block around `nn.MultiheadAttention`, whose keys may be other tokens than its queries."""

    def __init__(self, *, call, few=False, **settings):
        super().__init__()
        self.attn = nn.MultiheadAttention(24, 3, batch_first=settings.pop("batch_first", True), **settings)
        self.norm1, self.norm2 = nn.LayerNorm(24), nn.LayerNorm(24)
        self.up, self.down, self.call, self.few = nn.Linear(24, 48), nn.Linear(48, 24), call, few

    def forward(self, x):
        y = self.norm1(x)
        keys = y[:, ::2] if self.few else y
        x = x + self.attn(y, keys, keys, need_weights=False, **self.call)[0]
        return x + self.down(self.up(self.norm2(x)).relu())


class Plain(nn.Module):
    """Patches, layers, mean; a CLS token may be joined on as the last."""

    def __init__(self, layers, *, last=False):
        super().__init__()
        self.patches, self.layers = nn.Conv2d(3, 24, 8, 8), nn.Sequential(*layers)
        self.last, self.cls, self.head = last, nn.Parameter(torch.rand(1, 1, 24)), nn.Linear(24, 5)

    def forward(self, images):
        x = self.patches(images).flatten(2).mT
        x = torch.cat([x, self.cls.expand(len(x), -1, -1)], 1) if self.last else x
        return self.head(self.layers(x).mean(1))


PIXELS = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(6))


def both(model, name):
    """The weights at a site, and those that the module itself hands out for the same input."""
    block = int(name.split(".")[1])
    got = read(model, PIXELS, [model.site(f"blocks.{block}.norm1"), model.site(name)])
    y, layer = got[f"blocks.{block}.norm1"], model.module.layers[block]
    keys = y[:, ::2] if layer.few else y
    with torch.no_grad():
        theirs = layer.attn(y, keys, keys, need_weights=True, average_attn_weights=False, **layer.call)[1]
    return got[name].unflatten(-1, (3, -1)).transpose(1, 2), theirs


SITES = ["q", "k", "v", "heads", "pattern"]


@pytest.mark.parametrize("settings", [{}, {"bias": False}])
def test_every_layer_of_multi_head_attention_has_its_sites(settings):
    model = load(
        stirred(Plain([Layer(call={}, **settings) for _ in range(3)])), sample=(24, 32), device="cpu"
    )
    assert model.sites.notes == ()
    for block in range(3):
        ours, theirs = both(model, f"blocks.{block}.attn.pattern")
        assert (ours - theirs).abs().max() < 1e-5


def test_multi_head_attention_to_fewer_keys_says_which():
    model = load(stirred(Plain([Layer(call={}, few=True)])), sample=(24, 32), device="cpu")
    site = model.site("blocks.0.attn.pattern")
    ours, theirs = both(model, site.name)
    assert ours.shape == (2, 3, 12, 6)
    assert (ours - theirs).abs().max() < 1e-5
    assert (site.grid, site.keys.grid, site.keys.table) == ((3, 4), (3, 2), None)
    assert model.site("blocks.0.attn.k").grid == (3, 2)


def test_a_token_joined_on_as_the_last_is_read_first_inside_multi_head_attention_too():
    model = load(stirred(Plain([Layer(call={})], last=True)), sample=(24, 32), device="cpu")
    names = ["blocks.0.norm1", "blocks.0.attn.q", "blocks.0.attn.heads", "blocks.0.attn"]
    got = read(model, PIXELS, [model.site(name) for name in names])
    attn = model.module.layers[0].attn
    weight, bias = attn.in_proj_weight[:24], attn.in_proj_bias[:24]
    assert (
        functional.linear(got["blocks.0.norm1"], weight, bias) - got["blocks.0.attn.q"]
    ).abs().max() < 1e-4
    assert (attn.out_proj(got["blocks.0.attn.heads"]) - got["blocks.0.attn"]).abs().max() < 1e-4
    site = model.site("blocks.0.attn.pattern")
    assert (site.prefix_tokens, site.keys.prefix_tokens) == (1, 1)
    q, k = (read(model, PIXELS, [model.site(f"blocks.0.attn.{x}")])[f"blocks.0.attn.{x}"] for x in "qk")
    q, k = (x.unflatten(-1, (3, 8)).transpose(1, 2) for x in (q, k))
    ours = read(model, PIXELS, [site])[site.name].unflatten(-1, (3, -1)).transpose(1, 2)
    expected = (q @ k.mT * 8**-0.5).softmax(-1)
    if site.keys.table is not None:
        expected = expected[..., site.keys.table[0]]
    assert (ours - expected).abs().max() < 1e-5


def test_keys_that_the_module_adds_of_its_own_are_refused():
    model = load(stirred(Plain([Layer(call={}, add_bias_kv=True)])), sample=(24, 32), device="cpu")
    assert not [site for site in model.sites if site.name in {f"blocks.0.attn.{part}" for part in SITES}]
    assert model.sites.notes == (
        "no blocks.0.attn.q, .k, .v, .heads, .pattern: computed again, they do not give what it returns",
    )


def test_the_pattern_of_fused_attention_says_that_it_is_computed_again():
    assert tiny_vit(depth=1).site("blocks.0.attn.pattern").recomputed
    module = tiny_vit(depth=1).module
    module.blocks[0].attn.fused_attn = False
    assert not load(module, sample=(32, 32), device="cpu").site("blocks.0.attn.pattern").recomputed
