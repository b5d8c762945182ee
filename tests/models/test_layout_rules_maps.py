"""What becomes of layouts under maps of maps, linear maps of patches, and prefix tokens joined to others."""

import pytest
import torch
from numbered import NUMBERED, SPAN, carried, layout_of, tokens
from torch.nn import functional

from vitscope.models.layout import PREFIXES, of_map
from vitscope.models.layout_rules import RESAMPLINGS

WEIGHTS = torch.rand(5, 3, 3, 3)
MAPS = {
    "conv2d": lambda x: functional.conv2d(x, WEIGHTS, padding=1, stride=2),
    "max_pool2d": lambda x: functional.max_pool2d(x, 2),
    "avg_pool2d": lambda x: functional.avg_pool2d(x, (2, 1)),
    "adaptive_avg_pool2d": lambda x: functional.adaptive_avg_pool2d(x, (2, 3)),
    "adaptive_max_pool2d": lambda x: functional.adaptive_max_pool2d(x, (2, 3)),
    "lp_pool2d": lambda x: functional.lp_pool2d(x, 2.0, 2),
    "interpolate": lambda x: functional.interpolate(x, scale_factor=2),
    "conv_transpose2d": lambda x: functional.conv_transpose2d(x, torch.ones(3, 4, 2, 2), stride=2),
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_give_maps_whose_cells_are_places(name):
    with torch.no_grad():
        shape = tuple(MAPS[name](NUMBERED).shape)
    layout, expected = layout_of(MAPS[name]), of_map(shape, source=0)
    assert layout.grid == shape[2:]
    assert torch.equal(layout.place, expected.place)
    assert torch.equal(layout.unit, expected.unit)
    assert layout_of(lambda x: MAPS[name](x.flip(2))) is None
    assert layout_of(lambda x: MAPS[name](x.mT)) is None


def test_every_resampling_is_tested():
    assert {*RESAMPLINGS} - {*MAPS} == {"upsample"}  # the old name of interpolate


def test_a_convolution_reads_a_padded_map_as_the_map():
    layout = layout_of(lambda x: functional.conv2d(functional.pad(x, (1, 2, 3, 1)), WEIGHTS))
    expected = of_map((2, 5, 6, 7), source=0)
    assert layout.grid == (6, 7)
    assert torch.equal(layout.place, expected.place)


def test_heads_may_share_the_first_axis_of_a_map():
    layout = layout_of(
        lambda x: functional.conv2d(x[:, :, None].transpose(1, 2).reshape(2, 3, 4, 6), WEIGHTS)
    )
    assert torch.equal(layout.place, of_map((2, 5, 4 - 2, 6 - 2), source=0).place)
    split = layout_of(lambda x: functional.conv2d(x.reshape(6, 1, 4, 6), torch.ones(2, 1, 1, 1)))
    whole = of_map((2, 6, 4, 6), source=0)
    assert torch.equal(split.place.reshape(2, 6, 4, 6), whole.place)
    assert torch.equal(split.unit.reshape(2, 6, 4, 6), whole.unit)


def test_linear_maps_are_of_the_units_of_a_place():
    layout = layout_of(lambda x: functional.linear(x.permute(0, 2, 3, 1).roll(1, 1), torch.ones(7, 3)))
    place, _ = carried(lambda x: x.permute(0, 2, 3, 1).roll(1, 1)[..., :1].expand(-1, -1, -1, 7))
    assert torch.equal(layout.place.long(), place)
    assert torch.equal(layout.unit, torch.arange(1, 8, dtype=torch.int32).expand(2, 4, 6, 7))


def test_patches_embedded_by_a_linear_map_lie_on_the_grid_of_patches():
    def embedded(x):
        patches = x.view(2, 3, 2, 2, 2, 3).permute(0, 2, 4, 3, 5, 1).flatten(3)
        return functional.linear(patches.flatten(1, 2), torch.ones(5, 18))

    layout = layout_of(embedded)
    assert layout.grid == (2, 2)
    assert torch.equal(layout.place, of_map((2, 5, 2, 2), source=0).place.flatten(2).mT)


def test_merged_patches_lie_on_a_coarser_grid_also_where_they_were_padded():
    def merged(x):
        x = functional.pad(x[:, :, :3, :5].permute(0, 2, 3, 1), (0, 0, 0, 1, 0, 1))
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return functional.linear(torch.cat(parts, -1), torch.ones(5, 12))

    def odd(x):
        return functional.conv2d(x[:, :, :3, :5].contiguous(), torch.ones(3, 3, 1, 1))

    assert layout_of(odd) is None  # a part of a map is no map of its own
    whole = layout_of(merged, torch.rand(2, 3, 3, 5))
    assert whole.grid == (2, 3)
    assert torch.equal(whole.place, of_map((2, 5, 2, 3), source=0).place.permute(0, 2, 3, 1))


CLS = torch.rand(1, 1, 3)


def _slots(layout):
    """Of the first image: the number of each row; prefix tokens count from 24, padding is -1."""
    first, second = layout.place[:2]
    assert torch.equal(second, torch.where(first > 0, first + SPAN, 0))
    return (layout.place[0, :, 0] - 1).tolist()


def test_prefix_tokens_are_numbered_as_they_come():
    def joined(x):
        return torch.cat([CLS.expand(2, -1, -1), tokens(x)], dim=1)

    assert _slots(layout_of(joined)) == [24, *range(24)]
    assert _slots(layout_of(lambda x: torch.cat((tokens(x), CLS.expand(2, -1, -1)), 1))) == [*range(24), 24]
    registers = torch.rand(2, 3, 3)
    later = layout_of(lambda x: torch.cat([joined(x)[:, :1], registers, joined(x)[:, 1:]], dim=1))
    assert _slots(later) == [24, 25, 26, 27, *range(24)]
    assert _slots(layout_of(lambda x: torch.cat([CLS.expand(2, -1, -1), joined(x)[:, 1:]], dim=1))) == [
        24,
        *range(24),
    ]


def test_padding_is_no_prefix_token_where_tokens_are_joined():
    def padded(x):
        return functional.pad(tokens(x), (0, 0, 0, 2))

    one = layout_of(lambda x: torch.cat([CLS.expand(2, -1, -1), padded(x)], dim=1))
    assert _slots(one) == [24, *range(24), -1, -1]
    assert _slots(layout_of(lambda x: torch.cat([padded(x)[:, :12], padded(x)[:, 12:]], 1))) == [
        *range(24),
        -1,
        -1,
    ]


def test_as_many_prefix_tokens_as_can_be_told_apart():
    def joined(count):
        return lambda x: torch.cat([torch.zeros(2, count, 3), tokens(x)], dim=1)

    assert _slots(layout_of(joined(PREFIXES))) == [*range(24, 24 + PREFIXES), *range(24)]
    assert 0 in layout_of(joined(PREFIXES + 1)).place


def test_tokens_of_several_grids_side_by_side_have_no_layout():
    assert layout_of(lambda x: torch.cat([tokens(x), tokens(functional.avg_pool2d(x, 2))], 1)) is None


def test_units_of_several_maps_are_counted_through():
    def both(x):
        one, other = (functional.linear(tokens(x), torch.rand(n, 3)) for n in (4, 2))
        return torch.cat([other, one], -1)

    assert layout_of(both).unit[0, 0].tolist() == [1, 2, 3, 4, 5, 6]
