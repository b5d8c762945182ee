"""How tensors of any layout are read: chains of moves are undone exactly, and odd layouts are refused."""

import pytest
import torch
from doubles import Calling
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vitscope.models.arrange import arranged, arranged_weights
from vitscope.models.layout import PREFIXES, Layout, of_map, pairs
from vitscope.models.vision_model import LAYOUTS, MAP, MAP_LAST, PATTERN, TOKENS, VECTOR
from vitscope.trace import trace

IMAGES, UNITS, ROWS, COLUMNS = 2, 6, 4, 6
NUMBERED = torch.arange(1, 1 + IMAGES * UNITS * ROWS * COLUMNS).view(IMAGES, UNITS, ROWS, COLUMNS).float()
CANONICAL = NUMBERED.flatten(2).mT
SPAN = ROWS * COLUMNS + PREFIXES


def layout_of(function) -> Layout | None:
    return trace(Calling(function), NUMBERED.clone()).calls[0].output.layout


def read(function):
    """What a tensor says after it was brought to "image place unit", and how that was done."""
    found = arranged(layout_of(function))
    tensor = function(NUMBERED.clone())
    return rearrange(found.derive(tensor) if found.derive else tensor, LAYOUTS[found.axes]), found


def windows(x):
    x = x.view(2, UNITS, 2, 2, 2, 3).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(-1, 6, UNITS)


PLAIN = {
    MAP: lambda x: x,
    MAP_LAST: lambda x: x.permute(0, 2, 3, 1),
    TOKENS: lambda x: x.flatten(2).mT,
}


@pytest.mark.parametrize("axes", PLAIN)
def test_plain_tensors_are_read_as_they_are(axes):
    got, found = read(PLAIN[axes])
    assert (found.axes, found.derive, found.units) == (axes, None, UNITS)
    assert torch.equal(got, CANONICAL)


def test_one_prefix_token_is_a_vector():
    got, found = read(lambda x: _joined(x, first=True)[:, 1])
    assert (found.axes, found.derive, found.grid, found.prefix_tokens) == (VECTOR, None, None, 1)
    assert got.shape == (IMAGES, 1, UNITS)


REGULAR = {
    "units second": lambda x: x.flatten(2),
    "images second": lambda x: x.flatten(2).permute(2, 0, 1),
    "images last": lambda x: x.permute(2, 3, 1, 0),
    "heads": lambda x: x.flatten(2).mT.unflatten(2, (3, 2)).transpose(1, 2),
    "merged heads": lambda x: x.flatten(2).mT.unflatten(2, (3, 2)).transpose(1, 2).flatten(0, 1),
    "windows": windows,
    "windows of heads": lambda x: windows(x).unflatten(2, (2, 3)).permute(0, 2, 1, 3),
    "shifted windows": lambda x: windows(x.roll((-1, 2), (2, 3))),
    "flipped": lambda x: x.flip(2, 3).flatten(2).mT,
    "columns first": lambda x: x.mT,
    "images side by side": lambda x: x.movedim(0, 2).flatten(2, 3),
    "padded and cut": lambda x: nn.functional.pad(x, (2, 1, 0, 3))[:, :, :-3, 2:-1],
    "an axis of one": lambda x: x[:, :, None],
    "any table": lambda x: x.flatten(2)[..., (torch.arange(24) * 7) % 24],
}


@pytest.mark.parametrize("name", REGULAR)
def test_regular_tensors_are_brought_back_exactly(name):
    got, found = read(REGULAR[name])
    assert torch.equal(got, CANONICAL)
    assert (found.grid, found.prefix_tokens, found.units) == ((ROWS, COLUMNS), 0, UNITS)


def test_units_are_counted_in_the_order_of_the_tensor():
    got, found = read(lambda x: x.flatten(2).mT.unflatten(2, (3, 2)).permute(0, 1, 3, 2))
    assert found.units == UNITS
    assert torch.equal(got, CANONICAL.unflatten(2, (3, 2)).mT.flatten(2))


def test_columns_pick_units():
    layout = layout_of(REGULAR["shifted windows"])
    found = arranged(layout, columns=torch.tensor([4, 0]))
    assert found.units == 2
    moved = REGULAR["shifted windows"](NUMBERED)
    assert torch.equal(found.derive(moved), CANONICAL[..., [4, 0]])
    assert arranged(layout_of(PLAIN[TOKENS]), columns=torch.arange(UNITS)).derive is None


