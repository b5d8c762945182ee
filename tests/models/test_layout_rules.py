"""What torch functions do to layouts, checked against elements that carry their own place and unit."""

import pytest
import torch
from doubles import Calling
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered import CELLS, COLUMNS, IMAGES, NUMBERED, RGB, ROWS, SPAN, assert_carried, layout_of, tokens
from torch import Tensor
from torch.nn import functional

from vitscope.models.layout import of_map
from vitscope.models.layout_rules import ALIASES, POINTWISE, REDUCTIONS, RULES
from vitscope.trace import trace


def windows(images: Tensor) -> Tensor:
    """ "(image window) row column unit", of windows 2 x 3, as shifted windows are cut."""
    x = images.permute(0, 2, 3, 1).view(IMAGES, 2, 2, 2, 3, RGB)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, 2, 3, RGB)


ORDER = torch.randperm(CELLS, generator=torch.Generator().manual_seed(1))
MASK = torch.arange(CELLS) % 5 != 2
MOVES = {
    "view": lambda x: x.view(2, 3, 2, 2, 6),
    "view to the same size": lambda x: x.view(-1, 24),
    "reshape": lambda x: x.permute(0, 3, 1, 2).reshape(2, 18, 4),
    "reshape_as": lambda x: x.mT.reshape_as(x),
    "view_as": lambda x: x.view_as(x),
    "flatten": lambda x: x.flatten(1, 2),
    "flatten heads": lambda x: tokens(x).unflatten(2, (3, 1)).transpose(1, 2).flatten(0, 1),
    "unflatten": lambda x: x.unflatten(-1, (2, 3)),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "permute with negative axes": lambda x: torch.permute(x, (0, -1, 1, -2)),
    "transpose": lambda x: x.transpose(1, -1),
    "transpose by name": lambda x: x.transpose(dim0=-2, dim1=1),
    "transpose in place": lambda x: x.clone().transpose_(1, 2),
    "movedim": lambda x: torch.movedim(x, 1, -1),
    "mT": lambda x: x.mT,
    "T": lambda x: x[0, 0].T,
    "swapaxes": lambda x: x.swapaxes(2, 3),
    "squeeze": lambda x: x[:, :1].squeeze(1),
    "unsqueeze": lambda x: x.unsqueeze(-2),
    "window": windows,
    "window back": lambda x: windows(x).view(2, 2, 2, 2, 3, 3).permute(0, 1, 3, 2, 4, 5).reshape(2, 4, 6, 3),
    "row": lambda x: x[:, :, 1],
    "steps": lambda x: x[:, :, ::2, 1::2],
    "steps by tuple": lambda x: x[(slice(None), ..., slice(0, 4, 3))],
    "ellipsis": lambda x: x[..., 2],
    "new axis": lambda x: x[:, None, ..., None, 1],
    "negative index": lambda x: x[:, -1, -2:],
    "table": lambda x: tokens(x)[:, ORDER],
    "two tables": lambda x: x[:, :, torch.tensor([0, 3])[:, None], torch.tensor([5, 1, 1])],
    "list": lambda x: x[:, [2, 0]],
    "mask": lambda x: tokens(x)[:, MASK],
    "unbind": lambda x: x.unbind(1)[2],
    "chunk": lambda x: tokens(x).chunk(3, dim=-1)[1],
    "chunk by name": lambda x: torch.chunk(x, chunks=2, dim=3)[1],
    "split": lambda x: x.split(2, dim=2)[1],
    "split with sizes": lambda x: x.split([1, 4, 1], dim=-1)[1],
    "tensor_split": lambda x: x.tensor_split((1, 5), dim=3)[2],
    "tensor_split by table": lambda x: x.tensor_split(torch.tensor([1, 5]), dim=3)[2],
    "narrow": lambda x: x.narrow(2, 1, 2),
    "select": lambda x: x.select(1, 2),
    "index_select": lambda x: x.index_select(3, torch.tensor([4, 0, 1])),
    "index_select by name": lambda x: torch.index_select(x, dim=2, index=torch.tensor([2, 1])),
    "cat": lambda x: torch.cat([x[:, :, 2:], x[:, :, :2]], dim=2),
    "cat of units": lambda x: torch.cat((x[:, 2:], x[:, :2]), 1),
    "stack": lambda x: torch.stack([x[:, 2], x[:, 0]], dim=1),
    "hstack": lambda x: torch.hstack([x[:, 1:], x[:, :1]]),
    "expand": lambda x: x[:, :, :1].expand(-1, -1, 5, -1),
    "expand_as": lambda x: x[:, :1].expand_as(x),
    "repeat": lambda x: x.repeat(1, 1, 2, 1),
    "tile": lambda x: x.tile((2, 1)),
    "repeat_interleave": lambda x: x.repeat_interleave(2, dim=-2),
    "repeat_interleave by table": lambda x: x.repeat_interleave(torch.tensor([1, 0, 2, 1]), dim=2),
    "roll": lambda x: x.roll((-1, 2), (2, 3)),
    "roll without axes": lambda x: x.roll(7),
    "roll by name": lambda x: torch.roll(x, shifts=1, dims=-1),
    "flip": lambda x: x.flip(-1, 2),
    "pad": lambda x: functional.pad(x, (1, 2, 0, 3)),
    "pad by name": lambda x: functional.pad(x, pad=(0, 0, 2, 0), mode="constant", value=0.0),
    "pad the other way": lambda x: functional.pad(x, (-1, 1)),
    "assign what lies there": lambda x: _assigned(x, (slice(None), slice(None), 1), x[:, :, 1]),
}


