"""Layouts: grids and places by themselves, without any model."""

import pytest
import torch

from vitscope.models.layout import (
    PREFIXES,
    Layout,
    coarser,
    fresh,
    is_constant,
    is_map,
    maps_like,
    of_map,
    pairs,
    tensors_in,
    without_margins,
)

MAP = of_map((2, 3, 4, 6), source=0)
SPAN = 24 + PREFIXES
TOKENS = MAP.move(lambda numbers: numbers.flatten(2).mT)


def test_a_map_counts_its_cells_in_raster_order_and_its_images_by_the_span():
    assert (MAP.grid, MAP.cells, MAP.span, MAP.shape) == ((4, 6), 24, SPAN, (2, 3, 4, 6))
    assert MAP.place[1, 2, 3, 5] == 1 + SPAN + 3 * 6 + 5
    assert MAP.unit[1, 2, 3, 5] == 3
    assert MAP.lies_alike == (False, True, False, False)
    assert TOKENS.lies_alike == (False, False, True)


def test_padding_and_prefix_tokens_are_told_apart():
    padded = MAP.move(lambda numbers: torch.nn.functional.pad(numbers, (0, 1)))
    assert (MAP.has_padding, padded.has_padding) == (False, True)
    assert (MAP.has_cells, MAP.is_nowhere) == (True, False)
    prefix = Layout((4, 6), torch.tensor([[1 + 24], [1 + SPAN + 25]]), torch.ones(2, 1), 0)
    assert (prefix.has_cells, prefix.has_padding, prefix.is_nowhere) == (False, False, False)
    nowhere = MAP.move(torch.zeros_like)
    assert (nowhere.has_cells, nowhere.is_nowhere) == (False, True)


def test_the_image_of_every_element():
    padded = TOKENS.move(lambda numbers: torch.nn.functional.pad(numbers, (0, 0, 1, 0)))
    assert padded.image.max() == 1
    assert torch.equal(TOKENS.image[..., 0], torch.tensor([[0] * 24, [1] * 24]))


def test_prefix_tokens_are_the_same_on_another_grid():
    place = torch.tensor([[0, 1 + 24], [1 + SPAN + 26, 0]], dtype=torch.int32)
    other = Layout((4, 6), place, torch.ones_like(place), 0).on((2, 2))
    assert other.grid == (2, 2)
    assert other.place.tolist() == [[0, 1 + 4], [1 + (4 + PREFIXES) + 4 + 2, 0]]


def test_places_are_compared_where_both_lie_somewhere():
    turned = MAP.move(lambda numbers: numbers.flip(3))
    padded = MAP.move(lambda numbers: torch.nn.functional.pad(numbers[..., :4], (0, 2)))
    assert MAP.same_places(MAP)
    assert MAP.same_places(of_map((2, 3, 4, 6), source=9))
    assert MAP.same_places(padded)
    assert padded.same_places(MAP)
    assert not MAP.same_places(turned)
    assert not MAP.same_places(TOKENS)
    assert not MAP.same_places(of_map((2, 3, 4, 5), source=0))


def test_new_units_need_places_of_their_own():
    made = TOKENS.with_units(5, source=7)
    assert (made.shape, made.source) == ((2, 24, 5), 7)
    assert made.unit[1, 3].tolist() == [1, 2, 3, 4, 5]
    assert torch.equal(made.place[..., 0], TOKENS.place[..., 0])
    assert MAP.with_units(5, source=7) is None
    assert pairs(TOKENS, TOKENS, source=0).with_units(5, source=7) is None


def test_fresh_units_are_counted_over_all_axes_without_places():
    place = TOKENS.place[..., :1, None].expand(2, 24, 3, 2)
    made = fresh((4, 6), place, source=3)
    assert made.unit[1, 20].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_pairs_have_the_place_of_the_query_and_the_key_as_unit():
    few = TOKENS.move(lambda numbers: numbers[:, ::5])
    found = pairs(TOKENS, few, source=4)
    assert (found.shape, found.grid, found.keys) == ((2, 24, 5), (4, 6), (4, 6))
    assert found.place[1, 7, 2] == 1 + SPAN + 7
    assert found.unit[1, 7].tolist() == [1, 6, 11, 16, 21]
    assert pairs(MAP, TOKENS, source=0) is None


def test_pairs_of_windows_broadcast_heads():
    query = TOKENS.move(lambda numbers: numbers.view(2, 1, 24, 3).expand(2, 4, 24, 3))
    assert pairs(query, query, source=0).shape == (2, 4, 24, 24)


CROSSED = {
    "the next image": lambda numbers: numbers.roll(1, 0),
    "all images at once": lambda numbers: numbers.flatten(0, 1)[None].expand(2, -1, -1),
    "one row of another": lambda numbers: torch.cat([numbers[:, 1:], numbers.roll(1, 0)[:, :1]], 1),
}


@pytest.mark.parametrize("name", CROSSED)
def test_queries_and_keys_of_several_images_are_no_pairs(name):
    crossed = TOKENS.move(CROSSED[name])
    assert pairs(TOKENS, crossed, source=0) is None
    assert pairs(crossed, TOKENS, source=0) is None