def test_reading_passes_gradients_on():
    found = arranged(layout_of(REGULAR["shifted windows"]))
    pixels = NUMBERED.clone().requires_grad_()
    found.derive(REGULAR["shifted windows"](pixels))[1, 8, 5].backward()
    assert pixels.grad.nonzero().tolist() == [[1, 5, 1, 2]]


REGULAR_STEPS = {
    "roll": lambda x, n: x.roll((n, 1 - n), (1, 2)),
    "flip": lambda x, n: x.flip(1 + n % 2),
    "columns first": lambda x, _: x.transpose(1, 2),
    "units apart": lambda x, _: x.unflatten(-1, (2, -1)).flatten(-2),
    "table": lambda x, n: x[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(n))],
    "halves": lambda x, n: torch.cat([*x.chunk(2, 1 + n % 2)][::-1], 1 + n % 2),
    "stacked": lambda x, n: torch.stack([x, x.flip(1)], n % 5).select(n % 5, n % 2),
    "padded and cut": lambda x, _: nn.functional.pad(x, (0, 0, 1, 2))[:, :, 1:-2],
}
ENDS = {
    "map": lambda x: x,
    "tokens": lambda x: x.flatten(1, 2),
    "windows": lambda x: (
        x.unflatten(2, (2, -1)).unflatten(1, (2, -1)).transpose(2, 3).flatten(3, 4).flatten(0, 2)
    ),
    "heads": lambda x: x.flatten(1, 2).unflatten(-1, (3, 2)).transpose(1, 2),
    "merged heads": lambda x: x.flatten(1, 2).unflatten(-1, (3, 2)).transpose(1, 2).flatten(0, 1),
    "units first": lambda x: x.movedim(3, 0),
}


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(REGULAR_STEPS)), st.integers(0, 9)), max_size=6),
    st.sampled_from(sorted(ENDS)),
)
def test_any_chain_of_regular_moves_is_undone_exactly(steps, end):
    def chain(x):
        x = x.permute(0, 2, 3, 1)
        for name, number in steps:
            x = REGULAR_STEPS[name](x, number)
        return ENDS[end](x)

    got, found = read(chain)
    assert torch.equal(got, CANONICAL)
    assert (found.grid, found.prefix_tokens) == ((ROWS, COLUMNS), 0)