def _assigned(x, index, value):
    x = x.clone()
    x[index] = value
    return x


@pytest.mark.parametrize("name", MOVES)
def test_what_is_moved_takes_its_place_and_unit_along(name):
    assert_carried(layout_of(MOVES[name]), MOVES[name])


@pytest.mark.parametrize(
    "name", [name for name in MOVES if "table" not in name and name not in ("mask", "list")]
)
def test_without_weights_layouts_are_the_same(name):
    ours, theirs = layout_of(MOVES[name]), layout_of(MOVES[name], NUMBERED.to("meta"))
    assert theirs.place.device.type == "cpu"
    assert torch.equal(ours.place, theirs.place)
    assert torch.equal(ours.unit, theirs.unit)


STEPS = {
    "permute": lambda x, n: x.permute(*torch.randperm(x.ndim, generator=_draw(n)).tolist()),
    "reshape": lambda x, n: x.reshape(*_sizes(x, n)),
    "flatten": lambda x, n: x.flatten(n % x.ndim),
    "roll": lambda x, n: x.roll(n, n % x.ndim),
    "roll all": lambda x, n: x.roll(n),
    "flip": lambda x, n: x.flip(n % x.ndim),
    "chunk": lambda x, n: x.chunk(2, n % x.ndim)[0],
    "steps": lambda x, n: x.movedim(n % x.ndim, 0)[:: 1 + n % 2].movedim(0, n % x.ndim),
    "pad": lambda x, n: functional.pad(x, (n % 2, n % 3)),
    "stack": lambda x, n: torch.stack([x, x.flip(0)], n % x.ndim) if x.ndim < 6 else x + 0,
    "cat": lambda x, n: torch.cat([x, x.roll(1, 0)], n % x.ndim) if x.numel() < 500 else x * 1,
    "pick": lambda x, n: x.index_select(n % x.ndim, torch.tensor([-1 % x.shape[n % x.ndim], 0])),
}


def _draw(n):
    return torch.Generator().manual_seed(n)


def _sizes(x, n):
    """Sizes that a tensor of as many elements may have."""
    size = next(size for size in (2 + n % 4, 2, 3, 1) if x.numel() % size == 0)
    return (-1, size) if n % 2 else (size, -1)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(sorted(STEPS)), st.integers(0, 40)), min_size=1, max_size=6))
def test_any_chain_of_moves_is_followed_exactly(steps):
    def chain(x):
        for name, number in steps:
            x = STEPS[name](x, number)
        return x

    layout = layout_of(chain)
    if "cat" in dict(steps) and "pad" in dict(steps) and layout is not None:
        known = (
            layout.place <= SPAN * IMAGES
        )  # padding among tokens becomes a prefix token where it is joined
        assert bool(known.all())
    else:
        assert_carried(layout, chain)


