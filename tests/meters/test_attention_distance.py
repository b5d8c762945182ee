"""Attention distance against loops in float64, the values that geometry gives, and the laws of a meter."""

import hashlib
import math

import numpy as np
import pytest
import torch
from torch import nn

from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue
from vitscope.meters.attention_distance import AttentionDistance, distances, uniform_distance
from vitscope.meters.reading import Reading
from vitscope.models import load
from vitscope.models.vision_model import PATTERN, Keys, Site
from vitscope.passes import Pass, read_batches
from vitscope.tap import read
from vitscope.testing import tiny_vit

SITE = "blocks.1.attn.pattern"
METER = AttentionDistance()


def pattern(grid, *, prefix=0, heads=1, keys=None):
    keys = keys or Keys(grid, prefix)
    return Site(SITE, "a", PATTERN, heads * keys.count, grid=grid, prefix_tokens=prefix, keys=keys)


def batch_of(count, size=(32, 32), *, first=0):
    ids = tuple(hashlib.sha256(str(first + index).encode()).hexdigest()[:32] for index in range(count))
    pixels = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(first))
    return ImageBatch(ids, ids, pixels, torch.zeros(count, dtype=torch.int64))


def measured(site, weights, size, *, meter=METER, batches=1):
    """What the meter finds; weights "image head query key"."""
    state = meter.start([site])
    for number, part in enumerate(weights.chunk(batches)):
        flat = part.movedim(1, 2).flatten(2)
        state.read(Reading(site, flat, batch_of(len(part), size, first=100 * number)))
    return state.result()[site.name]


def by_hand(site, weights, size, *, renormalised=True):
    """The three statistics of every head in plain Python; weights "image head query key"."""
    (rows, columns), (down, across) = site.grid, site.keys.grid
    p = site.prefix_tokens

    def centre(cell, shape):
        row, column = divmod(cell, shape[1])
        return (row + 0.5) * size[0] / shape[0], (column + 0.5) * size[1] / shape[1]

    found = []
    for head in range(weights.shape[1]):
        images = []
        for image in weights[:, head].double():
            each = []
            for query in range(rows * columns):
                here, reach, kept, prefix = centre(query, (rows, columns)), 0.0, [], 0.0
                for key, weight in enumerate(image[p + query].tolist()):
                    place = key if site.keys.table is None else int(site.keys.table[p + query, key])
                    if 0 <= place < site.keys.prefix_tokens:
                        prefix += weight
                    if place < site.keys.prefix_tokens:
                        continue
                    reach += weight * math.dist(here, centre(place - site.keys.prefix_tokens, (down, across)))
                    kept.append(weight)
                total = sum(kept)
                shares = [weight / total for weight in kept if weight]
                bits = -sum(share * math.log2(share) for share in shares)
                each.append((reach / total if renormalised else reach, bits, prefix))
            images.append(np.mean(each, axis=0))
        error = np.std([one[0] for one in images], ddof=1) / math.sqrt(len(images))
        found.append((*np.mean(images, axis=0), error))
    return np.array(found).T


def assert_as_by_hand(found, expected):
    ours = (found.distance, found.entropy, found.prefix_mass, found.distance_error)
    for one, other, allowed in zip(ours, expected, (1e-6, 1e-6, 1e-6, 1e-4), strict=True):
        assert np.allclose(one, other, rtol=allowed, atol=1e-6)


