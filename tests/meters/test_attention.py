"""Attention weights by head, and their mass on prefix tokens, against sums one by one."""

import pytest
import timm
import torch

from vitscope.errors import BadValue
from vitscope.meters.attention import by_head, prefix_mass
from vitscope.models import load
from vitscope.tap import read
from vitscope.testing import tiny_vit


def pattern_of(model, name="blocks.1.attn.pattern"):
    site = model.site(name)
    pixels = torch.rand(2, 3, *model.preprocessing.size, generator=torch.Generator().manual_seed(4))
    return site, read(model, pixels, [site])[name]


@pytest.mark.parametrize("registers", [0, 3])
def test_mass_is_the_sum_over_prefix_keys(registers):
    site, weights = pattern_of(tiny_vit(reg_tokens=registers))
    rows, mass = by_head(site, weights).double(), prefix_mass(site, weights)
    assert rows.shape == (2, 3, 17 + registers, 17 + registers)
    for image, head, query in ((0, 0, 0), (1, 2, 5), (0, 1, 16 + registers)):
        by_hand = sum(rows[image, head, query, key] for key in range(1 + registers))
        assert mass[image, head, query] == pytest.approx(float(by_hand), rel=1e-6)
    assert mass.min() >= 0
    assert mass.max() <= 1 + 1e-6


def test_windows_have_no_prefix_tokens():
    module = timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        window_size=4,
        embed_dim=8,
        depths=(2, 1),
        num_heads=(2, 2),
        num_classes=3,
    )
    site, weights = pattern_of(load(module, sample=(32, 32), device="cpu"))
    assert (site.keys.count, site.heads) == (16, 2)
    assert torch.equal(prefix_mass(site, weights), torch.zeros(2, 2, 64))
    assert torch.allclose(by_head(site, weights).sum(-1), torch.ones(2, 2, 64))


def test_a_site_without_weights_is_refused():
    model = tiny_vit()
    site = model.site("blocks.1.ffn")
    with pytest.raises(BadValue, match=r"blocks\.1\.ffn holds no attention weights: read a site such as"):
        by_head(site, torch.zeros(1, 17, 96))
