"""Queries and keys as projected, however a rotation between projection and attention is written."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from vitscope.models import load
from vitscope.tap import read
from vitscope.testing import stirred

PIXELS = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(6))
ANGLES = torch.rand(12, 4, generator=torch.Generator().manual_seed(7))
COS, SIN = ANGLES.cos(), ANGLES.sin()


def halves(x):
    one, other = x.chunk(2, -1)
    return torch.cat([-other, one], -1)


def pairs(x):
    return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)


def twice(table):
    return torch.cat([table, table], -1)


def halves_one_by_one(x):
    one, other = x.chunk(2, -1)
    return torch.cat([other * -SIN + one * COS, one * SIN + other * COS], -1)


ROTATIONS = {
    "halves, rotated last": lambda x: x * twice(COS) + halves(x) * twice(SIN),
    "halves, rotated first": lambda x: halves(x) * twice(SIN) + x * twice(COS),
    "pairs, rotated last": lambda x: (
        x * COS.repeat_interleave(2, -1) + pairs(x) * SIN.repeat_interleave(2, -1)
    ),
    "pairs, rotated first": lambda x: (
        pairs(x) * SIN.repeat_interleave(2, -1) + x * COS.repeat_interleave(2, -1)
    ),
    "halves to pairs": lambda x: torch.stack(
        [halves_one_by_one(x)[..., :4], halves_one_by_one(x)[..., 4:]], -1
    ).flatten(-2),
    "none": lambda x: x,
}


class Rotated(nn.Module):
    """Attention of 3 heads of 8 whose queries and keys are rotated."""

    def __init__(self, rotate, *, heads_last=False):
        super().__init__()
        self.rotate, self.heads_last = rotate, heads_last
        self.qkv, self.proj = nn.Linear(24, 72), nn.Linear(24, 24)

    def forward(self, x):
        if self.heads_last:  # unit = dim * heads + head
            q, k, v = (part.unflatten(-1, (8, 3)).permute(0, 3, 1, 2) for part in self.qkv(x).chunk(3, -1))
        else:
            q, k, v = self.qkv(x).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
        x = functional.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v)
        return self.proj(x.transpose(1, 2).flatten(2))


class Model(nn.Module):
    def __init__(self, **settings):
        super().__init__()
        self.patches, self.attn = nn.Conv2d(3, 24, 8, 8), Rotated(**settings)
        self.up, self.down, self.head = nn.Linear(24, 48), nn.Linear(48, 24), nn.Linear(24, 5)

    def forward(self, images):
        x = self.patches(images).flatten(2).mT
        x = x + self.attn(x)
        return self.head((x + self.down(self.up(x).relu())).mean(1))


@pytest.mark.parametrize("name", ROTATIONS)
def test_queries_and_keys_are_read_as_projected_whatever_rotates_them(name):
    model = load(stirred(Model(rotate=ROTATIONS[name])), sample=(24, 32), device="cpu")
    sites = [model.site(f"blocks.0.attn.{part}") for part in "qkv"]
    got = read(model, PIXELS, [*sites, model.site("attn.qkv")])
    for part, expected in zip("qkv", got["attn.qkv"].chunk(3, -1), strict=True):
        assert torch.equal(got[f"blocks.0.attn.{part}"], expected), part


def test_heads_are_told_apart_where_they_lie_side_by_side_in_the_projection():
    rotate = ROTATIONS["halves, rotated first"]
    model = load(stirred(Model(rotate=rotate, heads_last=True)), sample=(24, 32), device="cpu")
    got = read(model, PIXELS, [model.site("blocks.0.attn.q"), model.site("attn.qkv")])
    by_head = got["attn.qkv"][..., :24].unflatten(-1, (8, 3)).mT.flatten(-2)
    assert torch.equal(got["blocks.0.attn.q"], by_head)