def softmax(*shape, seed=0):
    return (3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(-1)


@pytest.mark.parametrize("renormalised", [True, False])
def test_every_head_is_what_loops_give(renormalised):
    site = pattern((3, 4), prefix=2, heads=2)
    weights = softmax(3, 2, 14, 14)
    meter = AttentionDistance(renormalised=renormalised)
    found = measured(site, weights, (30, 48), meter=meter)
    assert_as_by_hand(found, by_hand(site, weights, (30, 48), renormalised=renormalised))


def test_windows_and_padding_are_looked_up_in_the_table():
    table = torch.tensor([[0, 1, -1], [1, 0, -1], [2, 3, -1], [3, 2, 0]])
    site = pattern((2, 2), heads=2, keys=Keys((2, 2), 0, table))
    weights = softmax(2, 2, 4, 3)
    assert_as_by_hand(measured(site, weights, (20, 20)), by_hand(site, weights, (20, 20)))
    expected = [[0, 10, -1], [0, 10, -1], [0, 10, -1], [0, 10, math.hypot(10, 10)]]
    expected[1], expected[3] = [0, 10, -1], [0, 10, math.hypot(10, 10)]
    assert distances(site, (20, 20)).numpy() == pytest.approx(np.array(expected))


def test_sub_sampled_keys_lie_at_the_centres_of_their_cells():
    site = pattern((4, 4), heads=2, keys=Keys((2, 2)))
    weights = softmax(2, 2, 16, 4)
    assert_as_by_hand(measured(site, weights, (64, 64)), by_hand(site, weights, (64, 64)))
    assert distances(site, (64, 64))[0].tolist() == pytest.approx(
        [math.hypot(8, 8), math.hypot(8, 40), math.hypot(8, 40), math.hypot(40, 40)]
    )


@pytest.mark.parametrize(
    ("side", "patch", "expected"),
    [
        (14, 16, 116.492),
        (16, 14, 116.565),
        (7, 32, 115.503),
        (24, 16, 200.048),
        (12, 32, 199.506),
        (37, 14, 269.992),
    ],
)
def test_uniform_attention_has_the_distance_of_the_grid(side, patch, expected):
    site = pattern((side, side), prefix=1)
    assert uniform_distance(site, (side * patch, side * patch)) == pytest.approx(expected, abs=5e-4)


def test_uniform_weights_have_that_distance_and_the_whole_entropy():
    site = pattern((14, 14), prefix=1)
    found = measured(site, torch.full((2, 1, 197, 197), 1 / 197), (224, 224))
    assert found.distance[0] == pytest.approx(116.492, abs=1e-3)
    assert found.uniform == pytest.approx(116.492, abs=1e-3)
    assert found.entropy[0] == pytest.approx(math.log2(196), rel=1e-6)
    assert found.prefix_mass[0] == pytest.approx(1 / 197, rel=1e-6)


def test_heads_that_look_at_one_place_have_its_distance():
    grid = (14, 14)
    cells = torch.arange(196)
    neighbour = torch.where(cells % 14 == 13, cells, cells + 1)
    corner = torch.zeros_like(cells)
    weights = torch.stack([torch.eye(196)[to] for to in (cells, neighbour, corner)])[None]
    found = measured(pattern(grid, heads=3), weights, (224, 224))
    assert found.distance[0] == 0
    assert found.distance[1] == pytest.approx(16 * 13 / 14)
    assert found.distance.max() <= 16 * math.hypot(13, 13)
    assert found.entropy.tolist() == pytest.approx([0, 0, 0], abs=1e-6)


def test_the_farthest_that_a_patch_can_look_is_the_diagonal():
    away = distances(pattern((14, 14)), (224, 224))
    assert float(away.max()) == pytest.approx(294.2, abs=0.05)


def test_a_row_that_is_all_on_cls_has_no_distance_and_counts_as_none():
    site = pattern((2, 2), prefix=1)
    weights = torch.full((2, 1, 5, 5), 0.2)
    weights[:, :, 1] = torch.tensor([1.0, 0, 0, 0, 0])
    weights[1, :, :] = torch.tensor([1.0, 0, 0, 0, 0])
    found = measured(site, weights, (20, 20))
    assert found.distance[0] == pytest.approx(float(distances(site, (20, 20))[1:, 1:].mean()), rel=1e-6)
    assert found.images.tolist() == [1]
    assert found.prefix_mass[0] == pytest.approx((0.4 + 1) / 2, rel=1e-6)
    assert np.isnan(found.distance_error[0])


def test_what_is_not_finite_counts_in_no_mean():
    site = pattern((2, 2))
    weights = softmax(3, 1, 4, 4)
    weights[1] = torch.nan
    found = measured(site, weights, (20, 20))
    assert_as_by_hand(found, by_hand(site, weights[[0, 2]], (20, 20)))
    assert found.images.tolist() == [2]


def test_permuted_heads_are_permuted_results():
    site, order = pattern((3, 3), prefix=1, heads=4), [2, 0, 3, 1]
    weights = softmax(2, 4, 10, 10)
    one, other = (measured(site, each, (30, 30)) for each in (weights, weights[:, order]))
    assert np.array_equal(one.distance[order], other.distance)
    assert np.array_equal(one.entropy[order], other.entropy)


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_batches_change_nothing(batches):
    site = pattern((3, 3), prefix=1, heads=2)
    weights = softmax(5, 2, 10, 10)
    whole, parts = measured(site, weights, (30, 30)), measured(site, weights, (30, 30), batches=batches)
    assert np.allclose(whole.distance, parts.distance, rtol=1e-12)
    assert np.allclose(whole.distance_error, parts.distance_error, rtol=1e-6)


def sharp(**settings):
    """A model whose heads prefer some places to others."""
    model = tiny_vit(**settings)
    for block in model.module.blocks:
        block.attn.qkv.weight.data[:48] *= 4
    return model


def states_of(model, counts):
    return [
        read_batches(model, [batch_of(count, first=10 * number)], [METER])["attention_distance"]
        for number, count in enumerate(counts)
    ]


def equal(one, other):
    ours, theirs = one.arrays(), other.arrays()
    return ours.keys() == theirs.keys() and all(
        np.allclose(ours[name], theirs[name], rtol=1e-12) for name in ours
    )


def test_states_merge_in_any_order_and_are_files():
    model = tiny_vit()
    a, b, c = states_of(model, (2, 1, 3))
    assert equal(a.merge(b).merge(c), c.merge(b.merge(a)))
    empty = METER.start(METER.sites(model.sites))
    assert equal(empty.merge(a), a)
    again = METER.load(METER.sites(model.sites), a.merge(b).arrays())
    assert equal(again.merge(c), a.merge(b).merge(c))
    assert equal(METER.load(METER.sites(model.sites), empty.arrays()).merge(a), a)
    assert np.isnan(empty.result()[SITE].distance).all()


def test_images_of_another_size_are_refused():
    site = pattern((2, 2))
    states = [METER.start([site]) for _ in range(2)]
    for state, size in zip(states, ((20, 20), (40, 40)), strict=True):
        state.read(Reading(site, torch.full((1, 4, 4), 0.25), batch_of(1, size)))
    with pytest.raises(BadValue, match=r"in pixels of images of \(20, 20\), and these are \(40, 40\)"):
        states[0].read(Reading(site, torch.full((1, 4, 4), 0.25), batch_of(1, (40, 40))))
    with pytest.raises(BadValue, match=r"in pixels of images of \(20, 20\), others of \(40, 40\)"):
        states[0].merge(states[1])


def test_a_site_without_weights_is_refused():
    with pytest.raises(BadValue, match=r"blocks\.0\.ffn holds no attention weights between places"):
        AttentionDistance("blocks.*.ffn").sites(tiny_vit().sites)


def weights_of(vit, tokens, block):
    """The weights of one attention of a timm ViT, by its own projection: "image head query key"."""
    attn = vit.blocks[block].attn
    q, k, _ = attn.qkv(vit.blocks[block].norm1(tokens)).unflatten(-1, (3, attn.num_heads, -1)).unbind(2)
    scores = torch.einsum("iqhd,ikhd->ihqk", q, k) * attn.scale
    return scores.softmax(-1)


@pytest.mark.parametrize("registers", [0, 2])
def test_a_model_with_fused_attention_is_measured_as_its_own_projections_say(registers):
    """A known defect of tools: fused attention hands out nothing, and hooks on it read nothing or zeros."""
    model = sharp(reg_tokens=registers)
    vit, batch = model.module, batch_of(3)
    assert vit.blocks[1].attn.fused_attn
    found = read_batches(model, [batch], [METER])["attention_distance"].result()
    with torch.no_grad():
        tokens = vit._pos_embed(vit.patch_embed(model.preprocess(batch.pixels)))
        for block in range(3):
            name = f"blocks.{block}.attn.pattern"
            expected = by_hand(model.site(name), weights_of(vit, tokens, block), (32, 32))
            assert np.allclose(found[name].distance, expected[0], rtol=1e-5)
            assert np.allclose(found[name].prefix_mass, expected[2], rtol=1e-4)
            assert abs(expected[0] / uniform_distance(model.site(name), (32, 32)) - 1).max() > 0.02
            tokens = vit.blocks[block](tokens)


def test_fused_and_open_attention_are_the_same():
    fused, open_ = sharp(), sharp()
    for block in open_.module.blocks:
        block.attn.fused_attn = False
    open_ = load(open_.module, sample=(32, 32), device="cpu")
    results = [
        read_batches(model, [batch_of(2)], [METER])["attention_distance"].result() for model in (fused, open_)
    ]
    assert fused.site(SITE).recomputed
    assert not open_.site(SITE).recomputed
    for name in results[0]:
        assert np.allclose(results[0][name].distance, results[1][name].distance, rtol=1e-5)
        assert np.allclose(results[0][name].entropy, results[1][name].entropy, rtol=1e-4)


def test_rows_are_queries_and_sum_to_one():
    """A known defect of tools: attention normalised, or averaged, along the wrong axis."""
    model = sharp()
    site = model.site(SITE)
    weights = read(model, batch_of(2).pixels, [site])[SITE].unflatten(-1, (3, 17)).movedim(1, 2)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 3, 17), atol=1e-5)
    assert not torch.allclose(weights.sum(-2), torch.ones(2, 3, 17), atol=1e-2)
    right, wrong = (measured(site, each, (32, 32)) for each in (weights, weights.mT))
    assert np.allclose(right.distance, by_hand(site, weights, (32, 32))[0])
    assert not np.allclose(right.distance, wrong.distance, rtol=1e-2)