def test_padding_is_of_any_image():
    padded = TOKENS.move(lambda numbers: torch.nn.functional.pad(numbers, (0, 0, 0, 2)))
    assert pairs(padded, padded, source=0).shape == (2, 26, 26)
    windows = padded.move(lambda numbers: numbers.unflatten(1, (13, 2)).flatten(0, 1))
    assert pairs(windows, windows, source=0).shape == (26, 2, 2)


def test_same_keys():
    scores = pairs(TOKENS, TOKENS, source=0)
    turned = Layout(scores.grid, scores.place, scores.unit.flip(-1), 0, scores.keys)
    assert scores.same_keys(scores)
    assert scores.same_keys(pairs(TOKENS, TOKENS, source=1))
    assert not scores.same_keys(turned)


def test_maps_are_recognised():
    assert is_map(MAP)
    assert not is_map(TOKENS)
    assert not is_map(MAP.move(lambda numbers: numbers.flip(2)))
    assert not is_map(MAP.move(lambda numbers: numbers.permute(0, 2, 3, 1)))


def test_a_map_becomes_a_map_of_any_size():
    made = maps_like(MAP, (2, 7, 2, 3), source=5)
    assert (made.grid, made.source) == ((2, 3), 5)
    assert is_map(made)
    assert maps_like(TOKENS, (2, 7, 2, 3), source=5) is None
    assert maps_like(MAP.move(lambda numbers: numbers.flip(2)), (2, 7, 2, 3), source=5) is None


def test_maps_of_heads_that_share_an_axis_with_images_keep_both():
    merged = of_map((2, 6, 4, 6), source=0).move(lambda numbers: numbers.reshape(6, 2, 4, 6))
    made = maps_like(merged, (6, 5, 4, 6), source=1)
    whole = of_map((2, 15, 4, 6), source=1)
    assert torch.equal(made.place.reshape(2, 15, 4, 6), whole.place)
    assert torch.equal(made.unit.reshape(2, 15, 4, 6), whole.unit)


def test_margins_are_cut_off_and_nothing_else():
    padded = MAP.move(lambda numbers: torch.nn.functional.pad(numbers, (1, 2, 3, 0)))
    assert is_map(without_margins(padded))
    gap = MAP.move(lambda numbers: torch.nn.functional.pad(numbers[:, :, 1:], (1, 2)))
    assert without_margins(gap) is gap
    assert without_margins(TOKENS) is TOKENS


@pytest.mark.parametrize("numbers", [torch.arange(12).view(3, 4), torch.arange(4).expand(3, 4)])
def test_constant_axes(numbers):
    assert [is_constant(numbers, axis) for axis in (0, 1, -1)] == [numbers.stride(0) == 0, False, False]
    assert is_constant(numbers.clone()[:1], 0)
    assert is_constant(numbers[:, :1].expand(3, 5), 1)
    assert is_constant(numbers[:, :1].expand(3, 5).clone(), 1)


def _blocks(height: int, width: int, *, padded: tuple[int, int] = (0, 0)):
    """ "image block inside", the cells of the blocks of the grid, 0 where they reach over its edge."""
    place = torch.nn.functional.pad(MAP.place[:, 0], (0, padded[1], 0, padded[0]))
    cut = place.unfold(1, height, height).unfold(2, width, width)
    return cut.flatten(3).flatten(1, 2)


@pytest.mark.parametrize(("height", "width"), [(2, 2), (1, 2), (4, 2), (2, 6), (4, 3)])
def test_blocks_that_tile_the_grid_make_a_coarser_one(height, width):
    grid, place = coarser(MAP, _blocks(height, width))
    expected = of_map((2, 1, 4 // height, 6 // width), source=0)
    assert grid == expected.grid
    assert torch.equal(place, expected.place.flatten(1))


def test_blocks_may_reach_over_the_edge():
    grid, place = coarser(MAP, _blocks(3, 4, padded=(2, 2)))
    assert grid == (2, 2)
    assert torch.equal(place, of_map((2, 1, 2, 2), source=0).place.flatten(1))


MIXED = {
    "all places": _blocks(4, 6),
    "one place": _blocks(1, 1),
    "some blocks only": _blocks(2, 2)[:, :5],
    "shifted blocks": torch.roll(MAP.place[:, 0], 1, 2)
    .unfold(1, 2, 2)
    .unfold(2, 2, 2)
    .flatten(3)
    .flatten(1, 2),
    "cells far apart": MAP.place[:, 0].flatten(1).view(2, 2, 12).mT,
    "two images": _blocks(2, 2).permute(1, 2, 0).flatten(1),
    "prefix tokens": torch.cat([torch.full((2, 6, 1), 1 + 24), _blocks(2, 2)[..., 1:]], -1),
    "a block of padding": torch.cat([_blocks(2, 2)[:, :5], torch.zeros(2, 1, 4, dtype=torch.int32)], 1),
    "a cell twice and one missing": _blocks(2, 2)[..., [0, 1, 1, 3]],
}


@pytest.mark.parametrize("name", MIXED)
def test_what_is_not_blocks_of_a_grid_is_refused(name):
    assert coarser(MAP, MIXED[name]) is None


def test_tensors_are_found_in_nested_arguments():
    one, two, three = torch.zeros(3)
    found = [*tensors_in(([one, "x"], {"a": (two, 3), "b": three}))]
    assert all(ours is theirs for ours, theirs in zip(found, (one, two, three), strict=True))
