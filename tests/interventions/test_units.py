"""Ablating and scaling units, removing skips: by hand in float64, composed, and gone afterwards."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.conftest import PIXELS, state_of
from torch.nn import functional

from vitscope.errors import BadValue, SiteError, UnknownAddress, UnknownSite, Unsuited
from vitscope.interventions.trunk import answer
from vitscope.interventions.units import ablate, remove_skip, scale
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit

MODEL = tiny_vit().to("cpu", torch.float64)
CNN = tiny_cnn()


def sites_of(*names):
    return [MODEL.site(name) for name in names]


def rest_of(tokens, *, start):
    with torch.no_grad():
        for block in MODEL.module.blocks[start:]:
            tokens = block(tokens)
        return MODEL.module.forward_head(MODEL.module.norm(tokens))


def test_an_ablated_ffn_unit_is_its_column_of_the_second_map_left_out():
    found = read(MODEL, PIXELS, sites_of("blocks.1.ffn", "blocks.1"))
    with torch.no_grad():
        lost = found["blocks.1.ffn"][..., 7:8] * MODEL.module.blocks[1].mlp.fc2.weight[:, 7]
    with ablate(MODEL, addresses="blocks.1.ffn:7"):
        changed = read(MODEL, PIXELS, sites_of("blocks.1.ffn", "blocks.1"))
        answered = answer(MODEL, PIXELS)
    assert not changed["blocks.1.ffn"][..., 7].any()
    assert torch.equal(changed["blocks.1.ffn"][..., :7], found["blocks.1.ffn"][..., :7])
    assert torch.allclose(changed["blocks.1"], found["blocks.1"] - lost, rtol=0, atol=1e-12)
    assert torch.allclose(answered, rest_of(found["blocks.1"] - lost, start=2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["blocks.0.attn.q", "blocks.0.attn.k", "blocks.0.attn.v"])
def test_a_unit_of_queries_keys_or_values_is_changed_where_it_lies_in_their_joint_map(name):
    block, normed = MODEL.module.blocks[0], read(MODEL, PIXELS, sites_of("blocks.0.norm1"))["blocks.0.norm1"]
    offset = 24 * ["q", "k", "v"].index(name[-1])
    with torch.no_grad():
        qkv = block.attn.qkv(normed)
        qkv[:, 3, offset + 5] *= 10
        query, key, value = qkv.reshape(2, 17, 3, 3, 8).permute(2, 0, 3, 1, 4)
        heads = functional.scaled_dot_product_attention(query, key, value)
        expected = block.attn.proj(heads.transpose(1, 2).reshape(2, 17, 24))
    with scale(MODEL, addresses=f"{name}:5@2", by=10.0):
        found = read(MODEL, PIXELS, sites_of("blocks.0.attn"))["blocks.0.attn"]
    assert torch.allclose(found, expected, rtol=0, atol=1e-10)


def test_the_stream_between_the_branches_is_changed_for_the_mlp_and_for_the_sum():
    mid = read(MODEL, PIXELS, sites_of("blocks.1.mid"))["blocks.1.mid"]
    mid[:, :, 4] *= 3
    block = MODEL.module.blocks[1]
    with torch.no_grad():
        expected = mid + block.mlp(block.norm2(mid))
    with scale(MODEL, addresses="blocks.1.mid:4", by=3.0):
        found = read(MODEL, PIXELS, sites_of("blocks.1"))["blocks.1"]
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)


def test_a_whole_branch_can_be_ablated():
    mid = read(MODEL, PIXELS, sites_of("blocks.1.mid"))["blocks.1.mid"]
    with ablate(MODEL, addresses=["blocks.1.mlp"]):
        assert torch.equal(read(MODEL, PIXELS, sites_of("blocks.1"))["blocks.1"], mid)


def test_a_logit_can_be_ablated_and_no_other_changes():
    plain = answer(MODEL, PIXELS)
    with ablate(MODEL, addresses="logits:3"):
        found = answer(MODEL, PIXELS)
    plain[:, 3] = 0
    assert torch.equal(found, plain)


def test_a_channel_of_a_map_can_be_ablated_at_one_place():
    site = CNN.site("stages.0.0")
    plain = read(CNN, PIXELS, [site])[site.name]
    with ablate(CNN, addresses="stages.0.0:2@1,3"):
        found = read(CNN, PIXELS, [site])[site.name]
    plain[:, site.place_index("1,3"), 2] = 0
    assert torch.equal(found, plain)


def test_what_is_not_finite_is_zero_once_ablated():
    with scale(MODEL, addresses="blocks.1.ffn:7", by=float("inf")), ablate(MODEL, addresses="blocks.1.ffn:7"):
        assert answer(MODEL, PIXELS).isfinite().all()


@given(
    factors=st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0]), min_size=1, max_size=3),
    name=st.sampled_from(
        ["blocks.0.ffn:3", "blocks.1.mid:2", "blocks.1:5@cls", "blocks.2.attn.v:1", "norm:0"]
    ),
)
@settings(deadline=None, max_examples=15)
def test_several_at_once_are_their_product(factors, name):
    product = torch.tensor(factors, dtype=torch.float64).prod().item()
    plain = answer(MODEL, PIXELS)
    with scale(MODEL, addresses=name, by=product):
        expected = answer(MODEL, PIXELS)
    first, second, third = [*factors, 1.0, 1.0][:3]
    with (
        scale(MODEL, addresses=name, by=first),
        scale(MODEL, addresses=name, by=second),
        scale(MODEL, addresses=name, by=third),
    ):
        assert torch.allclose(answer(MODEL, PIXELS), expected, rtol=0, atol=1e-12)
    assert torch.equal(answer(MODEL, PIXELS), plain)


@pytest.mark.parametrize("ending", ["success", "early", "error"])
@pytest.mark.parametrize("name", ["blocks.1.mid:2", "blocks.1.attn.q:1", "logits:0"])
def test_no_trace_is_left(name, ending):
    model = tiny_vit()
    model.module.train()
    model.module.blocks[1].requires_grad_(False)
    before = state_of(model.module)
    plain = answer(model, PIXELS)
    try:
        with ablate(model, addresses=name):
            read(model, PIXELS, [model.site("embed" if ending == "early" else "logits")])
            if ending == "error":
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert state_of(model.module) == before
    assert torch.equal(answer(model, PIXELS), plain)


@pytest.mark.parametrize(
    ("addresses", "error", "message"),
    [
        ("blocks.1.fn:3", UnknownSite, "Nearest: 'blocks.1.ffn'"),
        (["blocks.1.ffn:3", "blocks.1.ffn:96"], UnknownAddress, r"no unit 96 at blocks.1.ffn: .*0..95"),
        ([], BadValue, "no address to change"),
    ],
)
def test_an_address_that_is_none_is_an_error_before_any_pass(addresses, error, message):
    with pytest.raises(error, match=message), ablate(MODEL, addresses=addresses):
        pass


def test_a_site_that_is_computed_again_can_be_read_but_not_changed():
    with (
        ablate(MODEL, addresses="blocks.1.attn.pattern:0"),
        pytest.raises(SiteError, match=r"blocks.1.attn.pattern can be read but not changed"),
    ):
        answer(MODEL, PIXELS)


@pytest.mark.parametrize("which", ["first", "mlp", "both"])
def test_without_its_skip_the_stream_is_what_the_branch_hands_out(which):
    before = read(MODEL, PIXELS, sites_of("blocks.0"))["blocks.0"]
    block = MODEL.module.blocks[1]
    with torch.no_grad():
        mid = block.attn(block.norm1(before)) + (before if which == "mlp" else 0)
        expected = block.mlp(block.norm2(mid)) + (mid if which == "first" else 0)
    plain = answer(MODEL, PIXELS)
    with remove_skip(MODEL, block=1, which=which):
        found = read(MODEL, PIXELS, sites_of("blocks.1"))["blocks.1"]
        assert torch.allclose(answer(MODEL, PIXELS), rest_of(expected, start=2), rtol=0, atol=1e-10)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert torch.equal(answer(MODEL, PIXELS), plain)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"block": 7}, Unsuited, r"no skip around blocks.7.attn in .*no site 'blocks.7.attn'"),
        ({"block": 1, "which": "attn"}, BadValue, "which must be 'first', 'mlp' or 'both', not 'attn'"),
    ],
)
def test_where_there_is_no_skip_the_error_says_so(settings, error, message):
    with pytest.raises(error, match=message), remove_skip(MODEL, **settings):
        pass