def test_no_hook_stays_whether_the_pass_ends_or_fails():
    """A known defect of tools: hooks left behind in the model."""
    model = tiny_vit()
    read_batches(model, [batch_of(1)], [METER])
    failing = Pass(model, [METER])
    failing.states["attention_distance"].sizes[SITE] = (1, 1)
    with failing.reading() as run, pytest.raises(BadValue, match="in pixels of images"):
        run(batch_of(1))
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    assert not any(getattr(part, hook) for part in model.module.modules() for hook in hooks)
    assert not any("forward" in vars(part) for part in model.module.modules())


def test_tokens_are_weighed_within_their_own_image():
    """A known defect of tools: the images of a batch leak into one another."""
    model = sharp()
    alone = [read_batches(model, [batch_of(1, first=10 * i)], [METER]) for i in range(2)]
    mean = np.mean([one["attention_distance"].result()[SITE].distance for one in alone], axis=0)
    both = ImageBatch(
        *(batch_of(1).ids + batch_of(1, first=10).ids for _ in range(2)),
        torch.cat([batch_of(1).pixels, batch_of(1, first=10).pixels]),
        torch.zeros(2, dtype=torch.int64),
    )
    together = read_batches(model, [both], [METER])["attention_distance"].result()[SITE].distance
    assert np.allclose(together, mean, rtol=1e-6)


def test_a_model_without_attention_has_no_such_site():
    from vitscope.errors import UnknownSite

    model = load(nn.Sequential(nn.Conv2d(3, 4, 3)), sample=(8, 8), device="cpu")
    with pytest.raises(UnknownSite, match="no site 'blocks"):
        METER.sites(model.sites)