NO_RULE = {
    "cumsum": lambda x: x.cumsum(2),
    "gather": lambda x: x.gather(2, torch.zeros(2, 3, 4, 6, dtype=torch.int64)),
    "sort": lambda x: x.sort(dim=2, descending=True)[0],
    "fft": lambda x: torch.fft.fft2(x).real,
    "take_along_dim": lambda x: torch.take_along_dim(x, torch.zeros(2, 3, 4, 6, dtype=torch.int64), 3),
    "rot90": lambda x: x[..., :4].rot90(1, (2, 3)),
    "einsum": lambda x: torch.einsum("burc->bruc", x),
    "unfold": lambda x: functional.unfold(x, 2),
    "pixel_shuffle": lambda x: functional.pixel_unshuffle(x, 2),
    "as_strided": lambda x: x.as_strided((2, 2), (1, 2)),
    "conv1d": lambda x: functional.conv1d(x.flatten(2), torch.ones(3, 3, 1)),
    "copy": lambda x: torch.zeros(2, 3, 4, 6).copy_(x.flip(2)),
    "complex": lambda x: torch.view_as_complex(x.view(2, 3, 4, 3, 2)),
}


@pytest.mark.parametrize("name", NO_RULE)
def test_nothing_is_said_about_functions_without_a_rule(name):
    assert name not in RULES
    assert layout_of(NO_RULE[name]) is None


REFUSED = {
    "an order that the image tells": lambda x: tokens(x)[:, tokens(x)[0, :, 0].argsort(descending=True)],
    "rows that the image tells": lambda x: x.index_select(2, x[0, 0, :, 0].argsort()),
    "a mask that the image tells": lambda x: tokens(x)[:, tokens(x)[0, :, 0] > 3],
    "places as a table": lambda x: torch.ones(400)[x.to(torch.int64)],
    "tokens sorted, of the type of others": lambda x: x.sort(dim=2)[0].double().type_as(x),
    "tokens sorted, to others": lambda x: x.sort(dim=2)[0].double().to(x),
    "into a tensor given": lambda x: torch.add(x.sort(dim=2)[0], 1, out=x.clone()),
    "assigned from elsewhere": lambda x: _assigned(x, (slice(None), slice(None), 1), x[:, :, 2]),
    "assigned in an unknown order": lambda x: _assigned(x, slice(None), x.sort(dim=2)[0]),
    "mean of all": lambda x: x.mean(),
    "mean without axes": lambda x: x.mean(dim=None, keepdim=True),
    "mean over images": lambda x: x.mean(0),
    "mean over all places": lambda x: x.mean((2, 3)),
    "mean over units": lambda x: x.mean(1),
    "mean by another name": lambda x: torch.mean(x, axis=3),
    "broadcast up": lambda x: x[:, :, :1] * torch.ones(4, 1),
    "sum of different places": lambda x: x.flip(2) + x.roll(1, 3),
    "difference of different places": lambda x: x - x.flip(2),
    "product of different places": lambda x: x * x.flip(2),
    "tokens mixed": lambda x: functional.linear(x.flatten(2), torch.ones(24, 24)),
    "tokens mixed from the left": lambda x: torch.ones(24, 24) @ tokens(x),
    "images mixed": lambda x: functional.linear(x.movedim(0, -1), torch.ones(2, 2)),
    "bits": lambda x: x.view(torch.float16),
    "where": lambda x: torch.where(x > -1)[2],
    "a view after its base changed": lambda x: _after(x.clone(), lambda base: base.mul_(2)),
    "a base after its view changed": lambda x: _base_after(x.clone()),
    "changed behind torch's back": lambda x: _after(x.clone(), lambda base: base.copy_(base.flip(2).clone())),
}


def _after(base, change):
    view = base.permute(0, 2, 3, 1)
    change(base)
    return view.contiguous()


def _base_after(base):
    base[:, :, 1].mul_(2)
    return base.contiguous()


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_certain_has_no_layout(name):
    assert layout_of(REFUSED[name]) is None