WILD_STEPS = {
    "permute": lambda x, n: x.permute(
        *torch.randperm(x.ndim, generator=torch.Generator().manual_seed(n)).tolist()
    ),
    "reshape": lambda x, n: x.reshape(
        -1, next(size for size in (2 + n % 5, 2, 3, 1) if x.numel() % size == 0)
    ),
    "split": lambda x, n: x.unflatten(n % x.ndim, (-1, 2 if x.shape[n % x.ndim] % 2 == 0 else 1)),
    "merge": lambda x, n: x.flatten(n % x.ndim, min(n % x.ndim + 1, x.ndim - 1)),
    "roll": lambda x, n: x.roll(n, n % x.ndim),
    "roll all": lambda x, n: x.roll(n),
    "cut": lambda x, n: x.narrow(n % x.ndim, 0, max(1, x.shape[n % x.ndim] - n % 2)),
    "steps": lambda x, n: x.index_select(n % x.ndim, torch.arange(0, x.shape[n % x.ndim], 2)),
    "double": lambda x, n: torch.cat([x, x], n % x.ndim) if x.numel() < 600 else x * 1,
    "pad": lambda x, n: nn.functional.pad(x, (0, n % 3)),
}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(WILD_STEPS)), st.integers(0, 20)), min_size=1, max_size=4))
def test_whatever_was_done_to_a_tensor_it_is_read_right_or_not_at_all(steps):
    def chain(x):
        for name, number in steps:
            x = WILD_STEPS[name](x, number)
        return x

    if arranged(layout_of(chain)) is None:
        return
    got, found = read(chain)
    assert got.shape == (IMAGES, found.prefix_tokens + found.grid[0] * found.grid[1], found.units)
    index = got.long() - 1
    image, unit, cell = index // (UNITS * 24), index // 24 % UNITS, index % 24
    assert torch.equal(image, torch.arange(IMAGES)[:, None, None].expand_as(image))
    assert torch.equal(unit, unit[:1, :1].expand_as(unit))
    rows, columns = (cell // COLUMNS)[0, :, 0].view(found.grid), (cell % COLUMNS)[0, :, 0].view(found.grid)
    assert torch.equal(cell, cell[:1, :, :1].expand_as(cell))
    assert (rows == rows[:, :1]).all()
    assert (rows.diff(dim=0) > 0).all()
    assert (columns == columns[:1]).all()
    assert (columns.diff(dim=1) > 0).all()


IRREGULAR = {
    "weights": lambda x: x.flatten(2).mT @ x.flatten(2),
    "a place missing": lambda x: x.flatten(2)[..., 1:],
    "a row missing": lambda x: x[:, :, torch.tensor([0, 2, 3])],
    "a place twice": lambda x: x.flatten(2)[..., [0, *range(24)]],
    "part of a window": lambda x: windows(x)[:, 1:],
    "one image": lambda x: x[:1],
    "padding, which has no units": lambda x: nn.functional.pad(x, (2, 1, 0, 3)),
    "units and places in one axis": lambda x: x.flatten(1, 2),
    "units moved by place": lambda x: torch.cat([x[:, :3].roll(1, 2), x[:, 3:]], 1),
    "copies": lambda x: x[:, None].expand(-1, 3, -1, -1, -1),
}


@pytest.mark.parametrize("name", IRREGULAR)
def test_irregular_tensors_are_not_read(name):
    assert arranged(layout_of(IRREGULAR[name])) is None
    assert arranged(None) is None


def test_every_second_cell_is_a_grid_of_its_own():
    got, found = read(lambda x: x[:, :, ::2, ::3].flatten(2).flip(-1))
    assert found.grid == (2, 2)
    assert torch.equal(got, NUMBERED[:, :, ::2, ::3].flatten(2).mT)


PARTS = {
    "a row": lambda x: x[:, :, 1],
    "the first row of two": lambda x: x[:, :, :2, :][:, :, :1].flatten(2),
    "two rows beside each other": lambda x: x[:, :, :2],
    "two columns far apart, of which one is left": lambda x: x[..., ::5][..., :1],
    "a cell": lambda x: x[:, :, 0, 0],
    "a corner": lambda x: x[:, :, 2:, 3:],
}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_the_image_is_no_grid(name):
    assert arranged(layout_of(PARTS[name])) is None


def test_what_strides_leave_of_a_small_grid_is_its_grid():
    for rows, columns in ((2, 2), (2, 4), (1, 4), (1, 1)):
        layout = of_map((2, 3, rows, columns), source=0).move(lambda numbers: numbers[:, :, ::2, ::2])
        assert arranged(layout).grid == (-(-rows // 2), -(-columns // 2))
        first = of_map((2, 3, rows, columns), source=0).move(lambda numbers: numbers[:, :, :1])
        found = arranged(first)
        assert found is None if rows > 1 else found.grid == (1, columns)


def _joined(x, *, first: bool):
    tokens, prefix = x.flatten(2).mT, torch.full((IMAGES, 2, UNITS), -1.0)
    return torch.cat([prefix, tokens] if first else [tokens, prefix], 1)


@pytest.mark.parametrize("first", [True, False])
def test_prefix_tokens_come_first_wherever_they_were_joined(first):
    got, found = read(lambda x: _joined(x, first=first))
    assert (found.prefix_tokens, found.grid) == (2, (ROWS, COLUMNS))
    assert (got[:, :2] == -1).all()
    assert torch.equal(got[:, 2:], CANONICAL)
    assert (found.derive is None) == first


def test_prefix_tokens_alone_are_places_too():
    got, found = read(lambda x: _joined(x, first=True)[:, :2])
    assert (found.prefix_tokens, found.grid, got.shape) == (2, None, (IMAGES, 2, UNITS))


def weights_of(function, heads: int = 3):
    """Layouts of scores whose values tell query, key and head, and the scores brought to their axes."""

    def scores(x):
        q = function(x).unflatten(-1, (heads, -1)).transpose(-3, -2)
        return q @ q.mT

    found = arranged_weights(layout_of(scores))
    numbers = (
        torch.arange(IMAGES * ROWS * COLUMNS).view(IMAGES, 1, ROWS, COLUMNS).expand(-1, UNITS, -1, -1) + 1
    )
    place = function(numbers.float())[..., :1].unsqueeze(-3)
    told = place * 1000 + place.mT
    told = told.expand(*told.shape[:-3], heads, *told.shape[-2:]) + torch.arange(heads).view(-1, 1, 1) / 10
    return found, (found.derive(told) if found.derive else told).double()


def test_weights_over_all_places_have_no_table():
    found, got = weights_of(PLAIN[TOKENS])
    assert (found.axes, found.units, found.derive) == (PATTERN, 3 * 24, None)
    assert (found.keys.grid, found.keys.prefix_tokens, found.keys.table) == ((ROWS, COLUMNS), 0, None)
    assert got.shape == (IMAGES, 3, 24, 24)


@pytest.mark.parametrize("name", ["windows", "shifted windows"])
def test_weights_in_windows_have_a_table_of_keys(name):
    found, got = weights_of(REGULAR[name])
    assert (found.grid, found.units, found.keys.grid) == ((ROWS, COLUMNS), 3 * 6, (ROWS, COLUMNS))
    table = found.keys.table
    assert table.shape == (24, 6)
    for image in range(IMAGES):
        query = torch.arange(24)[:, None] + 1 + image * 24
        told = query * 1000.0 + table + 1 + image * 24
        expected = torch.stack([told.double() + head / 10 for head in range(3)])
        assert (got[image] - expected).abs().max() < 0.05


def test_keys_over_the_edge_are_no_places():
    def padded(x):
        return windows(nn.functional.pad(x[..., :4], (0, 2)))

    numbered = torch.rand(2, UNITS, ROWS, 4)
    module = Calling(lambda x: (y := windows(nn.functional.pad(x, (0, 2)))) @ y.mT)
    found = arranged_weights(trace(module, numbered).calls[0].output.layout)
    assert found.grid == (ROWS, 4)
    assert found.keys.table[0].tolist() == [0, 1, 2, 4, 5, 6]
    assert found.keys.table[3].tolist() == [3, -1, -1, 7, -1, -1]
    assert padded(NUMBERED).shape == (8, 6, UNITS)


def test_sub_sampled_keys_have_a_grid_of_their_own():
    def scores(x):
        few = nn.functional.conv2d(x, torch.ones(UNITS, 1, 2, 2), stride=2, groups=UNITS)
        return (x.flatten(2).mT.unflatten(2, (2, 3)).transpose(1, 2)) @ few.flatten(2).unflatten(1, (2, 3))

    found = arranged_weights(layout_of(scores))
    assert (found.grid, found.units, found.derive) == ((ROWS, COLUMNS), 2 * 6, None)
    assert (found.keys.grid, found.keys.table) == ((2, 3), None)


def test_weights_of_strided_keys_and_a_prefix_token_first():
    query = of_map((2, 3, 4, 6), source=0).move(lambda numbers: numbers.flatten(2).mT)
    prefix = torch.tensor([[25], [25 + SPAN]], dtype=torch.int32)[:, :, None].expand(2, 1, 3)
    cells = query.place.view(2, 4, 6, 3)[:, ::2, ::2].flatten(1, 2)
    key = Layout((4, 6), torch.cat([cells, prefix], 1), query.unit[:, :7], 0)
    found = arranged_weights(pairs(query, key, source=1))
    assert (found.keys.grid, found.keys.prefix_tokens) == ((2, 3), 1)
    assert found.keys.table.tolist() == [[1, 2, 3, 4, 5, 6, 0]] * 24


def test_merged_heads_of_weights_are_split():
    def scores(x):
        q = x.flatten(2).mT.unflatten(2, (3, 2)).transpose(1, 2).flatten(0, 1)
        return q @ q.mT

    found = arranged_weights(layout_of(scores))
    assert (found.units, found.derive.split, found.keys.table) == (3 * 24, 3, None)
    told = torch.arange(6.0).view(6, 1, 1).expand(6, 24, 24)
    assert found.derive(told)[:, :, 5, 7].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_what_is_no_weights_is_not_read_as_such():
    assert arranged_weights(layout_of(PLAIN[TOKENS])) is None
    assert arranged_weights(None) is None
