"""Where heads look, and rollout, against loops in float64; what rollout cannot be done for is refused."""

import pytest
import timm
import torch

import vitscope as vs
from vitscope.errors import BadValue, Unsuited
from vitscope.flow import attention_view, rolled, rolling_sites, rollout, spread
from vitscope.meters.attention import by_head
from vitscope.models import load
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit

PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
SITE = "blocks.1.attn.pattern"


@pytest.fixture(scope="module")
def vit():
    return tiny_vit(reg_tokens=2)


@pytest.fixture(scope="module")
def windows():
    facts = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": (2, 1), "num_heads": (2, 2)}
    module = timm.create_model("swin_tiny_patch4_window7_224", num_classes=3, **facts)
    return load(module, sample=(32, 32), device="cpu")


def some_layers(count=3, tokens=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.rand(2, tokens, tokens, generator=draw, dtype=torch.float64).softmax(-1) for _ in range(count)
    ]


def slowly(layers, residual):
    """Level by level, one query and one key after another."""
    count = len(layers[0])
    levels = [[[float(query == key) for key in range(count)] for query in range(count)]]
    for layer in layers:
        step = [
            [float(layer[q, k]) + (float(q == k) if residual else 0) for k in range(count)]
            for q in range(count)
        ]
        step = [[value / sum(row) for value in row] for row in step]
        before = levels[-1]
        levels.append(
            [
                [sum(step[q][m] * before[m][k] for m in range(count)) for k in range(count)]
                for q in range(count)
            ]
        )
    return torch.tensor(levels, dtype=torch.float64)


@pytest.mark.parametrize("residual", [True, False])
def test_rolled_is_the_recursion(residual):
    layers = some_layers()
    found = rolled(layers, residual=residual)
    assert torch.allclose(found[:, 1], slowly([layer[1] for layer in layers], residual), atol=1e-14)
    assert torch.allclose(found.sum(-1), torch.ones(4, 2, 6, dtype=torch.float64))
    assert found.min() >= 0


def test_one_layer_is_half_attention_and_half_itself():
    (layer,) = some_layers(1)
    assert torch.allclose(rolled([layer])[1], (layer + torch.eye(6)) / 2)
    assert torch.equal(rolled([layer], residual=False)[1], layer)


def test_a_token_keeps_half_of_itself_in_every_block():
    own = rolled(some_layers(5))[5].diagonal(dim1=-2, dim2=-1)
    assert own.min() >= 0.5**5


def test_rollout_follows_a_permutation_of_the_tokens():
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    moved = [layer[:, order][:, :, order] for layer in some_layers()]
    assert torch.allclose(rolled(moved), rolled(some_layers())[:, :, order][..., order], atol=1e-14)


def test_nothing_to_roll_out():
    with pytest.raises(BadValue, match="over at least one block"):
        rolled([])


def test_rollout_of_a_model_averages_its_heads(vit):
    found = rollout(vit, PIXELS)
    sites = rolling_sites(vit)
    weights = read(vit, PIXELS, sites)
    layers = [by_head(site, weights[site.name])[0].double().mean(0) for site in sites]
    assert found.shape == (4, 2, 19, 19)
    assert torch.allclose(found[:, 0].double(), slowly(layers, True), atol=1e-6)
    assert not found.requires_grad
    assert vs.rollout is rollout


def test_a_view_is_what_cls_attends_to(vit):
    site = vit.site(SITE)
    weights = read(vit, PIXELS, [site])[SITE]
    found, rows = attention_view(site, weights), by_head(site, weights)
    assert found.shape == (2, 3, 4, 4)
    assert found[1, 2, 3, 1] == rows[1, 2, 0, 3 + 3 * 4 + 1]
    assert torch.allclose(found.sum((-1, -2)) + rows[:, :, 0, :3].sum(-1), torch.ones(2, 3))


def test_without_cls_a_view_is_the_mean_over_queries():
    model = tiny_vit(class_token=False, global_pool="avg")
    site = model.site(SITE)
    weights = read(model, PIXELS, [site])[SITE]
    found = attention_view(site, weights)
    by_hand = sum(by_head(site, weights)[0, 1, query, 6] for query in range(16)) / 16
    assert found[0, 1, 1, 2] == pytest.approx(float(by_hand), rel=1e-5)


def test_windows_lie_where_they_lie(windows):
    site = windows.site(SITE)
    weights = read(windows, PIXELS, [site])[SITE]
    rows, table = by_head(site, weights)[0, 1], site.keys.table
    expected = torch.zeros(64, 64)
    for query in range(64):
        for key in range(rows.shape[1]):
            if table[query, key] >= 0:
                expected[query, table[query, key]] += rows[query, key]
    assert torch.allclose(spread(site, weights)[0, 1], expected)
    assert torch.allclose(attention_view(site, weights)[0, 1].flatten(), expected.mean(0), atol=1e-6)


def test_what_cannot_be_rolled_out(windows):
    with pytest.raises(Unsuited, match=r"has no attention to roll out\. Give a model such as vit_tiny"):
        rollout(tiny_cnn(), PIXELS)
    with pytest.raises(Unsuited, match=r"at blocks\.2\.attn\.pattern queries and keys are not the tokens"):
        rollout(windows, PIXELS)
    with pytest.raises(BadValue, match="holds no attention weights"):
        attention_view(windows.site("blocks.1"), torch.zeros(1, 64, 8))
