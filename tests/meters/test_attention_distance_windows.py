"""Attention distance in windows and shifted windows, against the pixels where each window's places lie."""

import math

import numpy as np
import pytest
import timm
import torch

from vitscope.data.source import ImageBatch
from vitscope.meters.attention_distance import AttentionDistance
from vitscope.models import load
from vitscope.passes import read_batches

METER = AttentionDistance()


def swin(side):
    """A Swin whose heads prefer some places to others: windows of 4 x 4, the second block's shifted."""
    module = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=side,
        window_size=4,
        embed_dim=8,
        depths=(2, 1),
        num_heads=(2, 4),
        num_classes=3,
    ).eval()
    for layer in module.layers:
        for block in layer.blocks:
            block.attn.qkv.weight.data *= 8
            block.attn.relative_position_bias_table.data.normal_(generator=torch.Generator().manual_seed(1))
    return module


def batch_of(count, side):
    ids = tuple(f"{index:032x}" for index in range(count))
    pixels = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
    return ImageBatch(ids, ids, pixels, torch.zeros(count, dtype=torch.int64))


def measured(module, batch):
    model = load(module, sample=tuple(batch.pixels.shape[-2:]), device="cpu")
    found = read_batches(model, [batch], [METER])["attention_distance"].result()
    return model, found


def blocks_of(module, pixels):
    """Every block with what enters it: "image row column unit"."""
    tokens = module.patch_embed(pixels)
    for layer in module.layers:
        tokens = layer.downsample(tokens)
        for block in layer.blocks:
            yield block, tokens
            tokens = block(tokens)


def padded(values, block, fill):
    """A map of rows and columns, rolled as the block rolls it, and filled up to whole windows."""
    rolled = torch.roll(values, [-shift for shift in block.shift_size], dims=(0, 1))
    rows, columns = (-size % window for size, window in zip(rolled.shape, block.window_size, strict=False))
    return torch.nn.functional.pad(rolled, (0, 0, 0, columns, 0, rows), value=fill)


def windows(values, block):
    down, across = block.window_size
    for top in range(0, values.shape[0], down):
        for left in range(0, values.shape[1], across):
            yield values[top : top + down, left : left + across].reshape(down * across, -1)


def weights_of(block, tokens, which):
    """Attention weights of one window of one image, in float64, head by head."""
    attn = block.attn
    q, k, _ = attn.qkv(tokens).double().reshape(len(tokens), 3, attn.num_heads, -1).unbind(1)
    mask = 0 if block.attn_mask is None else block.attn_mask[which].double()
    bias = attn._get_rel_pos_bias()[0].double()
    scores = [q[:, head] @ k[:, head].T * attn.scale + bias[head] for head in range(attn.num_heads)]
    return [(own + mask).softmax(-1) for own in scores]


def by_coordinates(block, tokens, side):
    """The mean distance of every head, and that of equal weights on what is not masked.

    Each place of a window carries the pixels of its centre, and padding none.
    """
    lines = [(torch.arange(count, dtype=torch.float64) + 0.5) * side / count for count in tokens.shape[1:3]]
    centres = torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1)
    lie = list(windows(padded(centres, block, math.nan), block))
    total, even, queries = np.zeros(block.attn.num_heads), 0.0, 0
    for image in block.norm1(tokens):
        for which, inside in enumerate(windows(padded(image, block, 0.0), block)):
            real = ~lie[which][:, 0].isnan()
            places = lie[which][real].tolist()
            away = torch.tensor([[math.dist(one, other) for other in places] for one in places])
            for head, weights in enumerate(weights_of(block, inside, which)):
                kept = weights[real][:, real]
                total[head] += float((kept / kept.sum(1, keepdim=True) * away).sum())
            mask = torch.zeros(len(real), len(real)) if block.attn_mask is None else block.attn_mask[which]
            seen = mask[real][:, real] == 0
            even += float((away * seen / seen.sum(1, keepdim=True)).sum())
            queries += len(places)
    return total / queries, even / queries


@pytest.mark.parametrize("side", [64, 56])  # 56: grids of 14 and 7, which windows of 4 do not fill
def test_distances_are_those_of_the_pixels_where_places_of_a_window_lie(side):
    module, batch = swin(side), batch_of(2, side)
    model, found = measured(module, batch)
    with torch.no_grad():
        expected = [by_coordinates(*each, side) for each in blocks_of(module, model.preprocess(batch.pixels))]
    for ours, (distance, uniform) in zip(found.values(), expected, strict=True):
        assert np.allclose(ours.distance, distance, rtol=1e-5)
        assert ours.uniform == pytest.approx(uniform, rel=1e-5)
    assert np.ptp(expected[0][0]) > 0.1, "heads differ, so that their order is tested too"


def test_windows_bound_how_far_heads_look():
    _, found = measured(swin(64), batch_of(2, 64))
    plain, shifted, deep = found.values()
    cells = np.stack(np.meshgrid(range(4), range(4), indexing="ij"), -1).reshape(-1, 2) * 4.0
    away = np.linalg.norm(cells[:, None] - cells, axis=-1)
    assert [len(each.distance) for each in (plain, shifted, deep)] == [2, 2, 4]
    assert (plain.distance < away.max()).all()
    assert plain.uniform == pytest.approx(away.mean())
    assert deep.uniform == pytest.approx(2 * away.mean())
    assert shifted.uniform < plain.uniform, "windows that hold both ends of the image are parted by a mask"


def test_states_know_which_keys_are_masked_and_merge():
    model, _ = measured(swin(64), batch_of(1, 64))
    sites = METER.sites(model.sites)
    one, other = (read_batches(model, [batch_of(1, 64)], [METER])["attention_distance"] for _ in range(2))
    both = METER.load(sites, one.arrays()).merge(METER.start(sites)).merge(other)
    name = "blocks.1.attn.pattern"
    masked = model.site(name).keys.table.numel() - both.reached[name].sum()
    # of 16 windows six hold two parts of 8 places, and the one in the corner four of 4
    assert masked == 6 * (16**2 - 2 * 8**2) + 16**2 - 4 * 4**2
    assert both.result()[name].uniform == one.result()[name].uniform
