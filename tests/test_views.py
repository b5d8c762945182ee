"""Filters and views against loops in float64: sums, black patches, occlusion, and the paper's recursion."""

import numpy as np
import pytest
import torch

import vitscope as vs
from vitscope.errors import BadValue, UnknownAddress, Unsuited
from vitscope.flow import rolled_heads, rolling_sites
from vitscope.meters.attention import by_head
from vitscope.models.vision_model import Preprocessing
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit
from vitscope.views import displayed, global_view, head_of, patch_filters

SIDE, GRID = 8, 4
PIXELS = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(6), dtype=torch.float64)


@pytest.fixture(scope="module")
def vit():
    model = tiny_vit().to("cpu", torch.float64)
    model.preprocessing = Preprocessing((32, 32), 32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    return model


@pytest.fixture(scope="module")
def filters(vit):
    return patch_filters(vit)


def patch(images, place):
    row, column = divmod(place, GRID)
    return images[..., row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]


def test_a_view_sums_to_the_embedding(vit, filters):
    views = filters.views(PIXELS, [0, 7, 23])
    embedded = read(vit, PIXELS, [vit.site("embed")])["embed"]
    position = vit.module.pos_embed[0].detach()
    for image, place, which, unit in ((0, 0, 0, 0), (1, 6, 1, 7), (0, 15, 2, 23)):
        total = patch(views[image, which], place).sum() + filters.bias[unit] + position[1 + place, unit]
        assert float(embedded[image, 1 + place, unit]) == pytest.approx(float(total), abs=1e-10)
    assert torch.allclose(filters.sums(PIXELS)[:, 6, 7], patch(views[:, 1], 6).sum((1, 2, 3)))
    sizes = patch(views[:, 1], 6).flatten(1).norm(dim=1)
    assert torch.allclose(filters.sizes(PIXELS)[:, 6, 7], sizes)
    every = filters.views(PIXELS, range(24))
    product = (patch(every[0], 6) * patch(every[1], 6)).sum()
    assert filters.products(PIXELS[:1], PIXELS[1:])[0, 6] == pytest.approx(float(product))


def test_black_is_minus_the_filter_white_is_the_filter_and_grey_is_nothing(filters):
    black, grey, white = (filters.views(torch.full_like(PIXELS, value), [5])[0, 0] for value in (0, 0.5, 1))
    for place in (0, 9):
        assert torch.allclose(patch(black, place), -filters.kernel[5])
        assert torch.allclose(patch(white, place), filters.kernel[5])
    assert torch.allclose(grey, torch.zeros(3, 32, 32, dtype=torch.float64))


def test_a_changed_patch_changes_its_own_view_only_and_moved_patches_move_theirs(filters):
    hidden = PIXELS.clone()
    patch(hidden, 6).zero_()
    before, after = filters.views(PIXELS, [3])[:, 0], filters.views(hidden, [3])[:, 0]
    changed = [place for place in range(16) if not torch.equal(patch(before, place), patch(after, place))]
    assert changed == [6]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0)).tolist()
    moved = PIXELS.clone()
    for place, source in enumerate(order):
        patch(moved, place).copy_(patch(PIXELS, source))
    views = filters.views(moved, [3])[:, 0]
    assert all(torch.equal(patch(views, at), patch(before, source)) for at, source in enumerate(order))


def slow_views(vit, filters, unit, head, residual):
    """Level by level and token by token, as the paper's diagram writes it: a picture for every token."""
    weights = read(vit, PIXELS, rolling_sites(vit))
    own = filters.views(PIXELS, [unit])[0, 0]
    now = [torch.zeros_like(own)]  # CLS sees nothing at level 0
    for place in range(16):
        alone = torch.zeros_like(own)
        patch(alone, place).copy_(patch(own, place))
        now.append(alone)
    levels = [now]
    for site in rolling_sites(vit):
        rows = by_head(site, weights[site.name])[0]
        rows = rows[head] if head is not None else rows.mean(0)
        if residual:
            rows = (rows + torch.eye(17)) / 2
        now = [sum(rows[query, key] * levels[-1][key] for key in range(17)) for query in range(17)]
        levels.append(now)
    return levels


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("heads", "head"), [("mean", None), ("own", 1)])
def test_the_closed_form_is_the_papers_recursion(vit, filters, residual, heads, head):
    unit = 9  # of 24 units and 3 heads: the second head's
    levels = slow_views(vit, filters, unit, head, residual)
    for level, place, token in (
        (0, "1,2", 7),
        (1, "1,2", 7),
        (1, "cls", 0),
        (3, "cls", 0),
        (3, "center", 11),
    ):
        found = global_view(vit, PIXELS, unit, level=level, place=place, heads=heads, residual=residual)
        assert torch.allclose(found[0], levels[level][token], atol=1e-12)


def test_a_later_view_adds_up_to_what_flowed_of_the_embedding(vit, filters):
    flow = rolled_heads(vit, PIXELS)[2, :, head_of(9, 24, 3), 7, 1:]
    embedded = read(vit, PIXELS, [vit.site("embed")])["embed"]
    bare = embedded[:, 1:, 9] - filters.bias[9] - vit.module.pos_embed[0, 1:, 9]
    found = global_view(vit, PIXELS, 9, level=2, place="1,2", heads="own")
    assert torch.allclose(found.sum((1, 2, 3)), (flow * bare).sum(-1))


def test_components_are_those_of_the_covariance(filters):
    found, parts = filters.components(4)
    flat = filters.kernel.flatten(1).numpy()
    values, vectors = np.linalg.eigh(np.cov(flat.T))
    assert np.allclose(parts.numpy(), values[::-1][:4] / values.sum())
    for index in range(4):
        assert abs(found[index].flatten().numpy() @ vectors[:, -1 - index]) == pytest.approx(1, abs=1e-6)


def test_what_is_displayed_is_positive_and_at_most_one(filters):
    shown = displayed(filters.views(PIXELS, [0])[:, 0])
    assert shown.shape == (2, 32, 32, 3)
    assert shown.min() == 0
    assert shown.max() <= 1
    assert torch.equal(displayed(torch.zeros(3, 2, 2)), torch.zeros(2, 2, 3))
    rising = torch.zeros(3, 20, 10)
    rising[1, 10:] = torch.arange(1.0, 101).view(10, 10)
    expected = (rising[1] / np.quantile(np.arange(1, 101), 0.98)).clamp(max=1)  # zeros do not count
    assert torch.allclose(displayed(rising)[..., 1], expected)


def test_what_has_no_filters_and_what_is_not_there(vit, filters):
    assert (len(filters), filters.grid, vs.patch_filters) == (24, (4, 4), patch_filters)
    with pytest.raises(Unsuited, match="does not cut images into patches that do not overlap"):
        patch_filters(tiny_cnn())
    with pytest.raises(BadValue, match=r"no filter 24: there are 24 \(0\.\.23\)"):
        filters.views(PIXELS, [3, 24])
    with pytest.raises(BadValue, match=r"images are \(32, 32\), as the model wants them, not \(16, 32\)"):
        filters.sums(PIXELS[:, :, :16])
    with pytest.raises(BadValue, match=r"no level 4: .* has 3 blocks, so levels are 0 to 3"):
        global_view(vit, PIXELS, 0, level=4)
    with pytest.raises(BadValue, match="heads is 'mean' or 'own', not 'all'"):
        global_view(vit, PIXELS, 0, level=1, heads="all")
    with pytest.raises(UnknownAddress, match="no place '4,0'"):
        global_view(vit, PIXELS, 0, level=1, place="4,0")