WEIGHT = torch.rand(3, generator=torch.Generator().manual_seed(2))
POINTWISE_CALLS = {
    "add": lambda x: 1 + x,
    "sub": lambda x: x.sub_(torch.ones(6)),
    "mul": lambda x: x * torch.ones(3, 1, 1),
    "div": lambda x: 1 / x,
    "pow": lambda x: 2**x,
    "lerp": lambda x: torch.lerp(x, x * 2, 0.5),
    "addcmul": lambda x: torch.addcmul(x, torch.ones(6), torch.ones(6)),
    "where": lambda x: torch.where(x > 3, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x > 5, 0),
    "maximum": lambda x: torch.maximum(x, torch.zeros(6)),
    "minimum": lambda x: torch.minimum(torch.zeros(6), x),
    "softmax": lambda x: x.softmax(dim=-1),
    "log_softmax": lambda x: functional.log_softmax(x, dim=1),
    "prelu": lambda x: functional.prelu(x, WEIGHT),
    "clamp": lambda x: x.clamp(min=0, max=9),
    "layer_norm": lambda x: functional.layer_norm(x, (6,)),
    "rms_norm": lambda x: functional.rms_norm(x, (4, 6)),
    "batch_norm": lambda x: functional.batch_norm(x, WEIGHT, WEIGHT),
    "group_norm": lambda x: functional.group_norm(x, 3),
    "instance_norm": lambda x: functional.instance_norm(x),
    "normalize": lambda x: functional.normalize(x, dim=1),
    "feature_dropout": lambda x: torch.feature_dropout(x, 0.5, True),
    "dropout2d": lambda x: functional.dropout2d(x, 0.5, True),
}


ALIAS_CALLS = {
    "to": lambda x: x.to(torch.float64),
    "type_as": lambda x: x.type_as(torch.ones(1, dtype=torch.float64)),
    "type": lambda x: x.type(torch.float64),
    "dropout": lambda x: functional.dropout(x, 0.5, True),
    "float": lambda x: x.to(torch.float64).float(),
    "half": lambda x: x.half(),
}


def _call(name):
    return lambda x: getattr(torch, name, None)(x) if hasattr(torch, name) else getattr(functional, name)(x)


@pytest.mark.parametrize("name", POINTWISE)
def test_functions_of_single_elements_keep_the_layout(name):
    call = POINTWISE_CALLS.get(name, _call(name))
    assert_carried(layout_of(lambda x: call(x.flip(2))), lambda x: x.flip(2))
    assert name in {op.name for op in trace(Calling(call), NUMBERED.clone()).ops}


@pytest.mark.parametrize("name", ALIASES)
def test_copies_keep_the_layout(name):
    call = ALIAS_CALLS.get(name, lambda x: getattr(x, name)())
    assert_carried(layout_of(lambda x: call(x.permute(0, 2, 1, 3))), lambda x: x.permute(0, 2, 1, 3))


def test_a_branch_added_to_its_stream_takes_the_places_of_the_stream():
    assert_carried(layout_of(lambda x: x + x.flip(2)), lambda x: x)
    assert_carried(layout_of(lambda x: x.roll(1, 3) + x), lambda x: x)
    assert_carried(layout_of(lambda x: x.add_(x.sort(dim=2)[0])), lambda x: x)


def test_padding_agrees_with_everything_and_gives_way():
    def padded(x):
        return functional.pad(x[..., :4], (0, 2))

    assert_carried(layout_of(lambda x: padded(x) + x * 2), lambda x: x)
    assert_carried(layout_of(lambda x: x * 2 + padded(x)), lambda x: x)


def test_weights_of_other_keys_do_not_add():
    def scores(x):
        return tokens(x) @ tokens(x).mT

    assert layout_of(scores).keys == (ROWS, COLUMNS)
    assert layout_of(lambda x: scores(x) + scores(x).flip(-1)) is None
    bias = torch.rand(24, 3)
    assert layout_of(lambda x: tokens(x) @ bias.mT + scores(x)).keys == (ROWS, COLUMNS)
    assert layout_of(lambda x: scores(x) + tokens(x) @ bias.mT).keys == (ROWS, COLUMNS)


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("keepdim", [False, True])
def test_sums_over_what_lies_at_one_place_keep_it(name, keepdim):
    def reduced(x):
        return getattr(x[:, :, None].expand(-1, -1, 5, -1, -1), name)(dim=2, keepdim=keepdim)

    assert_carried(layout_of(reduced), lambda x: x[:, :, None] if keepdim else x)


def test_means_over_blocks_lie_on_a_coarser_grid():
    layout = layout_of(lambda x: x.view(2, 3, 2, 2, 2, 3).mean((3, 5)))
    expected = of_map((2, 3, 2, 2), source=0)
    assert layout.grid == (2, 2)
    assert torch.equal(layout.place, expected.place)
    assert torch.equal(layout.unit, expected.unit)
